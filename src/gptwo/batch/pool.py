"""Processes of this machine that answer parts; each has a model and an engine of its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gptwo.batch.parts import Parts
from gptwo.batch.settings import BatchSettings, Work
from gptwo.batch.source import Part, Source
from gptwo.errors import DataError, class_named

PATIENCE = 10.0  # seconds for a process that was told to end

Reports = Mapping[str, Any]


def answer_in_processes(
    settings: BatchSettings, work: Work, source: Source, parts: Parts, missing: Sequence[Part]
) -> Iterator[Reports]:
    """Have parts answered, and hand on the reports of how far that is: {lines, tokens, errors, first_error}.

    Each part is on disk when it is done. Raises what a process ended with; the others are ended then, as they are when
    the iterator is closed.
    """
    processes = min(settings.processes, len(missing))
    first = {
        "work": work.to_json(),
        "source": str(source.path),
        "stamp": source.stamp,
        "directory": str(parts.directory),
        "key": parts.key,
        "threads": settings.threads or threads_for_each(processes),
        "max_sequences": settings.max_sequences,
    }
    left, undone = deque(missing), len(missing)
    with contextlib.ExitStack() as stack:
        reports: queue.SimpleQueue[tuple[_Process, Reports | None]] = queue.SimpleQueue()
        workers = [stack.enter_context(contextlib.closing(_Process(first, reports))) for _ in range(processes)]
        # In turn, so that a short file is shared fairly; then each has enough to never wait for more.
        while left and any(worker.lines < settings.max_sequences for worker in workers):
            min(workers, key=lambda worker: worker.lines).order(left.popleft())
        warned = set()
        while undone:
            worker, report = reports.get()
            if report is None:
                raise DataError(f"{worker.ending()}; parts that are done are kept, and the same command goes on")
            if "failed" in report:
                raise class_named(report["kind"], DataError)(report["failed"])
            if "warning" in report:
                if report["warning"] not in warned:
                    warned.add(report["warning"])
                    warnings.warn(report["warning"], class_named(report["kind"], UserWarning), stacklevel=2)
            elif "part" in report:
                undone -= 1
                worker.finished(report["part"])
                while left and worker.lines < 2 * settings.max_sequences:
                    worker.order(left.popleft())
            elif "lines" in report:
                yield report


def threads_for_each(processes: int) -> int:
    """How many threads each of so many processes runs on, if nobody says."""
    from gptwo.decoder.native import default_threads

    return max(1, default_threads() // processes)


class _Process:
    """A worker seen from here."""

    def __init__(self, first: Mapping[str, Any], reports: queue.SimpleQueue[tuple[_Process, Reports | None]]) -> None:
        self._ordered: dict[int, Part] = {}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gptwo.batch.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                start_new_session=True,  # Ctrl-C is for us, who end the processes
            )
        except OSError as error:
            raise DataError(f"no process can be started ({error.strerror})") from error
        self._reader = threading.Thread(target=self._read, args=(reports,), daemon=True)
        self._reader.start()
        self._say(first)

    @property
    def lines(self) -> int:
        """Lines that it was ordered to answer, in parts that are not done."""
        return sum(part.lines for part in self._ordered.values())

    def order(self, part: Part) -> None:
        """Have it answer a part."""
        self._ordered[part.number] = part
        self._say(vars(part))

    def finished(self, number: int) -> None:
        """Note that a part is done."""
        del self._ordered[number]

    def ending(self) -> str:
        """How it ended, in words."""
        code = self._process.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"a process {how} in the middle of its work" + "; is there enough memory?" * (code == -9)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()  # which it takes as the end
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _say(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and the reader says so
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()

    def _read(self, reports: queue.SimpleQueue[tuple[_Process, Reports | None]]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reports.put((self, json.loads(line)))
        reports.put((self, None))
