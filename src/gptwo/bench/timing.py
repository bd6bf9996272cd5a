"""Timing several things fairly: turn by turn, so that what disturbs the machine for a while disturbs them all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True)
class Times:
    """Seconds of several repetitions of one thing, in the order in which they were taken."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The fastest repetition: what the machine can do."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle repetition: what it does."""
        return statistics.median(self.seconds)


def turn_by_turn(
    tasks: Mapping[Key, Callable[[], float]],
    repetitions: int,
    *,
    pause: float = 0.0,
    done: Callable[[Key], None] = lambda key: None,
    hopeless: float = math.inf,
) -> dict[Key, Times]:
    """Run every task once, then every task again, `repetitions` times; the seconds that each says it took.

    A round before the first is not counted. pause: seconds of rest before each, for threads of the one before that
    still spin. done: called after each run, with the key of the task. hopeless: a task that took so many times as long
    as the fastest in the first round that counts is not run again; nor is one that took three times that before, whose
    only figure that is.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in tasks}
    for repetition in range(repetitions + 1):
        for key, task in tasks.items():
            if pause:
                time.sleep(pause)
            seconds[key].append(task())
            done(key)
        if repetition < 2:
            limit = hopeless * (1 if repetition else 3)
            worked = [taken[-1] for taken in seconds.values() if taken[-1] > 0]  # 0 is one that failed
            fastest = min(worked, default=1.0)
            tasks = {key: task for key, task in tasks.items() if seconds[key][-1] <= limit * fastest}
        if repetition == 0:
            seconds = {key: [] if key in tasks else taken for key, taken in seconds.items()}
    return {key: Times(tuple(taken)) for key, taken in seconds.items()}


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
