"""The command line as a whole: what it imports, its exit codes, its messages."""

from __future__ import annotations

import importlib
import io
import json
import sys
import warnings
from pathlib import Path

import click
import pytest

from gptwo.cli import main
from gptwo.cli.commands import COMMANDS
from gptwo.errors import CheckpointWarning, GptwoError
from gptwo.tokenizer import Tokenizer
from gptwo.version import __version__

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def no_model_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPTWO_MODEL", raising=False)


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make `gptwo models` raise an error."""

    def fail() -> None:
        raise error

    monkeypatch.setattr("gptwo.checkpoint.embedded_models", fail)


# ---- every command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_has_help(name: str, capsys: Capture) -> None:
    assert main([name, "--help"]) == 0
    out, err = capsys.readouterr()
    assert f"gptwo {name}" in out
    assert err == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_says_what_it_does(name: str) -> None:
    command = importlib.import_module(COMMANDS[name][0]).command
    without = [option.name for option in command.params if isinstance(option, click.Option) and not option.help]
    assert without == []
    assert command.help


def test_help_lists_the_commands(capsys: Capture) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out and line in out for name, (_, line) in COMMANDS.items())


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gptwo {__version__}\n"


# ---- wrong usage


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["generat", "x"], "did you mean 'generate'"),
        (["xyzzy"], "known names: batch, bench"),
        (["generate", "--temprature", "1", "x"], "--temperature"),
        (["--verison"], "--version"),
        (["generate"], "expected a PROMPT"),
        (["generate", "x", "--file", "y"], "not both"),
        (["generate", "x", "--temperature", "warm"], "'warm' is not a number"),
        (["generate", "x", "--beams", "2", "--top-p", "0.5"], "--top-p is for sampling"),
        (["generate", "x", "--length-penalty", "2"], "needs --beams"),
        (["tokenize"], "expected a TEXT"),
        (["tokenize", "x", "--ids", "--json"], "at most one of"),
        (["top"], "PROMPT..."),
        (["top", "x", "-k", "0"], "x>=1"),
        (["score"], "FILE"),
        ([], "Usage: gptwo"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_2_and_says_what_was_meant(arguments: list[str], hint: str, capsys: Capture) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert hint in err


# ---- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--model", "./absent"], "no such file or directory: './absent'"),
        (["generate", "--file", "absent.txt"], "absent.txt: cannot be read (No such file or directory)"),
        (["tokenize", "--file", "."], ".: cannot be read (Is a directory)"),
        (["tokenize", "x", "--tokenizer", "absent"], "absent: no such file or directory"),
        (["score", "absent"], "absent: cannot be read"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_error_is_one_line_and_ends_with_1(arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gptwo: {message}")
    assert err.count("\n") == 1


def test_an_error_that_has_several_lines_is_shown_on_one(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    fail_with(monkeypatch, GptwoError("one\ntwo\t three"))
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "gptwo: one two three\n"


@pytest.mark.parametrize("error", [ValueError("a defect"), PermissionError(13, "Permission denied", "somewhere")])
def test_a_defect_is_not_swallowed(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, error)
    with pytest.raises(type(error)):
        main(["models"])


def test_ctrl_c_ends_with_130_and_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert main(["models"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_warning_about_a_checkpoint_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def warn() -> list[object]:
        warnings.warn("not all\nwas used", CheckpointWarning, stacklevel=1)
        return []

    monkeypatch.setattr("gptwo.checkpoint.embedded_models", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["models", "--json"]) == 0
    assert capsys.readouterr().err == "gptwo: warning: not all was used\n"


# ---- models


def test_models_lists_what_is_published_with_its_shape(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptwo.checkpoint.cached_models", list)
    assert main(["models", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole.keys() == {"embedded", "cached", "published"}
    shapes = {m["name"]: (m["parameters"], m["width"], m["layers"], m["heads"]) for m in whole["published"]}
    assert shapes["gpt2"] == (124_439_808, 768, 12, 12)
    assert shapes["gpt2-xl"] == (1_557_611_200, 1600, 48, 25)
    assert len(shapes) == 5
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "1,557,611,200" in out
    assert "openai-community/gpt2-medium" in out


def test_models_lists_cached_ones_even_if_one_is_broken(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from gptwo.checkpoint import FoundModel

    found = [FoundModel("me/tiny", tiny_checkpoint, 2_500_000), FoundModel("me/[bold]broken", tmp_path, 0)]
    monkeypatch.setattr("gptwo.checkpoint.cached_models", lambda: found)
    assert main(["models"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith("me/")]
    assert rows == [
        ["me/tiny", "12,416", "16", "2", "2", "64", "2.5", "MB"],
        ["me/[bold]broken", "?", "?", "?", "?", "?", "0", "bytes"],
    ]


# ---- tokenize


def test_tokenize_shows_ids_and_texts(tiny_checkpoint: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.load(tiny_checkpoint)
    text = "speak é"
    ids = tokenizer.encode(text)
    monkeypatch.setenv("GPTWO_MODEL", str(tiny_checkpoint))
    assert main(["tokenize", text]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == ids
    assert lines[0].endswith("'spe'") or "'s" in lines[0]
    assert lines[-2:] == [f"{ids[-2]:>6}  b'\\xc3'", f"{ids[-1]:>6}  b'\\xa9'"]
    for option, expected in (
        ("--ids", " ".join(map(str, ids))),
        ("--count", str(len(ids))),
        ("--json", json.dumps({"ids": ids, "tokens": [tokenizer.token_text(i) for i in ids]}, ensure_ascii=False)),
    ):
        assert main(["tokenize", text, option]) == 0
        assert capsys.readouterr().out == expected + "\n"


def test_tokenize_turns_ids_back_into_text(tiny_checkpoint: Path, capsys: Capture) -> None:
    ids = Tokenizer.load(tiny_checkpoint).encode("hear me\nspeak")
    tokenizer = str(tiny_checkpoint / "tokenizer.json")
    assert main(["tokenize", "--decode", ", ".join(map(str, ids)), "--tokenizer", tokenizer]) == 0
    assert capsys.readouterr().out == "hear me\nspeak\n"
    for wrong in ("1 x", "-5", "1.5", "99999", "٣"):
        assert main(["tokenize", "--tokenizer", tokenizer, "--decode", "--", wrong]) == 1
        assert "token id" in capsys.readouterr().err


def test_tokenize_takes_the_end_of_text_for_text_unless_told(tiny_checkpoint: Path, capsys: Capture) -> None:
    arguments = ["tokenize", "<|endoftext|>", "--count", "--model", str(tiny_checkpoint)]
    assert main([*arguments, "--special"]) == 0
    assert capsys.readouterr().out == "1\n"
    assert main(arguments) == 0
    assert int(capsys.readouterr().out) > 1


def test_tokenize_reads_standard_input_and_files(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {}
    for data in (b"", b"\n", b"a\n", b"\n\n"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["tokenize", "-", "--ids", "--model", str(tiny_checkpoint)]) == 0
        counts[data] = len(capsys.readouterr().out.split())
    assert counts == {b"": 0, b"\n": 0, b"a\n": 1, b"\n\n": 1}
    (tmp_path / "text").write_text("a\n")
    assert main(["tokenize", "--file", str(tmp_path / "text"), "--count", "--model", str(tiny_checkpoint)]) == 0
    assert capsys.readouterr().out == "2\n"


def test_a_model_without_a_tokenizer_is_told_by_tokenize(
    tiny_checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    assert main(["tokenize", "x", "--model", str(tmp_path)]) == 1
    assert "brings no tokenizer; name one with --tokenizer" in capsys.readouterr().err
