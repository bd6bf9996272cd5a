"""examples/cpp: built against the libtorch inside the torch wheel, run on what `gptwo export --to torch` writes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from exports import VARIANTS, greedy, prompts, random_checkpoint, reference
from tiny_models import tiny_config

from gptwo.checkpoint import Checkpoint
from gptwo.export.directory import export_checkpoint
from gptwo.export.torch_program import exported_model, write_script

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("c++") is None or shutil.which("cmake") is None, reason="needs cmake and a C++ compiler"
    ),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("build")
    configure = ["cmake", "-S", ROOT / "examples" / "cpp", "-B", build, "-DCMAKE_CXX_FLAGS=-O1 -Wall -Wextra"]
    for command in (
        [*configure, f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"],
        ["cmake", "--build", build],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"{ROOT / 'examples' / 'cpp'}/main.cpp:" not in done.stdout + done.stderr  # no warning
    return build / "gpt2"


def run(program: Path, *arguments: object) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(program: Path, *arguments: object) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    return done.stderr


def generated(output: str) -> list[int]:
    (line,) = [line for line in output.splitlines() if line.startswith("generated")]
    return [int(word) for word in line.split()[1:]]


def shapes(output: str) -> dict[str, list[int]]:
    lines = [line for line in output.splitlines() if line.endswith("]")]
    return {line[: line.index(" [")]: [int(n) for n in line[line.index("[") + 1 : -1].split(",")] for line in lines}


def written(checkpoint: Checkpoint, directory: Path) -> Path:
    """What the program loads: a part of an export."""
    directory.mkdir()
    checkpoint.config.save(directory / "config.json")
    write_script(directory, exported_model(checkpoint, "f32"))
    return directory


@pytest.mark.parametrize(("name", "changes"), VARIANTS.items(), ids=VARIANTS.keys())
def test_it_writes_the_references_greedy_texts(
    name: str, changes: dict[str, object], program: Path, tmp_path: Path
) -> None:
    checkpoint = random_checkpoint(tiny_config(**changes))
    directory = written(checkpoint, tmp_path / "out")
    for prompt in prompts(300, 10 if name == "plain" else 2):
        expected = greedy(checkpoint, prompt, 32)
        assert generated(run(program, directory, 32, *prompt)) == expected
        assert generated(run(program, directory, "--script", 32, *prompt)) == expected


def test_it_loads_an_export_and_prints_every_parameter_and_the_shapes_of_a_forward_pass(
    program: Path, tmp_path: Path
) -> None:
    checkpoint = random_checkpoint()
    export_checkpoint(checkpoint, tmp_path / "out", to="torch", dtype="bf16")
    found = shapes(run(program, tmp_path / "out", 1, 5, 6, 7))
    expected = {name: list(tensor.shape) for name, tensor in reference(checkpoint).state_dict().items()}
    expected["logits"] = [1, 3, 300]
    for layer in range(2):
        expected |= {f"keys {layer}": [1, 2, 3, 8], f"values {layer}": [1, 2, 3, 8]}
    expected |= {f"hidden state {i}": [1, 3, 16] for i in range(3)}
    assert found == expected


def test_its_mistakes_are_one_line(program: Path, tmp_path: Path) -> None:
    written(random_checkpoint(), tmp_path / "out")
    assert "usage" in refused(program)
    assert "config.json: cannot be read" in refused(program, tmp_path / "none", 1, 5)
    assert "300 is no token" in refused(program, tmp_path / "out", 1, 300)
    assert "no more positions" in refused(program, tmp_path / "out", 64, 5, 6)
    (tmp_path / "out" / "model.ts").unlink()
    assert "model.ts" in refused(program, tmp_path / "out", 1, 5)
    for broken in ("", "{", "[]", '{"n_head": ', '{"n_head": "x"}', '{"n_head": 5}', '{"a": "\\', '{"a": {'):
        (tmp_path / "out" / "config.json").write_text(broken)
        assert "config.json" in refused(program, tmp_path / "out", 1, 5)
