"""A batch's input: looked through once, cut into parts, never held in memory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptwo.batch import source
from gptwo.batch.source import check_unchanged, read_part, scan
from gptwo.errors import DataError


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def all_lines(path: Path, processes: int = 1, part_lines: int | None = None) -> list[tuple[int, int, bytes | None]]:
    found = scan(path, processes, part_lines)
    lines = [line for part in found.parts for line in read_part(path, part)]
    assert [line.index for line in lines] == list(range(found.lines))
    return [(line.index, line.number, line.data) for line in lines]


def test_blank_lines_are_no_inputs_and_keep_the_numbers_of_the_others(tmp_path: Path) -> None:
    path = write(tmp_path / "in", b"one\n\n  \r\ntwo\r\n\nthree")
    assert all_lines(path) == [(0, 1, b"one\n"), (1, 4, b"two\r\n"), (2, 6, b"three")]


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    assert all_lines(write(tmp_path / "in", b"\xef\xbb\xbfone\ntwo\n"))[0] == (0, 1, b"one\n")
    assert all_lines(write(tmp_path / "in", b"\xef\xbb\xbf\ntwo\n")) == [(0, 2, b"two\n")]


def test_an_empty_file_has_no_parts(tmp_path: Path) -> None:
    assert scan(write(tmp_path / "in", b"\n\n"), 3).parts == ()


@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"a", b"longer line"]), max_size=80),
    most=st.integers(1, 9),
    processes=st.integers(1, 5),
)
def test_the_parts_hold_every_line_once_however_many_there_may_be(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], most: int, processes: int
) -> None:
    path = write(tmp_path_factory.mktemp("batch") / "in", b"\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "MOST_PARTS", most)
        found = scan(path, processes)
        assert len(found.parts) <= most
        expected = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        got = [(number, (data or b"").rstrip(b"\n")) for _, number, data in all_lines(path, processes)]
    assert got == expected
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    again = scan(path, processes + 1, found.part_lines)  # a run that goes on with more processes has the same parts
    assert again == found


def test_a_short_file_is_shared_by_all_processes(tmp_path: Path) -> None:
    path = write(tmp_path / "in", b"line\n" * 40)
    assert len(scan(path, 4).parts) >= 8


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "LONGEST_LINE", 16)
    path = write(tmp_path / "in", b"a\n" + b"x" * 100 + b"\n" + b"y" * 15 + b"\nb\n" + b"z" * 32)
    assert all_lines(path) == [(0, 1, b"a\n"), (1, 2, None), (2, 3, b"y" * 15 + b"\n"), (3, 4, b"b\n"), (4, 5, None)]


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "in", b"one\ntwo\n")
    found = scan(path, 1, 1)
    check_unchanged(path, found.stamp)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="changed while it was being answered"):
        check_unchanged(path, found.stamp)
    write(path, b"one\n")
    with pytest.raises(DataError, match="changed"):
        list(read_part(path, found.parts[1]))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        check_unchanged(path, found.stamp)
