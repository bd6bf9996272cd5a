"""Evaluation against plain float32 computations with transformers' GPT-2 on the same text and data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import gptwo
from gptwo.evaluation import Choice, lambada, perplexity
from gptwo.evaluation.choices import choose

TEXT = "First Citizen: Before we proceed any further, hear me speak. All: Speak, speak. We know't! é 😀 " * 12


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path):
    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def lm(tiny_checkpoint: Path) -> gptwo.LanguageModel:
    return gptwo.load(tiny_checkpoint, weights="f32", threads=1)


def strided(model, ids: list[int], positions: int, stride: int) -> float:
    """The perplexity of transformers' guide: labels of -100 where a token was predicted in the window before."""
    nats, count, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + positions, len(ids))
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, : -(end - previous)] = -100
        with torch.inference_mode():
            loss = model(window, labels=labels).loss
        predicted = int((labels[:, 1:] != -100).sum())  # the model shifts labels by one
        nats, count, previous = nats + float(loss) * predicted, count + predicted, end
        if end == len(ids):
            break
    return math.exp(nats / count)


@pytest.mark.parametrize("stride", [1, 16, 32, 48, 63])
def test_perplexity_is_that_of_transformers_guide(lm, model, stride: int) -> None:
    ids = lm.tokenizer.encode(TEXT)
    assert len(ids) > 3 * 64
    found = perplexity(lm, TEXT, stride=stride)
    assert found.tokens == len(ids) - 1
    assert found.perplexity == pytest.approx(strided(model, ids, 64, stride), abs=1e-3)


def test_windows_end_to_end_predict_every_token_as_a_training_loss_does(lm, model) -> None:
    ids = lm.tokenizer.encode(TEXT)
    nats = 0.0
    for begin in range(0, len(ids) - 1, 64):
        inputs, targets = ids[begin : begin + 64], ids[begin + 1 : begin + 65]
        with torch.inference_mode():
            logits = model(torch.tensor([inputs])).logits[0, : len(targets)]
        nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum"))
    found = perplexity(lm, TEXT, stride=64)
    assert found.perplexity == pytest.approx(math.exp(nats / (len(ids) - 1)), abs=1e-3)


def total(model, context: list[int], ending: list[int]) -> tuple[float, list[bool]]:
    """The log-probability of an ending, and whether each of its tokens is the likeliest."""
    ids = [*context, *ending][-65:]
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)[-len(ending) :]
    greedy = [int(row.argmax()) == token for row, token in zip(logprobs, ending, strict=True)]
    return sum(float(row[token]) for row, token in zip(logprobs, ending, strict=True)), greedy


PASSAGES = [
    "Before we proceed any further, hear me speak.",
    "All: Speak, speak.",
    "We know't! We know't! " * 8 + "Citizen",
    "é 😀 further, hear me",
]


def test_lambada_is_that_of_a_plain_computation(lm, model) -> None:
    found = lambada(lm, PASSAGES)
    encode = lm.tokenizer.encode
    results = []
    for passage in PASSAGES:
        context = encode(passage.rpartition(" ")[0])
        results.append(total(model, context, encode(passage)[len(context) :]))
    assert found.perplexity == pytest.approx(math.exp(-sum(logprob for logprob, _ in results) / 4), rel=1e-4)
    assert found.accuracy == sum(all(greedy) for _, greedy in results) / 4
    assert found.last_token_accuracy == sum(greedy[-1] for _, greedy in results) / 4
    assert found.cut == 1


def test_choices_are_those_of_a_plain_computation(lm, model) -> None:
    encode = lm.tokenizer.encode
    endings = (" speak.", " we know't!", " further, hear me", " é")
    chosen = []
    for context in PASSAGES:
        before = encode(context)
        totals = [total(model, before, encode(context + ending)[len(before) :])[0] for ending in endings]
        means = [value / (len(ending) - 1) for value, ending in zip(totals, endings, strict=True)]
        chosen.append((totals.index(max(totals)), means.index(max(means))))
    found = choose(lm, [Choice(context, endings, best) for context, (best, _) in zip(PASSAGES, chosen, strict=True)])
    assert found.accuracy == 1.0
    found = choose(lm, [Choice(context, endings, best) for context, (_, best) in zip(PASSAGES, chosen, strict=True)])
    assert found.accuracy_norm == 1.0
