"""What is encoded together: pieces of documents, in order, each with the part of the data that it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gptwo.training import pieces as cutting
from gptwo.training.records import Document
from gptwo.training.sources import Inputs
from gptwo.training.split import Split


@dataclass(frozen=True)
class Position:
    """How far the texts are read."""

    source: int = 0
    record: int = 0
    """Of that source."""
    number: int = 0
    """Of the document that this record is, among all."""
    pieces: int = 0
    """Those of this document that are done."""


@dataclass(frozen=True)
class Piece:
    """A piece of a document."""

    text: str
    val: bool
    """For validation."""
    learned: bool
    opens: bool
    """It is the first of its document in its part."""


@dataclass(frozen=True)
class Unit:
    """Pieces that are encoded together."""

    pieces: tuple[Piece, ...]
    end: Position
    share: float
    """Of all that is to be read, read with this."""


def units(inputs: Inputs, split: Split, start: Position, *, anywhere: bool) -> Iterator[tuple[Unit, list[str]]]:
    """All that is to be encoded from a position on, in units of about PIECE_CHARACTERS, each with its texts.

    From the end of a unit on, the units are those that would have followed. anywhere: see `pieces`.
    """
    waiting: list[Piece] = []
    size, end = 0, start
    for source, number, document in inputs.documents(start.source, start.record, start.number):
        training = 0 if source >= inputs.first_val else split.training_characters(number)
        found = pieces_of(document, training, inputs.sources[source].name, anywhere=anywhere)
        done = start.pieces if (source, document.record) == (start.source, start.record) else 0
        for count, piece in enumerate(found, 1):
            if count <= done:
                continue
            waiting.append(piece)
            size += len(piece.text)
            end = Position(source, document.record, number, count)
            if size >= cutting.PIECE_CHARACTERS:
                yield Unit(tuple(waiting), end, inputs.share(source)), [one.text for one in waiting]
                waiting, size = [], 0
    if waiting:
        yield Unit(tuple(waiting), end, 1.0), [one.text for one in waiting]


def pieces_of(
    document: Document, training: int | None, place: str = "a text", *, anywhere: bool = False
) -> Iterator[Piece]:
    """A document in pieces.

    training: how many of its first characters are for training, None for all of them; the rest is for validation. A
    prompt goes with the first of the text.
    """
    head, tail = _cut(document.blocks, training)
    for val, text in ((False, head), (True, tail)):
        opens = True
        with_prompt = document.prompt is not None and val == (training == 0)
        prompt = [([document.prompt or ""], False)] if with_prompt else []
        for blocks, learned in (*prompt, (text, True)):
            for one in cutting.pieces(blocks, anywhere=anywhere, place=place):
                yield Piece(one, val, learned, opens)
                opens = False


def _cut(blocks: Iterable[str], characters: int | None) -> tuple[Iterator[str], Iterator[str]]:
    """The first characters (None: all) of a text in blocks, and the rest, to be read in this order."""
    source = iter(blocks)
    rest: list[str] = []

    def head() -> Iterator[str]:
        left = characters
        while left is None or left > 0:
            block = next(source, None)
            if block is None:
                return
            yield block[:left]
            if left is not None:
                rest.append(block[left:])
                left = max(0, left - len(block))

    def tail() -> Iterator[str]:
        yield from rest
        yield from source

    return head(), tail()
