"""examples/cpp: built against the libtorch inside the torch wheel, run on what `gptwo export --to torch` writes."""

from __future__ import annotations

import json
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
    out = written(random_checkpoint(), tmp_path / "out")
    assert "usage" in refused(program)
    assert "config.json: cannot be read" in refused(program, tmp_path / "none", 1, 5)
    for word in ("300", "-1", "9223372036854775807"):
        assert f"token id {word} is not one of the model's, which are 0 to 299" in refused(program, out, 1, 5, word)
    for word in ("x", "5x", "", " 5", "1.5", "9223372036854775808"):
        assert f"'{word}' is no number, or too large a one" in refused(program, out, 1, word)
        assert f"'{word}' is no number, or too large a one" in refused(program, out, word, 5)
    assert generated(run(program, out, 0, 5, 6)) == []
    assert len(generated(run(program, out, 63, 5, 6))) == 63
    for tokens in (-1, 64, 2**63 - 1):
        expected = f"{tokens} tokens cannot follow 2 in a model of 64 positions"
        assert expected in refused(program, out, tokens, 5, 6)
    assert "0 tokens cannot follow 65" in refused(program, out, 0, *[5] * 65)


def test_broken_files_are_one_line(program: Path, tmp_path: Path) -> None:
    out = written(random_checkpoint(), tmp_path / "out")
    config, script = (out / "config.json").read_text(), (out / "model.ts").read_bytes()
    for name, value, message in (
        ("n_embd", "8", "parameter wte.weight has shape [300, 16], expected [300, 8]"),
        ("vocab_size", "301", "parameter wte.weight has shape [300, 16], expected [301, 16]"),
        ("n_positions", "99", "parameter wpe.weight has shape [64, 16], expected [99, 16]"),
        ("n_layer", "3", "parameter h.2.mlp.c_fc.bias is missing"),
        ("tie_word_embeddings", "false", "parameter lm_head.weight is missing"),
        ("activation_function", '"mish"', "activation_function mish is not known"),
        ("n_head", "5", "config.json: its sizes are no model's"),
        ("n_layer", "0", "config.json: its sizes are no model's"),
        ("n_head", '"x"', "config.json: not a configuration (n_head is x)"),
        ("n_head", "2.5", "config.json: not a configuration (n_head is 2.5)"),
        ("n_positions", "9223372036854775808", "config.json: not a configuration (n_positions is 9223372036854775808)"),
        ("scale_attn_weights", "1", "config.json: not a configuration (scale_attn_weights is 1)"),
    ):
        (out / "config.json").write_text(json.dumps({**json.loads(config), name: json.loads(value)}))
        assert message in refused(program, out, 1, 5)
    for broken in ("", "{", "[]", '{"n_head": ', '{"a": "\\', '{"a": {'):
        (out / "config.json").write_text(broken)
        assert "config.json: not a configuration" in refused(program, out, 1, 5)
    (out / "config.json").write_text(config)
    for size in (0, 1, 100, len(script) // 2, len(script) - 1):
        (out / "model.ts").write_bytes(script[:size])
        assert "model.ts: libtorch cannot load it" in refused(program, out, 1, 5)
    (out / "model.ts").unlink()
    assert "model.ts: cannot be read" in refused(program, out, 1, 5)
