"""How an exported model compares with the model here: logits, greedy tokens, size and speed.

T tokens, V vocabulary.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gptwo.checkpoint.stored import Floats

PROMPTS = 10
TOKENS = 32  # made after each prompt


class Runs(Protocol):
    """A model that reads one text at a time."""

    engine: str
    """What computes it, and its version."""

    def start(self, token_ids: Sequence[int]) -> Floats:
        """The logits (T, V) of a text from its beginning; the text before it is forgotten."""

    def step(self, token_id: int) -> Floats:
        """The logits (V,) after one more token."""


@dataclass(frozen=True)
class Comparison:
    """An exported model beside the reference, along the reference's greedy texts."""

    engine: str
    """What ran the exported model."""
    reference: str
    """What it was compared with."""
    prompts: int
    equal_texts: int
    """Prompts after which every greedy token is the same."""
    tokens: int
    """Greedy tokens of the reference."""
    equal_tokens: int
    """Of these, those that the exported model would have chosen in their place."""
    largest_difference: float
    """Of all logits of all positions, prompts too."""
    mean_difference: float
    milliseconds_per_token: float
    """Median of single steps, one text at a time."""
    reference_milliseconds_per_token: float


@dataclass(frozen=True)
class Report:
    """What was exported, and how it compares."""

    to: str
    dtype: str
    parameters: int
    files: dict[str, int]
    """Their sizes in bytes."""
    compared: Comparison | None
    not_compared: str | None
    """Why it was not."""

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(self.files.values())


def files_of(directory: Path) -> dict[str, int]:
    """The files of a directory and below it, and their bytes; a package counts as one file."""
    sizes: dict[str, int] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            name = path.relative_to(directory).parts[0]
            sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return sizes


def compare(
    reference: Runs,
    exported: Runs,
    prompts: Sequence[Sequence[int]],
    n_positions: int,
    advance: Callable[[float], None] = lambda share: None,
) -> Comparison:
    """Let both read each prompt, and then the reference's greedy text, token by token.

    So both see the same tokens, and one difference does not make the rest incomparable. prompts: each of fewer than
    n_positions tokens. advance: called with the share that is done. Raises what the models raise.
    """
    largest, total, count = 0.0, 0.0, 0
    equal_texts, equal_tokens, tokens = 0, 0, 0
    seconds: tuple[list[float], list[float]] = ([], [])
    for number, prompt in enumerate(prompts):
        ours, theirs = reference.start(prompt), exported.start(prompt)  # (T, V)
        equal = 0
        steps = min(TOKENS, n_positions - len(prompt))
        for step in range(steps):
            difference = np.abs(ours - theirs)
            largest = float(np.maximum(largest, difference.max()))  # which keeps a NaN, as max does not
            total, count = total + float(difference.sum(dtype=np.float64)), count + difference.size
            token = int(ours[-1].argmax())
            equal += token == int(theirs[-1].argmax())
            if step < steps - 1:
                ours, theirs = (
                    _timed(model, token, taken)[None]
                    for model, taken in zip((reference, exported), seconds, strict=True)
                )  # (1, V)
        equal_texts, equal_tokens, tokens = equal_texts + (equal == steps), equal_tokens + equal, tokens + steps
        advance((number + 1) / len(prompts))
    milliseconds = [1e3 * statistics.median(taken) if taken else float("nan") for taken in seconds]
    return Comparison(
        engine=exported.engine,
        reference=reference.engine,
        prompts=len(prompts),
        equal_texts=equal_texts,
        tokens=tokens,
        equal_tokens=equal_tokens,
        largest_difference=largest,
        mean_difference=total / count,
        milliseconds_per_token=milliseconds[1],
        reference_milliseconds_per_token=milliseconds[0],
    )


def _timed(model: Runs, token_id: int, seconds: list[float]) -> Floats:
    start = time.perf_counter()
    logits = model.step(token_id)
    seconds.append(time.perf_counter() - start)
    return logits
