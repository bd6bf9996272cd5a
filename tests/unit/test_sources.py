"""What files, directories and sets are read, and in which order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from gptwo.errors import DataError, InvalidRequestError
from gptwo.training.prepare_config import PrepareConfig
from gptwo.training.sources import Inputs, describe, find_inputs


def inputs_of(*texts: Path | str, **options: Any) -> Inputs:
    return find_inputs(texts, PrepareConfig(**options))


def names(inputs: Inputs) -> list[str]:
    return [source.name for source in inputs.sources]


def write(directory: Path, *paths: str) -> None:
    for name in paths:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f'{{"text": "{name}"}}')


def test_a_directory_gives_its_files_by_path_and_no_others(tmp_path: Path) -> None:
    write(
        tmp_path, "b.txt", "a/z.md", "a/b.JSONL", "a.txt.gz", "c.py", ".hidden.txt", ".git/x.txt", "d.bin", "e/.f/g.txt"
    )
    assert names(inputs_of(tmp_path)) == ["a.txt.gz", "b.JSONL", "z.md", "b.txt"]
    assert names(inputs_of(tmp_path, suffix=[".py"])) == ["c.py"]
    assert names(inputs_of(tmp_path, suffix=["PY", "txt"])) == ["a.txt.gz", "b.txt", "c.py"]
    assert names(inputs_of(tmp_path / "c.py", tmp_path / "b.txt")) == ["c.py", "b.txt"]


def test_a_directory_without_a_file_to_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    with pytest.raises(DataError, match=r"holds no file that ends in \.csv, \.jsonl, .*\.txt"):
        inputs_of(tmp_path)


def test_what_can_be_read_only_once_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "b.txt")
    for text in (tmp_path / "b.txt", tmp_path, Path("/dev/null")):
        with pytest.raises(DataError, match=r"(b\.txt|null): is no ordinary file, and texts are read more than once"):
            inputs_of(text)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(File name too long\)"):
        inputs_of(tmp_path / ("a" * 300))
    with pytest.raises(InvalidRequestError, match="a name of a text is empty"):
        inputs_of("")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_directory_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b/c.txt")
    (tmp_path / "b").chmod(0)
    try:
        with pytest.raises(DataError, match=r"b: cannot be read \(Permission denied\)"):
            inputs_of(tmp_path)
    finally:
        (tmp_path / "b").chmod(0o755)


def test_what_is_not_there_is_refused_with_the_set_that_may_be_meant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read \(No such file or directory\)$"):
        inputs_of(tmp_path / "absent.txt")
    with pytest.raises(DataError, match=r"tinystory: cannot be read .*; did you mean 'tinystories'\?"):
        inputs_of("tinystory")


def test_whole_json_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write(tmp_path, "a.json")
    with pytest.raises(DataError, match=r"a\.json: one whole JSON is not read; give JSONL"):
        inputs_of(tmp_path / "a.json")


def test_a_path_goes_before_a_set_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "openwebtext/mine.txt")
    monkeypatch.chdir(tmp_path)
    inputs = inputs_of("openwebtext")
    assert names(inputs) == ["mine.txt"]
    assert inputs.val_fraction == 0.1


def test_texts_to_validate_with_come_last(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "b.jsonl", "v/c.jsonl")
    inputs = inputs_of(tmp_path / "a.jsonl", tmp_path / "b.jsonl", val=[str(tmp_path / "v")])
    assert (names(inputs), inputs.first_val, inputs.val_fraction) == (["a.jsonl", "b.jsonl", "c.jsonl"], 2, 0.0)
    found = [(source, number, one.record) for source, number, one in inputs.documents()]
    assert found == [(0, 0, 0), (1, 1, 0), (2, 2, 0)]
    assert [source for source, *_ in inputs.documents(val=False)] == [0, 1]


def test_no_more_documents_are_read_than_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "x"}\n' * 4)
    paths = [tmp_path / f"{name}.jsonl" for name in ("a", "b", "c")]
    limited = inputs_of(*paths[:2], max_documents=6, val=[str(paths[2])])
    assert [source for source, *_ in limited.documents()] == [0] * 4 + [1] * 2 + [2] * 4
    assert next((s, n, d.record) for s, n, d in limited.documents(1, 1, 5)) == (1, 5, 1)
    assert [source for source, *_ in limited.documents(1, 1, 5)] == [1] + [2] * 4
    few = inputs_of(*paths, max_documents=4)
    paths[1].unlink()  # which is not even opened
    assert len(list(few.documents())) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_field": "q"}, "prompt_field and completion_field belong together"),
        ({"completion_field": "a"}, "prompt_field and completion_field belong together"),
        ({"prompt_field": "q", "completion_field": "a", "field": "t"}, "excludes prompt_field"),
        ({"prompt_field": "q", "completion_field": "a"}, r"a\.txt is read as plain text, which has no fields"),
        ({"field": "t"}, r"a\.txt is read as plain text, which has no fields"),
        ({"val": ["a"], "val_fraction": 0.1}, "val_fraction is a share of the texts"),
        ({"val": "a"}, "val is 'a', expected a list of texts"),
        ({"suffix": [""]}, "suffix is '', expected text"),
        ({"shard_tokens": 5}, "shard_tokens is 5, expected an integer from 1000"),
        ({"workers": 0}, "workers is 0, expected an integer from 1 to 256 or none"),
        ({"seed": -1}, "seed is -1, expected"),
        ({"max_documents": 0}, "max_documents is 0, expected"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    with pytest.raises(InvalidRequestError, match=message) as caught:
        inputs_of(tmp_path / "a.txt", **options)
    assert caught.value.param in options or "belong together" in message


def test_a_changed_file_or_option_makes_other_inputs(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "b.jsonl")
    path = tmp_path / "a.jsonl"
    descriptions = {describe(inputs_of(path)), describe(inputs_of(path, field="x"))}
    descriptions |= {describe(inputs_of(path, max_documents=5)), describe(inputs_of(path, tmp_path / "b.jsonl"))}
    descriptions.add(describe(inputs_of(path, val=[str(tmp_path / "b.jsonl")])))
    assert describe(inputs_of(path)) in descriptions
    os.utime(path, ns=(1, 1))
    descriptions.add(describe(inputs_of(path)))
    assert len(descriptions) == 6
