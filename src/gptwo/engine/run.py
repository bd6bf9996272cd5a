"""What the engine and the requests under way say to each other, whether these sample or search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gptwo.decoder.protocol import Decoder, Floats
from gptwo.engine.output import Event
from gptwo.engine.prefix_cache import PrefixCache
from gptwo.engine.request import Request, ScoringRequest
from gptwo.engine.statistics import Statistics
from gptwo.tokenizer import Tokenizer


class Feed(NamedTuple):
    """Tokens for one sequence of the next batch."""

    handle: int
    """The decoder's sequence."""
    keep: int
    """Its tokens from this position on are forgotten first."""
    token_ids: list[int]
    drafts: int
    """How many of them, at the end, are guesses."""
    rows: range
    """Which of `token_ids` give logits, as indices into them."""
    complete: bool
    """Whether the text is computed to its end, so that the rows say what comes next."""


class Room:
    """What one step has room for. Each of the sequences under way has one token in any case."""

    def __init__(self, tokens: int, drafts: int, *, cuts: bool) -> None:
        """tokens: of prompts. drafts: guesses. cuts: whether a prompt may be computed in parts."""
        self.tokens, self.drafts = tokens, max(0, drafts)
        self._whole = None if cuts else tokens

    def take(self, wanted: int) -> int:
        """How many of a text's `wanted` tokens are computed now; a single one always is.

        Where prompts are not cut, one that is longer than a step's room is computed in a step that has no other.
        """
        if wanted == 1:
            return 1
        if self._whole is not None and wanted > self.tokens != self._whole:
            return 0
        taken = min(wanted, self.tokens) if self._whole is None else wanted
        self.tokens = max(0, self.tokens - taken)
        return taken


@dataclass(frozen=True)
class Resources:
    """What the requests of an engine share."""

    decoder: Decoder
    tokenizer: Tokenizer | None
    prefixes: PrefixCache
    statistics: Statistics
    exact: bool
    """Whether the decoder promises the same bits in whatever parts a text is computed."""


class Run(Protocol):
    """A request under way: `feeds`, then `accept` with the logits of those feeds' rows, in turn until `done`."""

    done: bool
    width: int
    """The most sequences that it holds at a time."""
    waits: bool
    """Whether the last `feeds` had room for no text to its end, so that it has room before others the next time."""

    @property
    def request(self) -> Request | ScoringRequest:
        """What is answered."""

    def feeds(self, room: Room) -> list[Feed]:
        """What goes into the next batch, which may be nothing. Asked again before `accept`, it says the same again."""

    def accept(self, logits: list[Floats]) -> list[Event]:
        """Take the logits (rows, V) of each feed, choose tokens, and say what is new.

        It is not called again once it has raised.
        """

    def release(self) -> None:
        """Close every sequence that is still open; may be called twice, also if the first call was interrupted."""
