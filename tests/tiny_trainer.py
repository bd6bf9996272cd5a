"""What the tests of the trainer share: runs that take a moment, and what they leave."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_array_equal
from tiny_run import SETTINGS, make_data, metrics_of

from gptwo.training.config import TrainConfig
from gptwo.training.report import StepReport, TrainResult
from gptwo.training.run_checkpoint import manifest_hash, run_checkpoints
from gptwo.training.trainer import train


@pytest.fixture(autouse=True, scope="module")
def surroundings() -> Iterator[None]:
    """One thread, since more may sum in another order; and no waiting for the disk, which only power cuts need."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("prepared"))


def run(
    data: Path, out: Path, on_step: Callable[[StepReport], None] = lambda report: None, **changes: Any
) -> TrainResult:
    """A run with SETTINGS, some of them changed."""
    return train(data, out, TrainConfig(**{**SETTINGS, **changes}), on_step)


def from_model(
    model: Path | str,
    data: Path,
    out: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
    **changes: Any,
) -> TrainResult:
    return run(data, out, on_step, init=str(model), n_layer=None, n_head=None, n_embd=None, **changes)


def weights_of(out: Path, step: int) -> dict[str, Any]:
    """The weights and the optimizers' state in a checkpoint, as arrays by name."""
    state = torch.load(out / "checkpoints" / f"step-{step:08d}" / "state.pt", weights_only=True)
    return {name.removeprefix("model."): tensor.numpy() for name, tensor in state.items()}


def steps_saved(out: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in run_checkpoints(out / "checkpoints")]


def left_over(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name.endswith(".tmp")]


def assert_same_run(one: Path, other: Path, step: int = SETTINGS["steps"]) -> None:
    """Both runs came to the same weights, bit by bit, told the same on the way, and saved the same model."""
    first, second = weights_of(one, step), weights_of(other, step)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert_array_equal(value, second[name], err_msg=name)
    assert metrics_of(one) == metrics_of(other)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (one / "model" / name).read_bytes() == (other / "model" / name).read_bytes()
    assert left_over(one) == left_over(other) == []


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted; tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(data, out)
    return out


class StopError(Exception):
    """What a test ends a run with."""


def stop_at(step: int) -> Callable[[StepReport], None]:
    def on_step(report: StepReport) -> None:
        if report.step == step:
            raise StopError

    return on_step


def fail_at_once(report: StepReport) -> None:
    raise StopError


def sign(checkpoint: Path, **changes: Any) -> None:
    """Write the manifest of a checkpoint anew, as whoever changes its files on purpose can."""
    path = checkpoint / "manifest.json"
    manifest = json.loads(path.read_bytes())
    for name in manifest["files"]:
        content = (checkpoint / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["progress"] |= changes
    del manifest["sha256"]
    path.write_text(json.dumps({**manifest, "sha256": manifest_hash(manifest)}))


class Trap:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)
