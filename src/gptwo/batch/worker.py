"""A process that answers parts: orders come in on standard input, a line of JSON each, and reports go out.

The first order is {work, source, stamp, directory, key, threads, max_sequences}, each further one a part. A report is
one of {ready}, {part} (which is then on disk), {lines, tokens, errors, first_error}, {warning, kind}, {failed, kind}.
When standard input ends the process does at once, whatever it is doing: whoever gave the orders is gone.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from gptwo.batch.answering import Answer, Answering, open_batch_model, summary
from gptwo.batch.parts import part_of, write_part
from gptwo.batch.settings import Work
from gptwo.batch.source import Line, Part, check_unchanged, read_part
from gptwo.errors import GptwoError


def main() -> None:
    """Answer parts until standard input ends."""
    # Only reports go where reports are expected; whatever else is printed goes to standard error.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()

    def show_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
        _report(out, {"warning": str(message), "kind": category.__name__})

    warnings.showwarning = show_warning
    try:
        _work(orders.get(), orders, out)
    except GptwoError as error:
        _report(out, {"failed": str(error), "kind": type(error).__name__})


def _listen(orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(0)


def _report(out: TextIO, values: Mapping[str, Any]) -> None:
    try:
        out.write(json.dumps(values) + "\n")
        out.flush()
    except OSError:
        os._exit(0)  # nobody reads it


def _work(first: Mapping[str, Any], orders: queue.SimpleQueue[dict[str, Any]], out: TextIO) -> None:
    work, source = Work.from_json(first["work"]), Path(first["source"])
    size, changed, number = first["stamp"]
    directory = Path(first["directory"])
    answering = Answering(open_batch_model(work, first["threads"]), work, first["max_sequences"])
    _report(out, {"ready": True})
    lines = _Lines(source, orders)
    begun: deque[_Begun] = lines.begun
    while True:
        while answering.has_room and (line := lines.next(wait=not answering.busy)) is not None:
            answering.add(line)
        answers = answering.step()
        if not answers:
            continue
        for answer in answers:
            next(part for part in begun if part.holds(answer.index)).answers[answer.index] = answer
        _report(out, summary(answers))
        for part in [part for part in begun if part.complete]:
            check_unchanged(source, (size, changed, number))
            write_part(directory, first["key"], part.part.number, part_of(part.rows()))
            begun.remove(part)
            _report(out, {"part": part.part.number})


class _Begun:
    """A part at hand: its answers until all are there."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.answers: dict[int, Answer] = {}

    def holds(self, index: int) -> bool:
        """Whether the line of this index is one of its own."""
        return 0 <= index - self.part.first < self.part.lines

    @property
    def complete(self) -> bool:
        """Whether all of its lines are answered."""
        return len(self.answers) == self.part.lines

    def rows(self) -> list[Answer]:
        """Its answers in the order of the lines."""
        return [self.answers[self.part.first + number] for number in range(self.part.lines)]


class _Lines:
    """The lines of the parts that were ordered, read as they are needed."""

    def __init__(self, source: Path, orders: queue.SimpleQueue[dict[str, Any]]) -> None:
        self._source, self._orders = source, orders
        self._lines: Iterator[Line] = iter(())
        self.begun: deque[_Begun] = deque()

    def next(self, *, wait: bool) -> Line | None:
        """The next line; None if none was ordered yet, unless it is to wait for one."""
        while (line := next(self._lines, None)) is None:
            try:
                part = Part(**self._orders.get(block=wait))
            except queue.Empty:
                return None
            self.begun.append(_Begun(part))
            self._lines = read_part(self._source, part)
        return line


if __name__ == "__main__":
    main()
