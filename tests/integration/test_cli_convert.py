"""`gptwo convert` as a person meets it, and the commands and Python of docs/convert.md."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from command_line import refused, run

from gptwo.cli.convert import DTYPES, TARGETS
from gptwo.conversion import DTYPES as THEIRS

pytest.importorskip("gguf", reason="needs the extra `gguf`")
pytest.importorskip("torch", reason="nanoGPT's checkpoints need the extra `torch`")

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")


def test_the_commands_and_the_python_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    said = []
    for line in commands.splitlines():
        code, out, err = run(capsys, *shlex.split(line, comments=True)[1:])
        assert code == 0, err
        said.append(out)
    assert said[0].splitlines()[1:] == [
        "format      hf -> hf, f16",
        "size        5.0 MB, 64 tensors, 2,470,464 parameters",
        "tokenizer   with the model",
        "activation  gelu_new",
    ]
    assert said[4].endswith("activation  gelu, for gelu_new, as --any-gelu says\n")
    back = json.loads(said[5])
    assert (back["activation"], back["source_activation"]) == ("gelu", "gelu")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["activation_function"] == "gelu"
    assert json.loads(said[5])["source"] == "nanogpt"
    assert said[6] == run(capsys, "generate", "ROMEO:", "-m", "hf", "--max-tokens", 20, "--seed", 1)[1]
    (python,) = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    exec(compile(python, "convert.md", "exec"), {"__name__": "convert"})
    assert capsys.readouterr().out == f"q8_0 {(tmp_path / 'small.gguf').stat().st_size}\n"
    (listed,) = re.findall(r"^```json\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert json.loads((tmp_path / "raw" / "parameters.json").read_text())[:2] == json.loads(listed)


def test_the_page_and_the_help_name_every_format_and_type() -> None:
    from gptwo.checkpoint import TARGETS as KNOWN

    assert tuple(KNOWN) == TARGETS
    assert ("auto", *THEIRS) == DTYPES
    assert re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)[: len(TARGETS)] == list(TARGETS)


def test_every_command_takes_a_model_in_another_format(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    models = [tmp_path / "m.gguf", tmp_path / "llmc", tmp_path / "raw"]
    for model, to in zip(models, ("gguf", "llmc", "raw"), strict=True):
        assert run(capsys, "convert", tiny_checkpoint, model, "--to", to)[0] == 0
    (tmp_path / "text").write_text("Before we proceed any further, hear me speak.", encoding="utf-8")
    for command in (
        ("generate", "speak", "--max-tokens", 5, "--temperature", 0),
        ("top", "speak", "-k", 3, "--json"),
        ("tokenize", "speak", "--json"),
        ("score", tmp_path / "text"),
    ):
        expected = run(capsys, *command, "-m", tiny_checkpoint)
        assert expected[0] == 0
        for model in (*models, tmp_path / "llmc" / "model.bin"):
            assert run(capsys, *command, "-m", model) == expected


def test_mistakes_are_one_line_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "there").mkdir()
    for arguments, message in (
        ((tmp_path / "none", out, "--to", "hf"), "no such file or directory"),
        ((tiny_checkpoint, out, "--to", "nanogpt"), "--any-gelu takes GELU"),
        ((tiny_checkpoint, tmp_path / "o.gguf", "--to", "gguf", "--dtype", "q4_0"), "comes in blocks of 32"),
        ((tiny_checkpoint, tmp_path / "there", "--to", "raw"), "is there already; --force replaces it"),
        ((tiny_checkpoint, tiny_checkpoint, "--to", "raw", "--force"), "it is, holds or lies in what is converted"),
        ((tiny_checkpoint, out, "--to", "raw", "--tokenizer", tmp_path), "holds no tokenizer.json"),
    ):
        err = refused(capsys, "convert", *arguments)
        assert message in err
        assert err.count("\n") == 1
    for arguments, message in (
        (("--to", "gguf"), "one file, whose name ends in .gguf"),
        (("--to", "raw", "--dtype", "F16"), "has no f16: its types are f32"),
        (("--to", "raw", "--dtype", "f8"), "'f8' is not one of"),
    ):
        assert message in refused(capsys, "convert", tiny_checkpoint, out, *arguments, code=2)
    assert "Missing option '--to'" in refused(capsys, "convert", tiny_checkpoint, out, code=2)
    both = ("--tokenizer", tmp_path, "--no-tokenizer")
    assert "leaves it out" in refused(capsys, "convert", tiny_checkpoint, out, "--to", "hf", *both, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.filterwarnings("default")
def test_a_tokenizer_is_left_out_on_demand_only(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = run(capsys, "convert", tiny_checkpoint, tmp_path / "bare", "--to", "hf", "--no-tokenizer")
    assert (code, err, "tokenizer   none" in out) == (0, "", True)
    err = refused(capsys, "convert", tmp_path / "bare", tmp_path / "m.gguf", "--to", "gguf")
    assert "brings no tokenizer" in err
    code, _, err = run(capsys, "convert", tmp_path / "bare", tmp_path / "raw", "--to", "raw")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(f"gptwo: warning: model {tmp_path / 'bare'} brings no tokenizer, and none is written")
    model = (tmp_path / "m.gguf", "--to", "gguf", "--tokenizer", tiny_checkpoint)
    assert run(capsys, "convert", tmp_path / "bare", *model)[::2] == (0, "")
