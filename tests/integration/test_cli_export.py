"""`gptwo export`: what it writes, what it reports, what it refuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, run

import gptwo
from gptwo.export.onnx_model import OnnxModel


def test_a_model_is_exported_with_a_report(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = run(capsys, "export", tiny_checkpoint, tmp_path / "out", "--to", "onnx")
    assert (code, err) == (0, "")
    assert "for              onnx, f32\n" in out
    assert "greedy tokens    320 of 320 equal; 10 of 10 texts\n" in out
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.onnx", "report.json", "tokenizer.json", "tokenizer_config.json"}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["compared"]["largest_difference"] < 1e-4
    assert report["compared"]["equal_texts"] == report["compared"]["prompts"] == 10
    assert report["files"]["model.onnx"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert report["bytes"] == sum(report["files"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_exported_directory_runs_from_its_own_files(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "export", tiny_checkpoint, tmp_path / "out", "--to", "onnx", "--no-report", "--json")
    assert code == 0
    assert json.loads(out)["compared"] is None
    tokenizer = gptwo.Tokenizer.load(tmp_path / "out")
    config = gptwo.GPTConfig.load(tmp_path / "out" / "config.json")
    ids = tokenizer.encode("Speak, speak.")
    lm = gptwo.load(tiny_checkpoint)
    model = OnnxModel(tmp_path / "out", config.n_layer, threads=1)
    np.testing.assert_allclose(model.start(ids), lm.logits(ids), atol=1e-4)


def test_a_model_without_a_tokenizer_is_compared_on_drawn_ids(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((tiny_checkpoint / name).read_bytes())
    code, out, _ = run(
        capsys, "export", tmp_path / "model", tmp_path / "out", "--to", "onnx", "--dtype", "int8", "--json"
    )
    assert code == 0
    found = json.loads(out)["compared"]
    assert found["tokens"] == 320
    assert 1e-4 < found["largest_difference"] < 1


def test_an_export_is_replaced_only_with_force_and_nothing_else_ever(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("export", tiny_checkpoint, tmp_path / "out", "--to", "onnx", "--no-report")
    (tmp_path / "out").mkdir()  # an empty directory is as good as none
    assert run(capsys, *arguments)[0] == 0
    before = (tmp_path / "out" / "model.onnx").read_bytes()
    assert "is there already; --force replaces it" in refused(capsys, *arguments, "--dtype", "int8")
    assert (tmp_path / "out" / "model.onnx").read_bytes() == before
    assert run(capsys, *arguments, "--dtype", "int8", "--force")[0] == 0
    assert (tmp_path / "out" / "model.onnx").read_bytes() != before
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "holds 'mine.txt', which is no part of an export" in refused(capsys, *arguments, "--force")
    for target, message in (
        (tiny_checkpoint, "is no part of an export"),
        (tiny_checkpoint / "config.json", "is a file"),
    ):
        assert message in refused(capsys, "export", tiny_checkpoint, target, "--to", "onnx", "--force")
    assert (tiny_checkpoint / "model.safetensors").exists()


def test_a_name_that_is_no_text_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    err = refused(capsys, "export", tiny_checkpoint, f"{tmp_path}/\udcff", "--to", "onnx", "--no-report")
    assert "has a name that is no text" in err
    assert list(tmp_path.iterdir()) == []


def test_prompts_are_drawn_where_the_tokenizer_lacks_the_characters_of_ours() -> None:
    from exports import random_checkpoint

    from gptwo.cli.export import prompts_for
    from gptwo.tokenizer import Tokenizer

    drawn = prompts_for(random_checkpoint(), None)
    assert prompts_for(random_checkpoint(), Tokenizer.characters(["абв"])) == drawn
    assert list(map(len, drawn)) == list(range(1, 20, 2))


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"format": "another"}', "[" * 100_000, "\xff"])
def test_a_report_of_somebody_elses_protects_its_directory(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, broken: str
) -> None:
    (tmp_path / "report.json").write_bytes(broken.encode("latin-1"))
    err = refused(capsys, "export", tiny_checkpoint, tmp_path, "--to", "onnx", "--force")
    assert "holds 'report.json', which is no part of an export" in err


def test_what_cannot_be_exported_is_refused_in_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out, packed = tmp_path / "out", tmp_path / "packed"
    assert run(capsys, "quantize", tiny_checkpoint, packed, "--no-report")[0] == 0
    (tmp_path / "file").write_bytes(b"")
    for arguments, message in (
        ((packed, out, "--to", "onnx"), "is packed as int8"),
        ((tmp_path / "none", out, "--to", "onnx"), "no such file or directory"),
        ((tiny_checkpoint, tmp_path / "file" / "out", "--to", "onnx"), "cannot be written"),
    ):
        err = refused(capsys, "export", *arguments)
        assert message in err
        assert err.count("\n") == 1
    for options, message in (
        (("--to", "onnx", "--dtype", "pal4"), "onnx has f32, f16, int8"),
        (("--to", "torch", "--dtype", "int8"), "torch has f32, bf16, f16"),
        (("--to", "onnx", "--compile"), "only torch has a compiled program"),
    ):
        assert message in refused(capsys, "export", tiny_checkpoint, out, *options, code=2)
    assert "'tflite' is not one of" in refused(capsys, "export", tiny_checkpoint, out, "--to", "tflite", code=2)
    assert "--to" in refused(capsys, "export", tiny_checkpoint, out, code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "packed"]


def test_weights_that_the_type_cannot_hold_leave_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from exports import random_checkpoint

    from gptwo.checkpoint import save_checkpoint

    checkpoint = random_checkpoint()
    arrays = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    arrays["h.1.mlp.c_fc.bias"][0] = 70_000
    save_checkpoint(tmp_path / "model", checkpoint.config, arrays, None)
    err = refused(capsys, "export", tmp_path / "model", tmp_path / "out", "--to", "onnx", "--dtype", "f16")
    assert "h.1.mlp.c_fc.bias holds values that float16 cannot hold" in err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("to", "absent", "extra"),
    [
        ("onnx", "onnx", "export"),
        ("onnx", "onnxruntime", "export"),
        ("torch", "torch", "torch"),
        ("coreml", "coremltools", "coreml"),
    ],
)
def test_what_is_not_installed_is_named_with_its_extra(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_checkpoint: Path,
    tmp_path: Path,
    to: str,
    absent: str,
    extra: str,
) -> None:
    for name in [name for name in sys.modules if name.startswith("gptwo.export.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    err = refused(capsys, "export", tiny_checkpoint, tmp_path / "out", "--to", to)
    assert f"pip install '.[{extra}]'" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the system lets root write everywhere")
def test_a_place_where_nothing_may_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in refused(capsys, "export", tiny_checkpoint, tmp_path / "out", "--to", "onnx")
