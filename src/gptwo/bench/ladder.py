"""Our optimisations, one at a time: the same model, the same prompt, each rung with one thing more than the one below.

Every rung makes the same number of tokens after the same prompt, greedily; its figure is the whole time, the prompt's
too, for each new token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from gptwo.bench.measures import append
from gptwo.bench.timing import Times, turn_by_turn
from gptwo.checkpoint import Checkpoint
from gptwo.decoder.native import NativeDecoder, Weights
from gptwo.decoder.protocol import Decoder, Floats, Integers
from gptwo.engine import Engine
from gptwo.sampling import SamplingParams

DRAFTS = 8
SAMPLED = 12  # lengths at which the rung that recomputes everything is measured


@dataclass(frozen=True)
class Rung:
    """One step of the ladder."""

    name: str
    weights: str = "f32"
    threads: int = 1
    cache: bool = True
    last_only: bool = True
    """Compute logits of the last position only."""
    speculate: int = 0
    """Tokens that are drafted from the text itself and checked in one step."""


@dataclass(frozen=True)
class Climbed:
    """A rung and its time: seconds for each new token."""

    rung: Rung
    times: Times
    note: str = ""


def rungs(threads: int, *, speculation: bool) -> list[Rung]:
    """The ladder, from the bottom.

    threads: from the rung of threads on; with one thread that rung is left out. speculation: whether the engine can.
    """
    found = [
        Rung("recompute everything", cache=False, last_only=False),
        Rung("cache keys and values", last_only=False),
        Rung("last position's logits only"),
    ]
    if threads > 1:
        found.append(Rung(f"{threads} threads", threads=threads))
    for weights in ("bf16", "int8", "int4"):
        found.append(Rung(f"{weights} weights", weights=weights, threads=threads))
    if speculation:
        found.append(replace(found[-1], name="speculation", speculate=DRAFTS))
    return found


def can_speculate() -> bool:
    """Whether requests have the parameter `speculate`."""
    return "speculate" in SamplingParams.__dataclass_fields__


def climb(
    checkpoint: Checkpoint,
    ladder: Sequence[Rung],
    prompt_ids: Sequence[int],
    tokens: int,
    repetitions: int,
    *,
    done: Callable[[Rung], None] = lambda rung: None,
) -> list[Climbed]:
    """Measure every rung, turn by turn.

    The rung that recomputes everything is measured at SAMPLED lengths, evenly spread over those that it would meet, for
    all of them would take minutes.
    """
    decoders: dict[tuple[str, int], Decoder] = {}
    for rung in ladder:
        key = (rung.weights, rung.threads)
        if key not in decoders:
            weights = cast(Weights, rung.weights)
            decoders[key] = NativeDecoder(checkpoint.config, checkpoint.tensors, weights=weights, threads=rung.threads)
    tasks = {rung: _task(rung, decoders[rung.weights, rung.threads], prompt_ids, tokens) for rung in ladder}
    times = turn_by_turn(tasks, repetitions, done=done)
    return [Climbed(rung, times[rung], _note(rung, tokens)) for rung in ladder]


def _note(rung: Rung, tokens: int) -> str:
    if not rung.cache:
        return f"mean of {min(SAMPLED, tokens)} of the {tokens} steps"
    return f"up to {rung.speculate} drafts a step; the gain depends on the text" if rung.speculate else ""


def _task(rung: Rung, decoder: Decoder, prompt_ids: Sequence[int], tokens: int) -> Callable[[], float]:
    if rung.speculate:
        return lambda: _through_engine(decoder, prompt_ids, tokens, rung.speculate)
    if rung.cache:
        return lambda: _with_cache(decoder, prompt_ids, tokens, all_rows=not rung.last_only)
    return lambda: _recomputing(decoder, prompt_ids, tokens)


def _recomputing(decoder: Decoder, prompt_ids: Sequence[int], tokens: int) -> float:
    """Seconds of a step that runs the whole text so far and computes the logits of all its positions, on average."""
    ids: Integers = np.resize(np.asarray(prompt_ids, dtype=np.int64), len(prompt_ids) + tokens)
    lengths = np.linspace(len(prompt_ids), len(ids) - 1, min(SAMPLED, tokens)).round().astype(int).tolist()
    start = time.perf_counter()
    for length in lengths:
        sequence = decoder.open()
        try:
            _all_rows(decoder, sequence, ids[:length])
        finally:
            decoder.close(sequence)
    return (time.perf_counter() - start) / len(lengths)


def _with_cache(decoder: Decoder, prompt_ids: Sequence[int], tokens: int, *, all_rows: bool) -> float:
    ids: Integers = np.asarray(prompt_ids, dtype=np.int64)
    sequence = decoder.open()
    try:
        start = time.perf_counter()
        for _ in range(tokens):
            logits = _all_rows(decoder, sequence, ids) if all_rows else append(decoder, [sequence], [ids])
            ids = logits[-1:].argmax(axis=1)
        return (time.perf_counter() - start) / tokens
    finally:
        decoder.close(sequence)


def _all_rows(decoder: Decoder, sequence: int, ids: Integers) -> Floats:
    start = decoder.length(sequence)
    order = np.arange(len(ids))
    return decoder.forward(ids, np.full(len(ids), sequence, dtype=np.int64), start + order, order)


def _through_engine(decoder: Decoder, prompt_ids: Sequence[int], tokens: int, drafts: int) -> float:
    engine = Engine(decoder)
    more: Mapping[str, Any] = {"speculate": drafts} if drafts else {}
    engine.add(prompt_ids, SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=tokens, **more))
    start = time.perf_counter()
    while engine.has_work():
        engine.step()
    seconds = time.perf_counter() - start
    engine.clear_prefixes()
    return seconds / tokens


def ladder_lines(climbed: Sequence[Climbed]) -> list[str]:
    """One line for each rung: its time, what it gains on the one below, and on the first."""
    lines = []
    wide = max(len(step.rung.name) for step in climbed)
    first = climbed[0].times.minimum
    before = first
    for step in climbed:
        now = step.times.minimum
        words = f"{step.rung.name:<{wide}}  {1e3 * now:8.2f} ms/token  {before / now:5.2f}x  {first / now:6.1f}x in all"
        lines.append(words + (f"  ({step.note})" if step.note else ""))
        before = now
    return lines


def ladder_json(climbed: Sequence[Climbed]) -> list[dict[str, Any]]:
    """The ladder for JSON."""
    return [
        {
            "rung": step.rung.name,
            "weights": step.rung.weights,
            "threads": step.rung.threads,
            "ms": 1e3 * step.times.minimum,
            "ms_median": 1e3 * step.times.median,
            "note": step.note or None,
        }
        for step in climbed
    ]
