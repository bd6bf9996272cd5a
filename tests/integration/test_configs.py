"""The recipes in configs/: each is a file that `gptwo train` takes, and two steps of it run with a model made small."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import make_data, metrics_of

from gptwo.cli import main
from gptwo.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
SMALL: dict[str, Any] = {"block_size": 16, "batch_size": 2, "grad_accumulation": 2, "steps": 2, "device": "cpu"}
SMALL |= {"distributed": "auto", "eval_every": 1, "sample_every": 2, "sample_prompt": "the", "threads": 1}
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16}


@pytest.fixture(scope="module")
def data(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("prepared"), tokenizer=str(tiny_checkpoint))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_of_every_recipe_run(path: Path, data: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    from_scratch = "init" not in values
    changes = {**SMALL, **(SHAPE if from_scratch else {"init": tiny_checkpoint})}
    flags = [word for name, value in changes.items() for word in ("--" + name.replace("_", "-"), str(value))]
    out = tmp_path / "run"
    threads = torch.get_num_threads()
    arguments = ["--config", str(path), "--data", str(data), "--out", str(out), "--no-compile", "--no-tensorboard"]
    try:
        assert main(["train", *arguments, *flags]) == 0
    finally:
        torch.set_num_threads(threads)
    assert [line["step"] for line in metrics_of(out) if "loss" in line] == [1, 2]
    assert metrics_of(out)[-1]["sample"].startswith("the")
    # What was not made small is as the file says, and the rest as by default.
    kept = tomllib.loads((out / "train.toml").read_text(encoding="utf-8"))
    changed = {*changes, "compile", "tensorboard", "data", "out"}
    defaults = {name: value for name, value in TrainConfig().to_dict().items() if value is not None}
    expected = {name: value for name, value in {**defaults, **values}.items() if name not in changed}
    assert {name: kept[name] for name in expected} == expected


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_says_how_to_run_it_and_stands_in_the_docs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(rf"^#   (gptwo|torchrun|sbatch) .*configs/{path.name}$", text, flags=re.MULTILINE)
    (data,) = re.findall(r'^data = "(.*)"$', text, flags=re.MULTILINE)
    assert re.search(rf"^#   gptwo prepare .*--out {data}\b", text, flags=re.MULTILINE)
    assert f"`{path.name}`" in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
