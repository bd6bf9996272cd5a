"""What the engine needs of a request under way, whether it samples or searches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gptwo.decoder.protocol import Floats
from gptwo.engine.output import Event
from gptwo.engine.request import Request


@dataclass(frozen=True)
class Feed:
    """Tokens for one sequence of the next batch."""

    handle: int
    """The decoder's sequence."""
    keep: int
    """Its tokens from this position on are forgotten first."""
    token_ids: list[int]
    rows: range
    """Which of `token_ids` give logits, as indices into them."""


class Run(Protocol):
    """A request under way: `feeds`, then `accept` with the logits of those feeds' rows, in turn until `done`."""

    request: Request
    done: bool
    width: int
    """The most sequences that it holds at a time."""

    def feeds(self) -> list[Feed]:
        """What goes into the next batch; the first call opens the decoder's sequence."""

    def accept(self, logits: list[Floats]) -> list[Event]:
        """Take the logits (rows, V) of each feed, choose tokens, and say what is new."""

    def release(self) -> None:
        """Close every sequence that is still open; may be called twice."""
