"""Data that is made in several goes, by any number of processes: the same to the byte as in one."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import PROCESSES, make_text, prepare_and_die

import gptwo.training.pieces as cutting
import gptwo.training.prepare as module
from gptwo.errors import DataError, GptwoError
from gptwo.training.prepare import prepare
from gptwo.training.prepared import PreparedData
from gptwo.training.shards import read_shard

PAIRS: dict[str, Any] = {"tokenizer": "bpe:300", "prompt_field": "q", "completion_field": "a", "shard_tokens": 1000}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few thousand characters are many pieces."""
    monkeypatch.setattr(cutting, "PIECE_CHARACTERS", 500)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One long text, and a file of 60 short records."""
    directory = tmp_path_factory.mktemp("texts")
    (directory / "long.txt").write_text(make_text(9000))
    rows = [{"text": make_text(100 + n, seed=n)} for n in range(60)]
    (directory / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"q": make_text(n % 40, seed=n), "a": make_text(50 + n, seed=-n)} for n in range(80)]
    (directory / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [directory / "long.txt", directory / "short.jsonl", directory / "pairs.jsonl"]


def content(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


CASES: dict[str, tuple[slice, dict[str, Any]]] = {
    "one text": (slice(0, 1), {"tokenizer": "bpe:300", "shard_tokens": 1000}),
    "characters": (slice(0, 2), {"tokenizer": "char", "shard_tokens": 2000}),
    "several": (slice(0, 2), {"tokenizer": "bpe:300", "shard_tokens": 1000, "val_fraction": 0.25}),
    "pairs": (slice(2, 3), PAIRS),
}


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, texts: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Path], dict[str, Any], dict[str, bytes]]:
    """Texts, options, and what comes of them in one go."""
    which, options = CASES[request.param]
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE_CHARACTERS", 500)
        made = prepare(texts[which], out, **options)
    assert len(made.train.shards) > 1
    return texts[which], options, content(out)


def die(texts: list[Path], out: Path, options: dict[str, Any], pieces: int | None, writings: int | None) -> bool:
    """Prepare in a process that kills itself; whether it did."""
    process = PROCESSES.Process(target=prepare_and_die, args=(texts, out, options, pieces, writings))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


@pytest.mark.slow
def test_killed_after_any_piece_and_started_again_it_ends_with_the_same_bytes(case: Any, tmp_path: Path) -> None:
    texts, options, expected = case
    out = tmp_path / "out"
    goes = 0
    draw = random.Random(1)
    while die(texts, out, options, draw.randrange(5), None):
        goes += 1
        assert goes < 200
        with pytest.raises(DataError, match=r"data\.json: cannot be read"):
            PreparedData.load(out)
    assert goes >= 3
    assert content(out) == {**expected, "data.json": content(out)["data.json"]}
    assert same_description(content(out), expected)


def same_description(one: dict[str, bytes], other: dict[str, bytes]) -> bool:
    """Whether two descriptions differ in nothing but where the data is."""
    first, second = json.loads(one["data.json"]), json.loads(other["data.json"])
    first.pop("command")
    second.pop("command")
    return bool(first == second)


def test_killed_at_any_writing_and_started_again_it_ends_with_the_same_bytes(case: Any, tmp_path: Path) -> None:
    texts, options, expected = case
    for first in range(0, 60, 12):
        out = tmp_path / f"out{first}"
        writings = first
        while die(texts, out, options, None, writings):
            writings += 23  # more each time, so that it ends
            assert writings < 2000
        found = content(out)
        assert {**found, "data.json": b""} == {**expected, "data.json": b""}
        assert same_description(found, expected)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=4), st.sampled_from([0.0, 1e9]))
def test_stopped_anywhere_by_an_error_it_goes_on_from_there(
    texts: list[Path], tmp_path_factory: pytest.TempPathFactory, stops: list[int], seconds: float
) -> None:
    directory = tmp_path_factory.mktemp("stopped")
    options: dict[str, Any] = {"tokenizer": "bpe:300", "shard_tokens": 1500}
    seen = 0

    def stop_after(pieces: int) -> Any:
        def progress(share: float) -> None:
            nonlocal seen
            seen += 1
            if seen > pieces:
                raise KeyboardInterrupt

        return progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE_CHARACTERS", 700)
        patch.setattr(module, "SAVE_SECONDS", seconds)
        for pieces in stops:
            seen = 0
            with contextlib.suppress(KeyboardInterrupt):
                prepare(texts[:2], directory / "parts", progress=stop_after(pieces), **options)
        told: list[str] = []
        parts = prepare(texts[:2], directory / "parts", notice=told.append, **options)
        whole = prepare(texts[:2], directory / "whole", **options)
    assert parts.documents == whole.documents
    first, second = content(directory / "parts"), content(directory / "whole")
    assert {**first, "data.json": b""} == {**second, "data.json": b""}
    if any(pieces > 0 for pieces in stops):
        assert told == [f"{directory / 'parts'}: going on where it was stopped"] or "nothing was done" in told[0]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_processes_gives_the_same_bytes(workers: int, case: Any, tmp_path: Path) -> None:
    texts, options, expected = case
    prepare(texts[:2], tmp_path / "out", workers=workers, **options)
    found = content(tmp_path / "out")
    assert {**found, "data.json": b""} == {**expected, "data.json": b""}
    assert same_description(found, expected)


def test_processes_are_started_for_what_is_large_only(texts: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    asked: list[int] = []
    real = module.encode_in_order

    def encode_in_order(work: Any, tokenizer: Any, directory: Path, workers: int) -> Any:
        asked.append(workers)
        return real(work, tokenizer, directory, 1)

    monkeypatch.setattr(module, "encode_in_order", encode_in_order)
    monkeypatch.setattr(module, "available_cpus", lambda: 7)
    prepare(texts[:1], tmp_path / "a", tokenizer="char")
    monkeypatch.setattr(module, "SMALL", 1000)
    prepare(texts[:1], tmp_path / "b", tokenizer="char")
    prepare(texts[:1], tmp_path / "c", tokenizer="char", workers=3)
    assert asked == [1, 7, 3]


def test_what_is_complete_is_not_made_again(texts: list[Path], tmp_path: Path, monkeypatch: Any) -> None:
    made = prepare(texts[:2], tmp_path / "out", tokenizer="char")
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "_encode", None)
        assert prepare(texts[:2], tmp_path / "out", tokenizer="char", workers=5, notice=told.append) == made
    assert told == [f"{tmp_path / 'out'}: holds this already; nothing was done"]
    (tmp_path / "out" / "train.bin").write_bytes(b"")
    assert prepare(texts[:2], tmp_path / "out", tokenizer="char") == made


@pytest.mark.parametrize("changed", ["options", "text", "directory"])
def test_what_was_begun_with_something_else_is_begun_afresh(
    changed: str, texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(make_text(5000))
    options: dict[str, Any] = {"tokenizer": "bpe:300"}
    assert die([path], tmp_path / "out", options, 4, None)
    assert (tmp_path / "out" / "unfinished" / "progress.json").exists()
    if changed == "options":
        options["seed"] = 1
    elif changed == "text":
        path.write_text(make_text(5000, seed=5))
    else:
        path = path.rename(tmp_path / "b.txt")
    told: list[str] = []
    made = prepare([path], tmp_path / "out", notice=told.append, **options)
    assert told == [f"{tmp_path / 'out'}: what was begun there was of other texts or settings, and is begun anew"]
    assert made == PreparedData.load(tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["data.json", "tokenizer", "train.bin", "val.bin"]
    text = made.tokenizer.decode([*made.train.window(0, 10**6).tolist(), *made.val.window(0, 10**6).tolist()])
    assert text == path.read_text()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("unfinished/train-00000.bin", None),
        ("unfinished/train-00000.bin", b""),
        ("unfinished/progress.json", b"{"),
        ("unfinished/progress.json", b'{"key": 5}'),
        ("tokenizer/tokenizer.json", None),
    ],
)
def test_what_was_damaged_meanwhile_is_an_error_or_begun_afresh(
    name: str, change: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(make_text(5000))
    out = tmp_path / "out"
    assert die([path], out, {"tokenizer": "bpe:300"}, 4, None)
    (out / name).unlink()
    if change is not None:
        (out / name).write_bytes(change)
    try:
        prepare([path], out, tokenizer="bpe:300")
    except GptwoError as error:
        assert str(out) in str(error)  # noqa: PT017 - some is begun afresh
        assert "delete it to start afresh" in str(error) or name.startswith("tokenizer")  # noqa: PT017
        assert not (out / "data.json").exists()


def test_two_processes_do_not_prepare_in_one_place(texts: list[Path], tmp_path: Path) -> None:
    def again(share: float) -> None:
        if share < 1.0:
            with pytest.raises(DataError, match="out: another process prepares data here"):
                prepare(texts[:2], tmp_path / "out", tokenizer="char")

    prepare(texts[:2], tmp_path / "out", tokenizer="char", progress=again)


def test_a_full_disk_loses_nothing_that_was_done(
    texts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    prepare(texts[:2], whole, tokenizer="bpe:300", shard_tokens=1000)
    monkeypatch.setattr(module, "SAVE_SECONDS", 0.0)
    synced = 0

    def fsync(_: int) -> None:
        nonlocal synced
        synced += 1
        if synced % 12 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    told: list[str] = []
    failures = 0
    while failures < 100:
        try:
            prepare(texts[:2], out, tokenizer="bpe:300", shard_tokens=1000, notice=told.append)
            break
        except GptwoError as error:
            assert str(error) == f"{out}: cannot be written (No space left on device)"  # noqa: PT017 - of each
            failures += 1
    assert failures > 2
    assert len(told) == failures
    assert {**content(out), "data.json": b""} == {**content(whole), "data.json": b""}


def test_a_place_where_nothing_was_made_is_left_as_it_was(texts: list[Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    for out in (tmp_path / "there", tmp_path / "new" / "deep"):
        with pytest.raises(DataError, match="holds no text"):
            prepare([tmp_path / "empty.jsonl"], out, tokenizer="char")
    assert sorted(os.listdir(tmp_path)) == ["empty.jsonl", "there"]
    assert os.listdir(tmp_path / "there") == []


def test_shards_follow_each_other_in_their_order(case: Any, tmp_path: Path) -> None:
    texts, options, _ = case
    made = prepare(texts[:2], tmp_path / "out", **options)
    names = [shard.path.name for shard in made.train.shards]
    assert names == [f"train-{number:05d}.bin" for number in range(len(names))]
    assert all(len(read_shard(shard.path, verify=True)) for shard in made.train.shards)
    whole = prepare(texts[:2], tmp_path / "single", **{**options, "shard_tokens": 10**6})
    assert [shard.path.name for shard in whole.train.shards] == ["train.bin"]
    assert whole.train.window(0, 10**6).tolist() == made.train.window(0, 10**6).tolist()
    assert whole.train.learned(0, 10**6).tolist() == made.train.learned(0, 10**6).tolist()
    assert whole.train.characters == made.train.characters
