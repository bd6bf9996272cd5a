"""`python -m worker ENGINE {"path": ..., "format": ..., "threads": ...}`, or `{"convert": {...}}` for files."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, TextIO


def peak_memory() -> int:
    """The most memory that this process has held, in bytes; 0 where the system does not say."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def serve(engine: Any, answers: TextIO) -> None:
    """Do what the lines on standard input say until one says to end."""
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "end":
            return
        start = time.perf_counter()
        tokens = engine.generate(order["prompts"], order["tokens"])
        seconds = time.perf_counter() - start
        answer = {"seconds": seconds, "tokens": tokens, "peak": peak_memory(), "version": engine.version}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> int:
    """Run one worker."""
    # The engine's own messages must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, settings = sys.argv[1], json.loads(sys.argv[2])
    try:
        module = importlib.import_module(f".{name}_engine", __package__)
        if "convert" in settings:
            module.convert(**settings["convert"])
        else:
            serve(module.Engine(**settings), answers)
    except Exception as error:  # noqa: BLE001  # whatever an engine raises, the parent is told in one line
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(json.dumps({"error": words}), file=answers, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    # Engines keep threads that do not always end well; there is nothing left to lose.
    code = main()
    sys.stderr.flush()
    os._exit(code)
