"""What OpenAI's released 124M weights are known to say; needs GPTWO_PRETRAINED, a directory that holds them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import gptwo

pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.skipif(
        "GPTWO_PRETRAINED" not in os.environ,
        reason="needs GPTWO_PRETRAINED, the directory of OpenAI's 124M weights with their tokenizer",
    ),
]


@pytest.fixture(scope="module")
def gpt2() -> Iterator[gptwo.LanguageModel]:
    with gptwo.load(os.environ["GPTWO_PRETRAINED"]) as model:
        yield model


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "text"),
    [
        ("long long ago, I was", 10, " a young man who had been raised in a family"),
        (
            "Hello, I'm a language model,",
            22,
            " not a programming language. I'm a language model. I'm a language model. I'm a language model",
        ),
    ],
)
def test_greedy_text_is_the_known_one(gpt2: gptwo.LanguageModel, prompt: str, max_tokens: int, text: str) -> None:
    assert gpt2.generate(prompt, gptwo.SamplingParams(temperature=0, max_tokens=max_tokens)).text == text


def test_beam_search_finds_the_known_text(gpt2: gptwo.LanguageModel) -> None:
    found = gpt2.generate("long long ago, I was", gptwo.BeamParams(num_beams=3, max_tokens=10))
    assert found.text == " in the middle of a fight with a man who"


def test_the_likeliest_next_tokens_are_the_known_ones(gpt2: gptwo.LanguageModel) -> None:
    top = gpt2.top("long long ago, I was a boy, I love", k=5)
    assert [text for text, _, _ in top] == [" you", " my", " the", " to", " it"]
    assert [round(100 * share, 2) for _, _, share in top] == pytest.approx([20.24, 10.99, 4.46, 3.41, 3.24], abs=0.02)


def test_george_is_followed_by_presidents(gpt2: gptwo.LanguageModel) -> None:
    likeliest = [text for text, _, _ in gpt2.top("George", k=10)]
    assert {" Washington", " W", " H"} <= set(likeliest)


def test_lambada_accuracy_of_the_last_token_is_the_published_one(
    gpt2: gptwo.LanguageModel, shared_data: os.PathLike[str]
) -> None:
    """46.67% over all passages of OpenAI's variant; here the first 300, within three standard deviations."""
    import itertools
    import json
    from pathlib import Path

    assert gpt2.tokenizer is not None
    hits = 0
    with (Path(shared_data) / "eval" / "lambada_test.jsonl").open() as lines:
        for line in itertools.islice(lines, 300):
            *context, last = gpt2.tokenizer.encode(json.loads(line)["text"])
            hits += gpt2.top(context, k=1)[0][1] == last
    assert abs(hits / 300 - 0.4667) < 3 * (0.4667 * 0.5333 / 300) ** 0.5
