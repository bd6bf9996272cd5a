"""Texts encoded by several processes: the same ids in the same order, and no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tiny_run import make_text

import gptwo.training.encoding as module
from gptwo.errors import DataError, TokenizerError
from gptwo.tokenizer import Tokenizer
from gptwo.training.encode_worker import pack, unpack
from gptwo.training.encoding import encode_in_order

BPE = Tokenizer.train([make_text(2000)], 300)


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bpe")
    BPE.save(directory)
    return directory


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=5), max_size=6))
def test_ids_are_unpacked_as_they_were_packed(lists: list[list[int]]) -> None:
    found = unpack(pack([np.array(one, dtype=np.uint32) for one in lists]))
    assert [one.tolist() for one in found] == lists


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_gives_the_same_in_the_same_order(workers: int, bpe: Path) -> None:
    # Of very different lengths, so that later ones are done before earlier ones.
    texts = [[make_text(n * 7919 % 20_000 + 1, seed=n), "naïve 猫 🎉 <|endoftext|>", ""] for n in range(12)]
    found = list(encode_in_order(enumerate(texts), BPE, bpe, workers))
    assert [item for item, _ in found] == list(range(12))
    for number, ids in found:
        assert len(ids) == 3
        for text, one in zip(texts[number], ids, strict=True):
            assert_array_equal(one, BPE.encode(text))


def test_only_a_few_texts_are_read_ahead(bpe: Path) -> None:
    taken = 0

    def endless() -> Iterator[tuple[int, list[str]]]:
        nonlocal taken
        while True:
            taken += 1
            yield taken, ["text"]

    work = encode_in_order(endless(), BPE, bpe, 2)
    for number in range(1, 6):
        assert next(work)[0] == number
    assert taken <= 5 + 4
    work.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_text_that_cannot_be_encoded_is_told_of(workers: int, tmp_path: Path) -> None:
    tokenizer = Tokenizer.characters(["ab"])
    tokenizer.save(tmp_path)
    work = encode_in_order([(0, ["a"]), (1, ["axb"]), (2, ["y"])], tokenizer, tmp_path, workers)
    assert next(work)[0] == 0
    with pytest.raises(TokenizerError, match="no token for 'x'"):
        list(work)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that are started."""
    found: list[subprocess.Popen[bytes]] = []
    real = module._Encoder

    class Watched(real):  # type: ignore[misc, valid-type]
        def __init__(self, directory: Path) -> None:
            super().__init__(directory)
            found.append(self._process)

    monkeypatch.setattr(module, "_Encoder", Watched)
    return found


def test_a_process_that_is_killed_is_an_error_and_ends_the_others(
    bpe: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    work = encode_in_order(((n, ["text " * 1000]) for n in range(50)), BPE, bpe, 2)
    next(work)
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match="a process that encodes was ended by signal 9; is there enough memory"):
        list(work)
    assert all(process.poll() is not None for process in started)


def test_processes_end_when_nobody_wants_more(bpe: Path, started: list[subprocess.Popen[bytes]]) -> None:
    work = encode_in_order(((n, ["text"]) for n in range(50)), BPE, bpe, 2)
    next(work)
    work.close()  # type: ignore[attr-defined]
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_a_process_ends_with_the_one_that_started_it(bpe: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "gptwo.training.encode_worker", str(bpe)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        process.stdin.close()  # as the system does for one that was killed
        assert process.wait(120) == 0
