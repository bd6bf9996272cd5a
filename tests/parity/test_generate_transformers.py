"""Generation through the whole of gptwo gives the tokens of transformers' `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import gptwo
from gptwo.tokenizer import pad

VOCABULARY, EOS = 61, 7


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, gptwo.LanguageModel]]:
    """A small model with peaked distributions that ends texts now and then, in transformers and in gptwo."""
    torch.manual_seed(15)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=48, n_layer=3, n_head=4, bos_token_id=EOS, eos_token_id=EOS
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if ".ln_" not in name:
                parameter.normal_(0.0, 0.25)
    directory: Path = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(directory)
    with gptwo.load(str(directory)) as ours:
        yield theirs, ours


def prompts(count: int) -> list[list[int]]:
    random = np.random.default_rng(1)
    return [random.integers(VOCABULARY, size=int(random.integers(1, 40))).tolist() for _ in range(count)]


def generate(theirs: Any, prompt: list[int], **options: Any) -> Any:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        return theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            pad_token_id=EOS,
            return_dict_in_generate=True,
            **options,
        )


def until_end(ids: list[int]) -> tuple[int, ...]:
    """Without what transformers pads behind the end of text."""
    return tuple(ids[: ids.index(EOS) + 1] if EOS in ids else ids)


def test_64_greedy_tokens_of_20_prompts_are_those_of_transformers(models: tuple[Any, gptwo.LanguageModel]) -> None:
    theirs, ours = models
    completions = ours.generate(prompts(20), gptwo.SamplingParams(max_tokens=64, temperature=0, logprobs=2))
    found = [completion.token_ids for completion in completions]
    expected = [until_end(generate(theirs, p, max_new_tokens=64).sequences[0, len(p) :].tolist()) for p in prompts(20)]
    assert found == expected
    assert max(map(len, found)) == 64  # they did not all end at once
    gaps = [token.top[0].logprob - token.top[1].logprob for c in completions for token in c.logprobs or ()]
    assert min(gaps) > 1e-3  # no token was chosen by rounding


def test_a_left_padded_batch_of_transformers_says_what_each_prompt_says_here(
    models: tuple[Any, gptwo.LanguageModel],
) -> None:
    theirs, ours = models
    batch = prompts(8)
    ids, mask = (torch.from_numpy(array) for array in pad(batch, side="left", pad_id=EOS))
    with torch.inference_mode():
        rows = theirs.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=EOS, max_new_tokens=20)
    found = ours.generate(batch, gptwo.SamplingParams(max_tokens=20, temperature=0))
    assert [completion.token_ids for completion in found] == [until_end(row[ids.shape[1] :].tolist()) for row in rows]


@pytest.mark.parametrize("num_beams", [2, 3, 4, 5])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
def test_beams_and_their_scores_are_those_of_transformers(
    models: tuple[Any, gptwo.LanguageModel], num_beams: int, early_stopping: bool | str, length_penalty: float
) -> None:
    theirs, ours = models
    returned = 1 + (num_beams + int(length_penalty)) % num_beams
    params = gptwo.BeamParams(
        num_beams=num_beams,
        early_stopping=early_stopping,
        length_penalty=length_penalty,
        num_return_sequences=returned,
        max_tokens=16,
    )
    batch = prompts(2)
    for prompt, found in zip(batch, ours.generate(batch, params), strict=True):
        expected = generate(
            theirs,
            prompt,
            max_new_tokens=16,
            num_beams=num_beams,
            early_stopping=early_stopping,
            length_penalty=length_penalty,
            num_return_sequences=returned,
            output_scores=True,
        )
        sequences = [until_end(row[len(prompt) :].tolist()) for row in expected.sequences]
        assert [choice.token_ids for choice in found.choices] == sequences
        scores = [choice.score for choice in found.choices]
        assert scores == pytest.approx(expected.sequences_scores.tolist(), abs=1e-4, rel=1e-6)


@pytest.mark.parametrize(
    ("ours_says", "theirs_says"),
    [
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
        ({"min_tokens": 20}, {"min_new_tokens": 20}),
        ({"bad_words": [[3], [5, 9]]}, {"bad_words_ids": [[3], [5, 9]]}),
        ({"stop_token_ids": [11, 30]}, {"eos_token_id": [EOS, 11, 30]}),
    ],
)
def test_processors_change_greedy_text_as_they_do_in_transformers(
    models: tuple[Any, gptwo.LanguageModel], ours_says: dict[str, Any], theirs_says: dict[str, Any]
) -> None:
    theirs, ours = models
    for prompt in prompts(6):
        row = generate(theirs, prompt, max_new_tokens=40, **theirs_says).sequences[0, len(prompt) :].tolist()
        found = ours.generate(prompt, gptwo.SamplingParams(max_tokens=40, temperature=0, **ours_says)).token_ids
        assert found == tuple(row[: len(found)])
        assert set(row[len(found) :]) <= {EOS}


@pytest.mark.slow
def test_greedy_tokens_at_the_124m_shape_are_those_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    theirs.save_pretrained(tmp_path)
    prompt = np.random.default_rng(3).integers(50257, size=100).tolist()
    expected = theirs.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, 100), do_sample=False, max_new_tokens=64, pad_token_id=0
    )
    with gptwo.load(str(tmp_path)) as ours:
        found = ours.generate(prompt, gptwo.SamplingParams(max_tokens=64, temperature=0, ignore_eos=True))
    assert list(found.token_ids) == expected[0, 100:].tolist()
