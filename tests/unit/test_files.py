"""Replacing a file: the old one or the new one, and nothing beside it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from limited_files import files_limited_to

from gptwo.files import replace_file


def write(path: Path, content: bytes) -> None:
    with replace_file(path) as file:
        file.write(content)


def test_the_new_content_is_there_behind_the_block_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replace_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    with replace_file(path) as file:
        file.write(b"second")
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_device_and_a_pipe_are_written_to_and_stay_what_they_are(tmp_path: Path) -> None:
    outer, inner = os.openpty()
    (tmp_path / "device").symlink_to(os.ttyname(inner))
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name, end in (("device", outer), ("pipe", reader)):
        write(tmp_path / name, b"text")
        assert os.read(end, 10) == b"text"
    for descriptor in (outer, inner, reader):
        os.close(descriptor)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "device").is_symlink()


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, GeneratorExit])
def test_an_error_in_the_block_leaves_the_old_file_alone(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replace_file(path) as file:
            file.write(b"half of")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_alone(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_grows_beyond_what_the_system_allows_leaves_the_old_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with files_limited_to(10_000), pytest.raises(OSError, match="too large"):
        write(path, b"x" * 10_001)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(tmp_path.iterdir()) == [target.parent, link]


def test_threads_that_write_the_same_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda content: write(path, content), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("path", ["absent/file", "a_file/file"])
def test_a_directory_that_is_not_there_is_an_oserror(path: str, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    with pytest.raises(OSError, match=r"No such file|Not a directory"):
        write(tmp_path / path, b"")


def test_a_process_that_is_killed_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    program = (
        "import os, sys; from pathlib import Path; from gptwo.files import replace_file\n"
        "with replace_file(Path(sys.argv[1])) as file:\n"
        "    file.write(b'n' * 100_000); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.name.startswith(".file.")
    assert left.name.endswith(".tmp")
