"""What docs/training.md says exists: its settings, its files, and its Python runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from tiny_run import make_data

from gptwo.training.config import TrainConfig
from gptwo.training.run_directory import CHECKPOINTS, METRICS, MODEL, SETTINGS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_python_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path, tokenizer="char").rename(tmp_path / "shakespeare_char")
    (tmp_path / "data").mkdir()
    (tmp_path / "shakespeare_char").rename(tmp_path / "data" / "shakespeare_char")
    monkeypatch.chdir(tmp_path)
    (python,) = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    exec(compile(python, "training.md", "exec"), {"__name__": "training"})
    assert capsys.readouterr().out.splitlines()[-1].startswith("runs/small/model ")
    assert {MODEL, METRICS, SETTINGS, CHECKPOINTS} <= {path.name for path in Path("runs/small").iterdir()}


def test_the_settings_and_the_files_that_the_page_names_are_there() -> None:
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    (table,) = re.findall(r"^\| the model \|.*?(?=\n\n)", TEXT, flags=re.DOTALL | re.MULTILINE)
    values = {"adamw", "muon", "cosine", "linear", "wsd", "constant"}
    named = {word.split(" ")[0] for word in re.findall(r"`([^`]+)`", table)}
    assert named - values <= fields
    assert len(named) > 25
    assert set(re.findall(r"`(\w+\.toml)`", TEXT)) == {path.name for path in (ROOT / "configs").glob("*.toml")} | {
        SETTINGS
    }
    for link in re.findall(r"\]\(([^)#]+)", TEXT):
        assert (ROOT / "docs" / link).exists() or link == "data.md", link
