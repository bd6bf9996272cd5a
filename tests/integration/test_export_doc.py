"""The commands and the Python of docs/export.md and examples/cpp/README.md run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import gptwo
from gptwo.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOC, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [shlex.split(line) for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
GREEDY = gptwo.SamplingParams(temperature=0, max_tokens=20)


def exported(directory: Path, to: str) -> None:
    """Run the document's first command for this target."""
    (command, *_) = [words for words in COMMANDS if words[-1] == to]
    (program, name, model, out, *options) = command
    assert (program, name) == ("gptwo", "export")
    assert main([name, model, str(directory / out), *options, "--no-report"]) == 0


def said_by(word: str, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the document's Python that has this word in it; what it prints."""
    (body,) = [body for kind, body in BLOCKS if kind == "python" and word in body]
    monkeypatch.chdir(directory)
    capsys.readouterr()
    exec(compile(body, "export.md", "exec"), {"__name__": "doc"})
    return capsys.readouterr().out.removesuffix("\n")


def expected() -> str:
    with gptwo.load("shakespeare", weights="f32") as model:
        return model.generate("ROMEO:", GREEDY).text


def test_the_onnx_example_writes_what_the_model_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path, "onnx")
    assert said_by("onnxruntime", tmp_path, monkeypatch, capsys) == expected()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's of TorchScript
def test_the_torchscript_example_and_the_program_in_cpp_write_what_the_model_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path, "torch")
    assert said_by("torch.jit.load", tmp_path, monkeypatch, capsys) == expected()
    if shutil.which("c++") is None or shutil.which("cmake") is None:
        pytest.skip("the rest needs cmake and a C++ compiler")
    readme = (ROOT / "examples" / "cpp" / "README.md").read_text(encoding="utf-8")
    (body,) = re.findall(r"^```sh\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)
    _, *commands = body.replace("\\\n", " ").splitlines()
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    out = ""
    for command in commands:
        here = command.replace("$(gptwo", f"$({sys.executable} -m gptwo").replace("$(python ", f"$({sys.executable} ")
        here = here.replace("Release", "Debug -DCMAKE_CXX_FLAGS=-O1") if "Release" in here else here
        done = subprocess.run(["bash", "-c", here], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        out = done.stdout
    ids = [int(word) for word in out.splitlines()[-1].split()[1:]]
    assert gptwo.Tokenizer.load(tmp_path / "shakespeare-torch").decode(ids) == expected()
    assert torch.utils.cmake_prefix_path in (tmp_path / "build-cpp" / "CMakeCache.txt").read_text()
