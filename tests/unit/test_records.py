"""Documents read from text files, JSONL, CSV and Parquet, packed or not, and what is refused."""

from __future__ import annotations

import builtins
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gptwo.training.records as module
from gptwo.errors import DataError, GptwoError, MissingDependencyError
from gptwo.training.records import Fields, kind_of, read_documents, suffix_of

pa = pytest.importorskip("pyarrow", reason="needs the extra batch")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra batch")

PAIR = Fields("answer", "question")
Found = list[tuple[int, str | None, str]]


def read(path: Path, fields: Fields = Fields(), first: int = 0) -> Found:  # noqa: B008 - it is frozen
    """Record, prompt and text of each document."""
    shares: list[float] = []
    found = [(one.record, one.prompt, "".join(one.blocks)) for one in read_documents(
        path, path.name, fields, first, shares.append
    )]  # fmt: skip
    assert shares == sorted(shares)
    assert all(0.0 <= share <= 1.0 for share in shares)
    return found


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=3)
    return out.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "a.jsonl": as_jsonl,
    "a.NDJSON": as_jsonl,
    "a.csv": as_csv,
    "a.tsv": lambda rows: as_csv(rows, "\t"),
    "a.parquet": as_parquet,
}
PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)


# ---- what is read


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=12), st.integers(0, 13))
def test_records_come_back_as_they_were_and_from_any_one_on(
    tmp_path_factory: pytest.TempPathFactory, name: str, texts: list[tuple[str, str]], first: int
) -> None:
    path = tmp_path_factory.mktemp("records") / name
    path.write_bytes(FORMATS[name]([{"question": q, "answer": a, "more": "x"} for q, a in texts]))
    expected = [(i, q, a) for i, (q, a) in enumerate(texts) if a]
    assert read(path, PAIR) == expected
    assert read(path, PAIR, first) == [one for one in expected if one[0] >= first]
    assert read(path, Fields("question")) == [(i, None, q) for i, (q, _) in enumerate(texts) if q]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_records_without_text_are_left_out_and_counted(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FORMATS[name]([{"text": None}, {"text": "a"}, {"text": ""}, {"text": "b"}]))
    assert read(tmp_path / name) == [(1, None, "a"), (3, None, "b")]


def test_blank_lines_and_a_mark_at_the_beginning_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b"}')
    assert read(tmp_path / "a.jsonl") == [(0, None, "a"), (3, None, "b")]
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbftext,n\n"a\nb, ""c""",1\n\nd,2\n')
    assert read(tmp_path / "a.csv") == [(0, None, 'a\nb, "c"'), (1, None, "d")]


def packed(suffix: str, data: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data[: len(data) // 2], mtime=0) + gzip.compress(data[len(data) // 2 :])
    compressed: bytes = pa.compress(data, codec="zstd", asbytes=True)
    return compressed


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_packed_files_are_unpacked_as_they_are_read(name: str, suffix: str, tmp_path: Path) -> None:
    rows = [{"text": f"text {i} äöü"} for i in range(3000)]
    data = b"\n".join(row["text"].encode() for row in rows) if name == "a.txt" else FORMATS[name](rows)
    (tmp_path / name).write_bytes(data)
    (tmp_path / (name + suffix)).write_bytes(packed(suffix, data))
    assert read(tmp_path / (name + suffix)) == read(tmp_path / name)


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), st.integers(1, 7), st.booleans())
def test_a_text_is_read_as_it_is_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int, mark: bool
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", size)
        if mark or not text.startswith("\ufeff"):
            assert read(path) == [(0, None, text)]
        assert read(path, first=1) == []


def test_kinds_are_told_by_the_end_of_a_name() -> None:
    names = ("a.txt", "a", "A.JSONL.gz", "a.csv.zst", "a.parquet", "a.ndjson.zstd")
    assert [kind_of(name) for name in names] == ["text", "text", "jsonl", "csv", "parquet", "jsonl"]
    assert [suffix_of(name) for name in ("Play.TXT.gz", "a.gz", "a")] == [".txt", "", ""]


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", r"a\.txt: holds no text"),
        ("a.txt", b"caf\xe9", r"a\.txt: not UTF-8 text \(byte 3\)"),
        ("a.txt", b"caf\xc3", r"a\.txt: not UTF-8 text \(byte 3\)"),
        ("a.txt.gz", b"plain text", r"cannot be read \(Not a gzipped file"),
        ("a.txt.gz", gzip.compress(b"text" * 100, mtime=0)[:-9], r"cannot be read \(Compressed file ended"),
        ("a.txt.zst", b"plain text", r"cannot be read \("),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a\.jsonl line 2: not a record of JSON \("),
        ("a.jsonl", b'["a"]\n', r"a\.jsonl line 1: not a record of JSON \(expected an object"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl line 1: not a record of JSON"),
        ("a.jsonl", b'{"txt": "a"}', r"line 1: has no field 'text'; did you mean 'txt'\?"),
        ("a.jsonl", b'{"body": "a", "id": 1}', r"line 1: has no field 'text'; known names: body, id"),
        ("a.jsonl", b'{"text": 5}', r"line 1: its 'text' is 5, expected text"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"line 1: its 'text' is not Unicode \(a lone surrogate\)"),
        ("a.jsonl", b"\xff\xfe", r"line 1: not a record of JSON"),
        ("a.csv", b"", r"a\.csv: has no column 'text'"),
        ("a.csv", b"body\na\n", r"a\.csv: has no column 'text'; known names: body"),
        ("a.csv", b"text,n\na,1\nb\n", r"a\.csv line 3: has 1 fields, the header 2"),
        ("a.csv", b'text\n"a"b\n', r"a\.csv line 2: not CSV"),
        ("a.csv", b"text\ncaf\xe9\n", r"a\.csv: not UTF-8 text \(near line"),
        ("a.parquet", b"", r"a\.parquet: cannot be read"),
        ("a.parquet", b"PAR1" + b"\0" * 50 + b"PAR1", r"a\.parquet: cannot be read"),
        ("a.parquet", as_parquet([{"body": "a"}]), r"a\.parquet: has no column 'text'; known names: body"),
        ("a.parquet", as_parquet([{"text": 5}]), r"a\.parquet row 0: its 'text' is 5, expected text"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_says_where(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [pa.timestamp("us"), pa.date32()])
def test_a_column_of_dates_that_no_calendar_has_is_refused(kind: Any, tmp_path: Path) -> None:
    days = pa.array([2**30], pa.int32()).view(kind) if kind == pa.date32() else pa.array([2**62], kind)
    pq.write_table(pa.table({"text": days}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read \("):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["a.txt", *FORMATS, "a.txt.gz", "a.csv.zst"])
def test_a_file_that_is_not_there_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(.*No such file"):
        read(tmp_path / name)


def test_a_line_without_end_is_not_taken_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_RECORD", 100)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n' + b"x" * 200)
    with pytest.raises(DataError, match="line 2: is longer than 100 bytes"):
        read(tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.parquet", "a.txt.zst"])
def test_what_needs_pyarrow_says_so_where_it_is_not(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(module_name: str, *arguments: Any, **named: Any) -> Any:
        if module_name.partition(".")[0] == "pyarrow":
            raise ImportError
        return real(module_name, *arguments, **named)

    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"needs pyarrow: pip install '\.\[batch\]'"):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet", "a.txt.gz", "a.txt.zst"])
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=6), st.integers(0, 400))
def test_no_damage_makes_another_error_than_ours(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, bytes_there: bytes, end: int
) -> None:
    rows = [{"text": f"text {i}"} for i in range(8)]
    plain = b"\n".join(row["text"].encode() for row in rows)
    kind = name.removesuffix(".gz").removesuffix(".zst")
    good = FORMATS[kind](rows) if kind in FORMATS else plain
    if kind != name:
        good = packed(Path(name).suffix, good)
    path = tmp_path_factory.mktemp("fuzz") / name
    damaged = good[:place] + bytes_there + good[place + len(bytes_there) :]
    path.write_bytes(damaged[: len(damaged) - end] if end < 200 else damaged)
    try:
        read(path)
    except GptwoError as error:
        assert str(path) in str(error)  # noqa: PT017 - some damage is none
