"""What commands read and write."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gptwo.cli import terminal
from gptwo.cli.commands import COMMANDS
from gptwo.cli.generate import write_stream
from gptwo.cli.generation import Timings
from gptwo.cli.terminal import as_size, progress, shown_token, visible, write, write_json, write_prompt
from gptwo.cli.text_input import PromptLine, read_prompt, read_prompts, read_text
from gptwo.errors import DataError
from gptwo.tokenizer import Tokenizer


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_sizes_are_one_decimal_of_the_unit_that_fits() -> None:
    said = [as_size(count) for count in (0, 1, 994, 1000, 23_296, 999_950, 4_940_928, 999_999_999, 3_144_128_000)]
    assert said == ["0 bytes", "1 byte", "994 bytes", "1.0 kB", "23.3 kB", "1.0 MB", "4.9 MB", "1.0 GB", "3.1 GB"]


# ---- reading


@pytest.mark.parametrize(
    ("data", "prompt"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b"", ""), (b"\n", ""), ("\ufeffé".encode(), "é")],
)
def test_standard_input_loses_one_line_end(monkeypatch: pytest.MonkeyPatch, data: bytes, prompt: str) -> None:
    stdin(monkeypatch, data)
    assert read_prompt("-") == prompt


def test_a_prompt_is_itself() -> None:
    assert read_prompt("--x\n") == "--x\n"


def test_a_closed_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        read_prompt("-")


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"one\r\ntwo\n")
    assert read_text(str(tmp_path / "text")) == "one\r\ntwo\n"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: cannot be read \(No such file"):
        read_text(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="cannot be read"):
        read_text(str(tmp_path))
    (tmp_path / "latin").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"latin: not UTF-8 \(byte 0xE9 in line 2\)"):
        read_text(str(tmp_path / "latin"))


@pytest.mark.parametrize(
    ("data", "prompts"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one\r\ntwo", ["one", "two"]),
        ("\n\nx\n", ["", "", "x"]),
        ("a\u2028b\x0cc\x85d\n", ["a\u2028b\x0cc\x85d"]),
        ("", []),
    ],
)
def test_a_file_of_prompts_has_one_a_line(tmp_path: Path, data: str, prompts: list[str]) -> None:
    (tmp_path / "prompts.txt").write_bytes(data.encode())
    path = str(tmp_path / "prompts.txt")
    assert read_prompts(path) == [PromptLine(prompt, {}, f"{path} line {i}") for i, prompt in enumerate(prompts, 1)]


def test_a_jsonl_file_has_an_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.JSONL"
    path.write_text('{"prompt": "a\\nb"}\n\n{"prompt": [1, 2], "seed": 5}\n')
    first, second = read_prompts(str(path))
    assert (first.prompt, first.parameters) == ("a\nb", {})
    assert (second.prompt, second.parameters, second.place) == ([1, 2], {"seed": 5}, f"{path} line 3")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '"text"',
        "{}",
        '{"prompt": 5}',
        '{"prompt": [1, "a"]}',
        '{"prompt": [true]}',
        "[" * 100_000,
        "plain text",
    ],
    ids=lambda line: line[:9],
)
def test_a_line_that_is_no_object_with_a_prompt_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "fine"}\n' + line)
    with pytest.raises(DataError, match=r"prompts\.jsonl line 2: "):
        read_prompts(str(tmp_path / "prompts.jsonl"))


# ---- writing


def test_what_is_generated_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b[2J\x07\x9b31mé\r\n\tb\x7f🎉"
    assert visible(text) == "a␛[2J␇\ufffd31mé␍\n\tb␡🎉"
    for stream, expected in ((Terminal(), visible(text)), (io.StringIO(), text)):
        monkeypatch.setattr(sys, "stdout", stream)
        write(text)
        assert stream.getvalue() == expected


def test_a_prompt_is_bold_on_a_terminal_that_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    write_prompt("a")
    monkeypatch.setenv("NO_COLOR", "1")
    write_prompt("b")
    assert terminal.getvalue() == "\x1b[1ma\x1b[0mb"


def test_nothing_is_written_where_standard_output_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    write("text")


def test_json_is_one_line_that_any_reader_takes(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": float("inf"), "b": [float("nan"), 1.5, {"c": (float("-inf"),)}], "d": "é\n"})
    out = capsys.readouterr().out
    assert out == '{"a": null, "b": [null, 1.5, {"c": [null]}], "d": "é\\n"}\n'
    assert json.loads(out)["d"] == "é\n"


def test_a_token_is_shown_as_text_or_else_as_bytes() -> None:
    tokenizer = Tokenizer.train(["é"], 257)
    first, second = tokenizer.encode("é")
    assert shown_token(tokenizer, tokenizer.encode("'")[0]) == '"\'"'
    assert (shown_token(tokenizer, first), shown_token(tokenizer, second)) == (r"b'\xc3'", r"b'\xa9'")
    assert shown_token(tokenizer, 257) == shown_token(None, 5) == ""


def test_progress_shows_only_where_standard_error_alone_is_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for out, err, shows in (
        (io.StringIO(), Terminal(), True),
        (Terminal(), Terminal(), False),
        (io.StringIO(), io.StringIO(), False),
    ):
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with progress(3, "prompts") as advance:
            advance(3)
        assert ("prompts" in err.getvalue()) is shows
        assert out.getvalue() == ""


def piece(index: int, text: str, finish_reason: str | None = None) -> Any:
    return SimpleNamespace(index=index, text=text, token_ids=(1,), finish_reason=finish_reason)


def test_a_text_is_written_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def pieces() -> Any:
        for text in ("a", "", "b"):
            yield piece(0, text)
            seen.append(capsys.readouterr().out)
        yield piece(0, "c", "stop")

    write_stream(pieces(), 1)
    assert seen == ["a", "", "b"]
    assert capsys.readouterr().out == "c\n"


def test_texts_that_come_side_by_side_are_written_one_after_another(capsys: pytest.CaptureFixture[str]) -> None:
    order = [
        piece(2, "x"),
        piece(0, "a"),
        piece(1, "m"),
        piece(2, "y", "stop"),
        piece(0, "b", "stop"),
        piece(1, "n", "length"),
    ]
    write_stream(iter(order), 3)
    heads = [f"==> text {i} of 3 <==\n" for i in (1, 2, 3)]
    assert capsys.readouterr().out == f"{heads[0]}ab\n{heads[1]}mn\n{heads[2]}xy\n"


# ---- timings


def test_timings_tell_the_first_token_from_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.5, 10.6, 10.7])
    monkeypatch.setattr("gptwo.cli.generation.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timings = Timings(load=0.25, started=10.0)
    assert list(timings.watch(iter([piece(0, "a"), piece(0, "b"), piece(0, "c")])))
    assert timings.line() == "load 0.25 s  first token 500.0 ms  100.00 ms/token  10.0 tokens/s  3 tokens"


def test_timings_of_tokens_that_come_at_once_are_a_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.cli.generation.time", SimpleNamespace(perf_counter=lambda: 12.0))
    timings = Timings(started=10.0)
    timings.count_at_once(20)
    assert timings.line() == "100.00 ms/token  10.0 tokens/s  20 tokens"


def test_timings_of_nothing_or_one_token_divide_by_nothing() -> None:
    assert Timings().line() == "0 tokens"
    timings = Timings()
    timings.count(1)
    assert re.fullmatch(r"first token [\d.]+ ms  1 token", timings.line())


def test_the_table_of_commands_says_what_each_commands_help_says() -> None:
    names = list(COMMANDS)
    assert names[:6] == ["generate", "interactive", "models", "inspect", "tokenize", "top"]
    assert all(line.endswith(".") and module == f"gptwo.cli.{name}" for name, (module, line) in COMMANDS.items())


def test_long_work_off_a_terminal_says_how_far_it_is_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with terminal.bar("training") as show:
        show(0.5, "loss 1.000")  # within the first minute: nothing
        monkeypatch.setattr(terminal, "BETWEEN_LINES", 0.0)
        show(0.75, "loss 0.900")
        show(1.0, "")
    assert capsys.readouterr() == ("", "training 75%  loss 0.900\ntraining 100%\n")
