"""Structured outputs from the command line, in files of prompts, in `interactive`, and on their page in docs/."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from gptwo.cli import main

Capture = pytest.CaptureFixture[str]
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "structured-outputs.md").read_text(encoding="utf-8")
SCHEMA = {"type": "array", "items": {"enum": ["hear", "speak"]}, "minItems": 2, "maxItems": 2}
GRAMMAR = 'start: ("hear" | "speak") " " /[a-c]{3}/\n'


def run(capsys: Capture, *arguments: str, code: int = 0) -> str:
    """The output of `generate` without its line end, or what it says on standard error where it fails."""
    assert main(["generate", "-m", "shakespeare", "--max-tokens", "40", "--seed", "3", *arguments]) == code
    out, err = capsys.readouterr()
    assert err == "" or code != 0
    return out.removesuffix("\n") if code == 0 else err


def test_each_option_makes_the_text_what_it_says(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "words.lark").write_text(GRAMMAR)
    assert run(capsys, "A", "--choice", "yes", "--choice", "no, not") in ("yes", "no, not")
    assert re.fullmatch("[A-Z]{4}!", run(capsys, "A", "--regex", "[A-Z]{4}!"))
    for schema in (json.dumps(SCHEMA), str(tmp_path / "schema.json")):
        assert set(json.loads(run(capsys, "A", "--json-schema", schema))) <= {"hear", "speak"}
    for grammar in (GRAMMAR, str(tmp_path / "words.lark")):
        assert re.fullmatch("(hear|speak) [a-c]{3}", run(capsys, "A", "--grammar", grammar))


def test_a_file_of_prompts_may_ask_for_another_with_each(tmp_path: Path, capsys: Capture) -> None:
    lines = [{"prompt": "A", "structured_outputs": {"choice": ["one"]}}, {"prompt": "B"}]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = run(capsys, "--file", str(tmp_path / "prompts.jsonl"), "--json", "--regex", "[0-9]{3}")
    first, second = map(json.loads, out.splitlines())
    assert first["text"] == "one"
    assert re.fullmatch("[0-9]{3}", second["text"])
    lines[1]["structured_outputs"] = {"regex": "("}
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    err = run(capsys, "--file", str(tmp_path / "prompts.jsonl"), "--json", code=1)
    assert "prompts.jsonl line 2: regex cannot be used: unclosed group" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--regex", "foo**"], 2, "regex repeats a repeat at character 5"),
        (["--regex", "("], 1, "gptwo: regex cannot be used: unclosed group"),
        (["--regex", "(" * 60_000], 2, "regex has 60,000 characters"),
        (["--regex", "a", "--choice", "b"], 2, "--regex and --choice cannot both be kept"),
        (["--choice", ""], 2, "choice is '', expected text"),
        (["--json-schema", "{"], 2, "json_schema is not JSON"),
        (["--json-schema", "/nowhere.json"], 1, "gptwo: /nowhere.json: cannot be read (No such file or directory)"),
        (["--json-schema", '{"not": {}}'], 1, 'gptwo: json_schema cannot be used: Unimplemented keys: ["not"]'),
        (["--grammar", "/nowhere.lark"], 1, "gptwo: /nowhere.lark: cannot be read (No such file or directory)"),
        (["--grammar", "start: x"], 1, "gptwo: grammar cannot be used"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(arguments: list[str], code: int, said: str, capsys: Capture) -> None:
    err = run(capsys, "A", *arguments, code=code)
    assert said in err
    assert "Traceback" not in err


def test_beams_do_not_go_with_it(capsys: Capture) -> None:
    assert main(["generate", "-m", "shakespeare", "A", "--beams", "2", "--regex", "a"]) == 2
    assert "--regex is for sampling, and --beams searches instead" in capsys.readouterr().err


def test_interactive_has_it_as_a_parameter(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    lines = [r'\config structured_outputs {"choice": ["aye"]}', "A", r'\config structured_outputs {"regex": 5}']
    lines += [r"\config structured_outputs none", r"\config structured_outputs", r"\config structured_outputs 5"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert main(["interactive", "--model", "shakespeare"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("aye\nstructured_outputs = none")
    assert "gptwo: regex is 5, expected text" in err
    assert "gptwo: structured_outputs: '5' is no object" in err


# ---- docs/structured-outputs.md


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert found
    return found


def test_the_python_of_the_page_runs(capsys: Capture) -> None:
    for body in blocks("python"):
        exec(compile(body, "structured-outputs.md", "exec"), {"__name__": "page"})
    value = json.loads(capsys.readouterr().out)
    assert value.keys() == {"speaker", "loud"}


def test_the_commands_of_the_page_run(capsys: Capture) -> None:
    for body in blocks("sh"):
        for command in body.splitlines():
            program, *arguments = shlex.split(command)
            assert program == "gptwo"
            assert main(arguments) == 0
            out, err = capsys.readouterr()
            assert out.strip(), command
            assert err == ""
