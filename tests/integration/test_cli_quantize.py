"""`gptwo quantize`: what it writes, what it reports, what it refuses; and every command takes what it wrote."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_line import refused, run

import gptwo
from gptwo.checkpoint.packed_format import WEIGHTS_FILE
from gptwo.cli import main


@pytest.fixture(scope="module")
def packed(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "tiny"
    assert main(["quantize", str(tiny_checkpoint), str(out), "--no-report"]) == 0
    return out


@pytest.mark.parametrize("weights", ["int8", "int4", "bf16"])
def test_a_model_is_packed_and_compared(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, weights: str
) -> None:
    (tmp_path / "text").write_text("Speak, speak. " * 20, encoding="utf-8")
    arguments = ("quantize", tiny_checkpoint, tmp_path / "out", "--weights", weights, "--text", tmp_path / "text")
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert f"weights          {weights}, layout" in out
    assert "compared on      text, " in out
    assert "logits           mean difference 0." in out
    assert "perplexity       " in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "config.json",
        WEIGHTS_FILE,
        "tokenizer.json",
        "tokenizer.table",
        "tokenizer_config.json",
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"packed as {weights}" in card
    assert str(tmp_path) not in card


def test_the_report_as_json_says_what_the_model_says(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    text = "Speak, speak. We know't! " * 3
    (tmp_path / "text").write_text(text, encoding="utf-8")
    arguments = ("quantize", tiny_checkpoint, tmp_path / "out", "--text", tmp_path / "text", "--json")
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    report = json.loads(out)
    exact, ours = gptwo.load(tiny_checkpoint), gptwo.load(tmp_path / "out")
    found = report["against_f32"]
    assert found["tokens"] == len(exact.tokenizer.encode(text))
    assert found["perplexity"] == pytest.approx(exact.score(text).perplexity, rel=1e-5)
    assert found["other_perplexity"] == pytest.approx(ours.score(text).perplexity, rel=1e-5)
    difference = abs(exact.logits(text) - ours.logits(text))
    assert found["mean_difference"] == pytest.approx(difference.mean(), rel=1e-4)
    assert found["worst_difference"] == pytest.approx(difference.max(), rel=1e-4)
    assert report["bytes"] < report["bytes_before"]


def test_every_command_takes_a_packed_model(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, packed: Path
) -> None:
    for command in (
        ("generate", "speak", "--max-tokens", 5, "--temperature", 0),
        ("generate", "speak", "--beams", 2, "--max-tokens", 5),
        ("top", "speak", "-k", 3, "--json"),
        ("tokenize", "speak"),
    ):
        direct = run(capsys, *command, "-m", tiny_checkpoint, *(["--weights", "int8"] * (command[0] != "tokenize")))
        assert run(capsys, *command, "-m", packed) == direct
        assert direct[0] == 0


def test_a_text_is_scored_alike_packed_before_or_now(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, packed: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("Before we proceed any further, hear me speak.", encoding="utf-8")
    now = run(capsys, "score", tmp_path / "text", "-m", tiny_checkpoint, "--weights", "int8")
    assert run(capsys, "score", tmp_path / "text", "-m", packed) == now


def test_packing_again_replaces_what_was_packed(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for weights in ("int8", "bf16"):
        code, _, _ = run(capsys, "quantize", tiny_checkpoint, tmp_path / "out", "--weights", weights, "--no-report")
        assert code == 0
    assert gptwo.load(tmp_path / "out")._model.decoder.weights == "bf16"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_model_without_a_tokenizer_is_packed_and_the_report_says_why_it_is_short(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes((tiny_checkpoint / name).read_bytes())
    code, out, _ = run(capsys, "quantize", tmp_path / "model", tmp_path / "out")
    assert code == 0
    assert "not compared with f32: the model brings no tokenizer" in out
    code, out, _ = run(capsys, "quantize", tmp_path / "model", tmp_path / "out", "--tokenizer", tiny_checkpoint)
    assert code == 0
    assert "compared on      a sample text, " in out


def test_a_text_of_one_token_has_differences_and_no_perplexity(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("a", encoding="utf-8")
    arguments = ("quantize", tiny_checkpoint, tmp_path / "out", "--text", tmp_path / "text")
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert json.loads(out)["against_f32"]["perplexity"] is None
    assert math.isfinite(json.loads(out)["against_f32"]["worst_difference"])
    assert run(capsys, *arguments)[0] == 0


def test_what_cannot_be_packed_is_refused_in_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, packed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "empty").write_bytes(b"")
    for arguments, message in (
        (("quantize", packed, out), "is packed already, as int8"),
        (("quantize", tmp_path / "none", out), "no such file or directory"),
        (("quantize", tiny_checkpoint, out, "--text", tmp_path / "none"), "cannot be read"),
        (("quantize", tiny_checkpoint, out, "--text", tmp_path / "latin"), "not UTF-8"),
        (("quantize", tiny_checkpoint, out, "--text", tmp_path / "empty"), "nothing to compare on"),
        (("generate", "a", "-m", packed, "--weights", "f32"), "is packed as int8"),
        (("generate", "a", "-m", packed, "--backend", "reference"), "only the native backend reads"),
    ):
        err = refused(capsys, *arguments)
        assert message in err
        assert err.count("\n") == 1
    assert "1<=x<=256" in refused(capsys, "quantize", tiny_checkpoint, out, "--threads", 0, code=2)
    assert "int4" in refused(capsys, "quantize", tiny_checkpoint, out, "--weights", "int3", code=2)
    assert "--no-report" in refused(
        capsys, "quantize", tiny_checkpoint, out, "--no-report", "--text", tmp_path / "latin", code=2
    )
    assert not out.exists()


def test_weights_that_are_not_packed_are_never_replaced(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for target in (tiny_checkpoint, tiny_checkpoint / "model.safetensors"):
        before = (tiny_checkpoint / "model.safetensors").read_bytes()
        assert "cannot be saved there" in refused(capsys, "quantize", tiny_checkpoint, target)
        assert (tiny_checkpoint / "model.safetensors").read_bytes() == before
    (tmp_path / "mine.txt").write_text("mine")
    assert "holds 'mine.txt'" in refused(capsys, "quantize", tiny_checkpoint, tmp_path)


def test_a_packed_model_cannot_be_trained(capsys: pytest.CaptureFixture[str], packed: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Speak, speak. We know't! " * 400, encoding="utf-8")
    data = tmp_path / "data"
    assert run(capsys, "prepare", tmp_path / "text", "--out", data, "--tokenizer", packed)[0] == 0
    arguments = ("train", "--data", data, "--out", tmp_path / "run", "--init", packed, "--block-size", 16, "--steps", 1)
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert "is packed as int8, which cannot be trained" in err
