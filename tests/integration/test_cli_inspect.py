"""`gptwo inspect`: what it shows, and what it refuses."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import refused, run

Capture = pytest.CaptureFixture[str]


def test_a_checkpoint_is_shown_whole(capsys: Capture, tiny_checkpoint: Path) -> None:
    code, out, err = run(capsys, "inspect", tiny_checkpoint)
    assert (code, err) == (0, "")
    assert re.search(r"^n_embd +16$", out, flags=re.MULTILINE)
    assert (
        "├─ h.0 to h.1\n│  ├─ ln_1  weight 16, bias 16\n│  ├─ attn\n│  │  ├─ c_attn  weight 16 x 48, bias 48\n" in out
    )
    assert "└─ lm_head  tied to wte\n" in out
    assert re.search(r"^embeddings +5,824 +46.9% +23.3 kB$", out, flags=re.MULTILINE)
    assert re.search(r"^head +tied to wte$", out, flags=re.MULTILINE)
    assert re.search(r"int8 +\d+\.\d kB +gptwo quantize; vectors", out)
    assert re.search(r"h\.1\.mlp\.c_proj\.weight +64 x 16 +F32 +4,096 +\d+\.\d{4}", out)


def test_the_same_as_json(capsys: Capture, tiny_checkpoint: Path) -> None:
    code, out, _ = run(capsys, "inspect", tiny_checkpoint, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["config"]["n_layer"] == 2
    assert found["modules"]["h"]["0"]["attn"]["c_attn"]["weight"] == [16, 48]
    assert sum(part["parameters"] for part in found["parts"].values()) == found["parameters"]
    assert found["formats"].keys() == {"f32", "f16", "bf16", "int8", "int4", "q8_0", "q4_0"}
    first = found["tensors"][0]
    assert {key: first[key] for key in ("name", "part", "shape", "dtype", "bytes")} == {
        "name": "wte.weight",
        "part": "embeddings",
        "shape": [300, 16],
        "dtype": "F32",
        "bytes": 300 * 16 * 4,
    }
    assert first["norm"] > 0


def test_keys_of_a_configuration_stay_on_their_line(capsys: Capture, tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    values = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**values, "one\nn_layer  99": float("nan")}), encoding="utf-8")
    assert "other keys                       architectures, one n_layer 99\n" in run(capsys, "inspect", model)[1]
    assert json.loads(run(capsys, "inspect", model, "--json")[1])["config"]["one\nn_layer  99"] is None


def test_norms_that_are_left_out_are_told(
    capsys: Capture, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("gptwo.inspection.parameters"), "NORMS_UP_TO", 1000)
    code, out, err = run(capsys, "inspect", tiny_checkpoint)
    assert code == 0
    assert re.search(r"wte\.weight +300 x 16 +F32 +19,200 +-$", out, flags=re.MULTILINE)
    assert err == "norms are left out of 49.7 kB; --norms reads them\n"
    assert run(capsys, "inspect", tiny_checkpoint, "--no-norms")[2] == ""
    assert run(capsys, "inspect", tiny_checkpoint, "--norms")[2] == ""


def test_a_packed_model_is_shown_with_the_shapes_of_its_matrices(
    capsys: Capture, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert run(capsys, "quantize", tiny_checkpoint, tmp_path / "out", "--no-report")[0] == 0
    code, out, _ = run(capsys, "inspect", tmp_path / "out")
    assert code == 0
    assert ": packed, " in out
    assert re.search(r"h\.0\.attn\.c_attn\.weight +16 x 48 +int8 +[\d,]+ +-$", out, flags=re.MULTILINE)


def test_what_is_no_model_is_refused_in_a_line(capsys: Capture, tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert "nowhere" in refused(capsys, "inspect", tmp_path / "nowhere")
    assert "no known format" in refused(capsys, "inspect", tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    whole = (tiny_checkpoint / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-4])
    assert "the file is cut short" in refused(capsys, "inspect", broken)


def test_inspecting_needs_no_pytorch() -> None:
    code = (
        "import sys; from gptwo.cli import main; code = main(['inspect', 'shakespeare']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
