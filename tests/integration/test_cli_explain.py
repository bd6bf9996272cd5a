"""`gptwo explain` as a person meets it: the page, pictures, JSON, mistakes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from command_line import refused, run

from gptwo.inspection import Inspector, plots

pytestmark = pytest.mark.usefixtures("in_tmp_path")


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_prompt_becomes_a_page_beside_the_pictures(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(capsys, "explain", "hear me speak", "--model", tiny_checkpoint)
    assert (code, out, err) == (0, "explain.html\n", "")
    assert (tmp_path / "explain.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    for name in ("lens", "attention", "attribution", "losses", "induction", "spread"):  # which have tests of their own
        monkeypatch.setattr(plots, f"plot_{name}", lambda *_: b"PNG")
    code, out, err = run(capsys, "explain", "hear", "--model", tiny_checkpoint, "--out", "here.html", "--png", "all")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "here.html"
    assert len(lines) == 7
    assert all(Path(line).is_file() for line in lines)


def test_json_holds_the_numbers_and_no_page_is_written(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hear me\n")))
    code, out, err = run(capsys, "explain", "-", "--model", tiny_checkpoint, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["prompt"] == "hear me"
    assert data["model"]["layers"] == 2
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_one_sentence_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = ("--model", tiny_checkpoint)
    assert "(no such directory: no/such)" in refused(capsys, "explain", "x", *model, "--out", "no/such/place.html")
    assert "(it is a directory)" in refused(capsys, "explain", "x", *model, "--out", tmp_path)
    assert "64 positions" in refused(capsys, "explain", "hear me speak " * 40, *model)
    assert "nowhere" in refused(capsys, "explain", "x", "--model", "./nowhere")
    assert "device" in refused(capsys, "explain", "x", *model, "--device", "abacus")
    assert "cannot be written" in refused(capsys, "explain", "x", *model, "--out", "n" * 300)
    assert "cannot be written" in refused(capsys, "explain", "x", *model, "--png", "n" * 300)
    assert "a path is empty" in refused(capsys, "explain", "x", *model, "--out", "", code=2)
    assert "a path is empty" in refused(capsys, "explain", "x", *model, "--png", "", code=2)
    assert "a tokenizer's path is empty" in refused(capsys, "explain", "x", *model, "--tokenizer", "")
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_is_told_before_the_model_is_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "page.html")
    model = ("--model", "./nowhere")
    for folder in ("file", "file/within", "/proc/x", "n" * 300, "new/" + "n" * 300):
        said = refused(capsys, "explain", "x", *model, "--png", folder)
        assert "pictures cannot be written there" in said
    for out in ("/proc/x.html", "file/x.html", "gone", "n" * 300):
        assert "cannot be written" in refused(capsys, "explain", "x", *model, "--out", out)
    for good in ("new/pictures", ".", tmp_path):
        assert "no such file or directory: './nowhere'" in refused(capsys, "explain", "x", *model, "--png", good)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "gone"]


def test_a_model_that_cannot_be_explained_is_refused_before_pytorch_is_imported(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, mute = tmp_path / "packed", tmp_path / "mute"
    run(capsys, "quantize", tiny_checkpoint, packed, "--no-report")
    mute.mkdir()
    for name in ("config.json", "model.safetensors"):
        (mute / name).write_bytes((tiny_checkpoint / name).read_bytes())
    with monkeypatch.context() as without:
        for name in [name for name in sys.modules if name.startswith("gptwo.inspection")]:
            without.delitem(sys.modules, name)
        without.setitem(sys.modules, "torch", None)
        said = refused(capsys, "explain", "x", "--model", packed)
        assert "is packed as int8, and a packed model cannot be looked into; name the checkpoint that it was" in said
        assert "brings no tokenizer; name one with --tokenizer" in refused(capsys, "explain", "x", "--model", mute)
    code, _, _ = run(capsys, "explain", "hear", "--model", mute, "--tokenizer", tiny_checkpoint, "--json")
    assert code == 0
    assert Inspector.load(mute).name == str(mute)


def test_without_pytorch_one_sentence_names_the_extra(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("gptwo.inspection")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "'.[torch]'" in refused(capsys, "explain", "x", "--model", tiny_checkpoint)
