"""Grammars from outside are compiled in a process of their own first.

A grammar can be written so that whoever compiles it overflows its stack, which ends the process: a schema whose
references go thousands deep, say. No limit on its size tells these from honest ones. So each is tried where that does
no harm, with a small stack, little memory and little time; what passes is compiled here.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptwo.errors import GptwoError
from gptwo.sampling import grammar_trial_worker

SECONDS = 2.0  # of a processor's time for one grammar
WAIT_SECONDS = 60.0  # on a machine that is busy with other things
MEMORY_BYTES = 2**30
MOST_VERDICTS = 512

TOO_EXPENSIVE = "it takes more time or memory than there is for one"


class Trial:
    """Tries grammars, one at a time; any thread may ask. It remembers what it found out of the latest ones."""

    def __init__(self, library: str, parser_limits: dict[str, Any]) -> None:
        """library: the path of llguidance's compiled module. Nothing is started before the first grammar."""
        limits = {"parser": parser_limits, "seconds": SECONDS, "bytes": MEMORY_BYTES}
        self._command = [sys.executable, "-I", "-S", grammar_trial_worker.__file__, library, json.dumps(limits)]
        self._verdicts: OrderedDict[str, str | None] = OrderedDict()
        self._begin()
        atexit.register(self.close)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None

    def verdict(self, grammar: str, meanwhile: Callable[[], object] = lambda: None) -> str | None:
        """What is wrong with a grammar, or None. meanwhile: work to do while the other process does its own.

        Raises GptwoError if there can be no other process.
        """
        if self._owner != os.getpid():  # we are a fork: the process, and a lock that somebody may hold, are not ours
            self._inherited = self._process
            self._begin()
        with self._lock:
            if grammar in self._verdicts:
                self._verdicts.move_to_end(grammar)
                return self._verdicts[grammar]
            found = self._verdicts[grammar] = self._try(grammar, meanwhile)
            if len(self._verdicts) > MOST_VERDICTS:
                self._verdicts.popitem(last=False)
            return found

    def close(self) -> None:
        """End the other process; the next grammar starts another."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def _try(self, grammar: str, meanwhile: Callable[[], object]) -> str | None:
        try:
            answered = False
            process = self._started()
            # The worker reads all of it before it writes anything, so this cannot wait for itself.
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(grammar).encode() + b"\n")  # type: ignore[union-attr]
                process.stdin.flush()  # type: ignore[union-attr]
            meanwhile()
            answer = _line(process)
            if not answer.endswith(b"\n"):
                return TOO_EXPENSIVE
            answered = True
            found = json.loads(answer)
            return None if found is None else str(found)
        finally:
            if not answered:  # it died, or we were interrupted and its answer would be taken for the next one's
                self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=Path(grammar_trial_worker.__file__).parent,
                    start_new_session=True,  # Ctrl-C is for us
                )
            except (OSError, TypeError) as error:
                raise GptwoError(f"the process that tries out grammars cannot be started ({error})") from error
        return self._process


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """What the process answers, up to its line end; less if it dies or takes for ever."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        found = b""
        while not found.endswith(b"\n"):
            if not selector.select(WAIT_SECONDS):
                return b""
            part = os.read(process.stdout.fileno(), 65536)
            if not part:
                return b""
            found += part
    return found
