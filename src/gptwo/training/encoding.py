"""Texts to ids on all cores, in order: the same ids whatever the number of processes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gptwo.errors import DataError, TokenizerError, class_named
from gptwo.tokenizer import Tokenizer
from gptwo.training import encode_worker

Ids = npt.NDArray[np.uint32]
Work = TypeVar("Work")
WAITING = 2  # pieces of work for each process that are read before they are asked for


def encode_in_order(
    work: Iterable[tuple[Work, list[str]]], tokenizer: Tokenizer, directory: Path, workers: int
) -> Iterator[tuple[Work, list[Ids]]]:
    """What comes with each list of texts, and the ids of each text.

    directory: where `tokenizer` is saved. workers: processes; with 1 the texts are encoded here. Only a few lists are
    read ahead. Raises the TokenizerError of the first text that cannot be encoded, and DataError for a process that
    ended.
    """
    if workers == 1:
        for item, texts in work:
            yield item, encode_worker.encode(tokenizer, texts)
        return
    waiting: deque[tuple[Work, Future[list[Ids]]]] = deque()
    with _encoders(directory, workers) as encoders, ThreadPoolExecutor(workers) as threads:

        def encode(texts: list[str]) -> list[Ids]:
            encoder = encoders.get()
            try:
                return encoder.encode(texts)
            finally:
                encoders.put(encoder)

        try:
            for item, texts in work:
                waiting.append((item, threads.submit(encode, texts)))
                if len(waiting) >= WAITING * workers:
                    item, ids = waiting.popleft()
                    yield item, ids.result()
            while waiting:
                item, ids = waiting.popleft()
                yield item, ids.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _encoders(directory: Path, count: int) -> Iterator[queue.SimpleQueue[_Encoder]]:
    """Processes that encode, ended at the end whatever they are doing."""
    encoders: list[_Encoder] = []
    idle: queue.SimpleQueue[_Encoder] = queue.SimpleQueue()
    try:
        for _ in range(count):
            encoders.append(_Encoder(directory))
            idle.put(encoders[-1])
        yield idle
    finally:
        for encoder in encoders:
            encoder.close()


class _Encoder:
    """A process seen from here."""

    def __init__(self, directory: Path) -> None:
        alone = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONSAFEPATH": "1"}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gptwo.training.encode_worker", os.fspath(directory.absolute())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **alone},
                start_new_session=True,  # Ctrl-C is for us, who end the processes
            )
        except OSError as error:
            raise DataError(f"no process can be started ({error.strerror}); --workers 1 needs none") from error

    def encode(self, texts: list[str]) -> list[Ids]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            encode_worker.send(self._process.stdin, 0, json.dumps(texts).encode())  # type: ignore[arg-type]
            kind, data = encode_worker.receive(self._process.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError, ValueError) as error:
            code = self._process.wait()
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise DataError(
                f"a process that encodes {how}" + "; is there enough memory?" * (code == -9) + "; what is done is "
                "kept, and the same command goes on"
            ) from error
        if kind == encode_worker.FAILED:
            name, message = json.loads(data)
            raise class_named(name, TokenizerError)(message)
        return encode_worker.unpack(data)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                assert stream is not None
                stream.close()
