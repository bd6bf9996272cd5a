"""Beam search against transformers' `generate(num_beams=..., do_sample=False)`: the same texts and the same scores.

The models are tiny and random, with weights large enough for peaked distributions, and their stop tokens are among the
likely ones, so that beams end early and at different lengths. They compute in float64, so that a difference is one of
rules and not of rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from gptwo.sampling import BeamParams  # noqa: E402
from gptwo.sampling.beam import BeamSearch, Hypothesis  # noqa: E402
from gptwo.sampling.processors import Logits  # noqa: E402

# The last ones tell rarer mistakes apart: where `False` and "never" bound the running beams differently, where several
# stop tokens crowd the candidates, where a text is pushed out by a better one.
SEEDS = (*range(64), 82, 101, 119, 198, 200, 224, 285, 313, 315, 316, 338, 532, 628, 647, 823, 2495)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small only lose by sharing work, and lose much where threads are scarce."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Setting:
    """A model and a search, drawn from a seed."""

    model: Any
    prompt: list[int]
    stop_ids: list[int]
    bad_words: list[list[int]]
    max_length: int
    params: BeamParams

    @classmethod
    def drawn(cls, seed: int) -> Setting:
        random = np.random.default_rng(seed)
        vocab_size = int(random.integers(20, 61))
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=64,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=float(random.choice([0.2, 0.35, 0.5])),
            bos_token_id=None,
            eos_token_id=None,
        )
        model = transformers.GPT2LMHeadModel(config).eval().double()
        prompt = random.integers(vocab_size, size=int(random.integers(1, 7))).tolist()
        with torch.no_grad():
            text = torch.from_numpy(random.integers(vocab_size, size=(1, 40)))
            likely = model(text).logits[0].softmax(-1).mean(0).argsort(descending=True).tolist()
        num_beams = int(random.integers(2, 6))
        max_length = int(random.choice([1, 2, 4, 8, 16, 24]))
        plain = bool(random.integers(2))  # half of the searches without processors
        return cls(
            model=model,
            prompt=prompt,
            stop_ids=[likely[i] for i in random.choice(5, size=int(random.integers(1, 5)), replace=False)],
            bad_words=[] if plain else [[likely[7]], [likely[8], likely[9]]],
            max_length=max_length,
            params=BeamParams(
                max_tokens=max_length,
                num_beams=num_beams,
                length_penalty=float(random.choice([-1.0, -0.3, 0.0, 0.5, 1.0, 2.0])),
                early_stopping=[True, False, "never"][random.integers(3)],
                num_return_sequences=num_beams if random.integers(2) else int(random.integers(1, num_beams + 1)),
                repetition_penalty=1.0 if plain else float(random.choice([0.8, 1.0, 1.3])),
                no_repeat_ngram_size=0 if plain else int(random.choice([0, 2, 3])),
                min_tokens=0 if plain else int(random.integers(0, min(4, max_length) + 1)),
            ),
        )

    def logits(self, rows: list[list[int]]) -> Logits:
        """What follows each of some texts of the same length: float32 (R, V)."""
        with torch.no_grad():
            return self.model(torch.tensor(rows)).logits[:, -1].float().numpy()

    def ours(self) -> list[Hypothesis]:
        vocab_size = self.model.config.vocab_size
        search = BeamSearch(self.params, self.prompt, self.stop_ids, self.bad_words, vocab_size, self.max_length)
        rows = [self.prompt]
        while not search.done:
            rows = [[*rows[row], token] for row, token in search.advance(self.logits(rows))]
        return search.best()

    def theirs(self) -> list[tuple[tuple[int, ...], float]]:
        params = self.params
        prompt = torch.tensor([self.prompt])
        config = transformers.GenerationConfig(
            do_sample=False,
            num_beams=params.num_beams,
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            num_return_sequences=params.num_return_sequences,
            max_new_tokens=self.max_length,
            min_new_tokens=params.min_tokens,
            repetition_penalty=params.repetition_penalty,
            no_repeat_ngram_size=params.no_repeat_ngram_size,
            bad_words_ids=self.bad_words or None,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
            return_dict_in_generate=True,
            output_scores=True,
        )
        output = self.model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        texts = [self.without_padding(row[len(self.prompt) :]) for row in output.sequences.tolist()]
        return list(zip(texts, output.sequences_scores.tolist(), strict=True))

    def without_padding(self, row: list[int]) -> tuple[int, ...]:
        ends = [place for place, token in enumerate(row) if token in self.stop_ids]
        return tuple(row[: ends[0] + 1] if ends else row)


@pytest.mark.parametrize("seed", SEEDS)
def test_beam_search_finds_the_texts_and_scores_of_transformers(seed):
    setting = Setting.drawn(seed)
    ours, theirs = setting.ours(), setting.theirs()
    assert [text.token_ids for text in ours] == [token_ids for token_ids, _ in theirs]
    # The relative part is for scores in the hundreds, which a negative length penalty makes: theirs are float32 sums.
    np.testing.assert_allclose([text.score for text in ours], [score for _, score in theirs], rtol=1e-6, atol=1e-4)
    for text in ours:
        assert text.finish_reason == ("stop" if text.token_ids[-1] in setting.stop_ids else "length")
