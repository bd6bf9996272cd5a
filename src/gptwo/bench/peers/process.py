"""A worker process seen from here: orders go in, answers come out, and nobody waits for ever."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gptwo.errors import BenchError

WORKER: Final = "worker"  # the package beside this file, by the name under which its own process knows it
LONGEST_ANSWER: Final = 600.0  # seconds


@dataclass(frozen=True)
class Answer:
    """What a worker says of one call of `generate`."""

    seconds: float
    """By the worker's own clock."""
    tokens: tuple[tuple[int, ...], ...]
    """The new tokens of each prompt."""
    peak: int
    """The most memory that the process has held so far, in bytes."""
    version: str
    """The engine's."""


def worker_command(python: str, engine: str, settings: Mapping[str, Any]) -> list[str]:
    """The command line of a worker."""
    return [python, "-m", WORKER, engine, json.dumps(settings)]


def worker_environment(threads: int) -> dict[str, str]:
    """A worker's environment: it finds the package `worker`, keeps to its threads, and stays off the network."""
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": count,
        "GPTWO_THREADS": count,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


class PeerProcess:
    """A running worker; a context manager that ends it.

    Everything raises BenchError when the process ends, answers nonsense or takes longer than `patience` seconds.
    """

    def __init__(self, title: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        """title: for messages. log: the file that the worker's standard error is appended to."""
        self.title = title
        self.started = time.perf_counter()
        self._log = log
        self._lines: queue.Queue[str] = queue.Queue()
        with log.open("ab") as errors:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=dict(environment),
                    text=True,
                    encoding="utf-8",
                )
            except OSError as error:
                raise BenchError(f"{title}: {command[0]} cannot be run ({error.strerror})") from error
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def generate(self, prompts: Sequence[Sequence[int]], tokens: int, *, patience: float = LONGEST_ANSWER) -> Answer:
        """Have each prompt continued by exactly `tokens` tokens."""
        order = {"do": "generate", "prompts": [list(prompt) for prompt in prompts], "tokens": tokens}
        answer = self._ask(order, patience)
        try:
            made = tuple(tuple(map(int, text)) for text in answer["tokens"])
            result = Answer(float(answer["seconds"]), made, int(answer["peak"]), str(answer["version"]))
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(f"{self.title}: the worker's answer lacks something ({error})") from error
        lengths = [len(text) for text in made]
        if lengths != [tokens] * len(prompts):
            raise BenchError(f"{self.title}: asked for {len(prompts)} x {tokens} tokens, got {lengths}")
        return result

    def close(self) -> None:
        """End the process, gently if it listens."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.write('{"do": "end"}\n')
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _ask(self, order: Mapping[str, Any], patience: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # it has ended; its last line says why
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            self._process.kill()
            raise BenchError(f"{self.title}: no answer in {patience:.0f} s") from None
        if not line:
            raise BenchError(f"{self.title}: the worker ended without an answer; see {self._log.name} beside its model")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise BenchError(f"{self.title}: the worker answered {line[:60]!r}")
        if "error" in answer:
            raise BenchError(f"{self.title}: {answer['error']}")
        return answer
