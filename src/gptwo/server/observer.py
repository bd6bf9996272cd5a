"""What a runner tells of itself, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gptwo.engine import Completion, Statistics
from gptwo.errors import GptwoError


@dataclass(frozen=True)
class Snapshot:
    """Where a runner stands."""

    running: int
    """Requests that are begun and not answered."""
    waiting: int
    """Requests that are not begun."""
    cache_blocks: int | None
    """Of 64 positions, in use; None if the decoder does not count them."""
    prefix_blocks: int
    """Blocks that are held for prompts to come."""
    statistics: Statistics


class Observer(Protocol):
    """Who is told what happens, on the event loop. Times are in seconds."""

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Take the function that says how things stand; any thread may call it at any time."""

    def begun(self, prompt_tokens: int, waited: float) -> None:
        """A request's turn has come."""

    def tokens(self, count: int) -> None:
        """A step has made so many tokens of output."""

    def first_token(self, seconds: float) -> None:
        """The first token of a text came so long after the request."""

    def next_token(self, seconds: float) -> None:
        """Another token of a text came so long after the one before."""

    def refused(self, error: GptwoError) -> None:
        """A request was not taken."""

    def ended(self, outcome: Completion | GptwoError | None, seconds: float) -> None:
        """A request was answered, or failed, or (None) was cancelled, so long after it came."""
