"""Several processes that train one model: whole in each (DDP), or in shards (FSDP2). Gloo, on this machine."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_trainer
import torch
from numpy.testing import assert_allclose, assert_array_equal
from several_processes import run_of_several
from tiny_run import SETTINGS, make_data, metrics_of
from tiny_trainer import StopError, Trap, left_over, run, sign, steps_saved, stop_at

from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.safetensors_file import read_safetensors
from gptwo.errors import CheckpointWarning, DataError, NumericalError, TrainingError
from gptwo.training import world as world_module
from gptwo.training.config import TrainConfig
from gptwo.training.report import StopRun, TrainResult
from gptwo.training.run_checkpoint import newest_run_checkpoint
from gptwo.training.sharded_state import write_shards
from gptwo.training.trainer import train
from gptwo.training.world import ElsewhereError, open_world

surroundings, data = tiny_trainer.surroundings, tiny_trainer.data
pytestmark = pytest.mark.xdist_group("several processes")

# Shards go through the model's own blocks, which draw other numbers for dropout than those that are written out.
FOUR = {**SETTINGS, "grad_accumulation": 4, "n_layer": 2, "dropout": 0.0}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process with the settings FOUR."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    run(data, out, **FOUR)
    return out


def assert_same_figures(one: Path, other: Path) -> None:
    lines = metrics_of(one), metrics_of(other)
    for name in ("step", "loss", "lr", "grad_norm", "epoch", "val_loss"):
        assert_allclose(*([line[name] for line in run if name in line] for run in lines), atol=1e-5, err_msg=name)
    weights = [load_checkpoint(out / "model").tensors for out in (one, other)]
    for name in weights[0]:
        assert_allclose(weights[0][name].float32(), weights[1][name].float32(), atol=1e-4, err_msg=name)


def read_state(out: Path) -> dict[str, Any]:
    """The newest checkpoint of a run as arrays, whoever wrote it."""
    checkpoint = newest_run_checkpoint(out / "checkpoints")
    assert checkpoint is not None
    into = {name: torch.zeros(shape) for name, shape in checkpoint.shapes().items()}
    return {name: tensor.numpy() for name, tensor in checkpoint.read(into).items()}


@pytest.mark.parametrize(
    ("size", "how", "optimizer"),
    [
        (2, "auto", "adamw"),
        (2, "ddp", "muon"),
        (2, "fsdp", "muon"),
        pytest.param(4, "fsdp", "adamw", marks=pytest.mark.slow),
    ],
)
def test_several_processes_make_the_steps_of_one(
    size: int, how: str, optimizer: str, data: Path, tmp_path: Path, alone: Path
) -> None:
    settings = {**FOUR, "optimizer": optimizer, "dropout": 0.1 if how == "auto" else 0.0}
    if settings != FOUR:
        alone = tmp_path / "alone"
        run(data, alone, **settings)
    results = run_of_several(size, data, tmp_path / "run", {**settings, "distributed": how})
    assert all(isinstance(result, TrainResult) for result in results), results
    assert all(result == results[0] for result in results)
    assert_same_figures(tmp_path / "run", alone)
    assert left_over(tmp_path / "run") == []
    assert results[0].resumed_from == 0


@pytest.mark.parametrize("then", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_what_two_shards_have_learnt_another_number_of_processes_goes_on_with(
    then: int, data: Path, tmp_path: Path, alone: Path
) -> None:
    out, settings = tmp_path / "run", {**FOUR, "distributed": "fsdp"}
    stopped = run_of_several(2, data, out, settings, stop=7)
    assert [type(answer) for answer in stopped] == [StopRun, StopRun]
    assert steps_saved(out)[-1] == 7
    assert sorted(path.name for path in (out / "checkpoints" / "step-00000007").iterdir()) == [
        ".metadata", "__0_0.distcp", "__1_0.distcp", "manifest.json"
    ]  # fmt: skip
    result = run(data, out, **FOUR) if then == 1 else run_of_several(then, data, out, settings)[0]
    assert result.resumed_from == 7
    assert_same_figures(out, alone)


def test_shards_go_on_from_what_one_process_saved(data: Path, tmp_path: Path, alone: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(7), **FOUR)
    before = read_state(out)
    assert run_of_several(2, data, out, {**FOUR, "distributed": "fsdp"}, stop=8)[0].step == 8
    after = read_state(out)
    assert {name: value.shape for name, value in after.items()} == {name: v.shape for name, v in before.items()}
    assert run_of_several(2, data, out, {**FOUR, "distributed": "fsdp"})[0].resumed_from == 8
    assert_same_figures(out, alone)


@pytest.mark.slow
def test_a_run_of_shards_that_is_stopped_ends_with_the_bits_of_one_that_is_not(data: Path, tmp_path: Path) -> None:
    settings = {**FOUR, "distributed": "fsdp", "optimizer": "muon", "dropout": 0.1}
    run_of_several(2, data, tmp_path / "whole", settings)
    run_of_several(2, data, tmp_path / "run", settings, stop=4)
    run_of_several(2, data, tmp_path / "run", settings, stop=10)
    assert run_of_several(2, data, tmp_path / "run", settings)[0].resumed_from == 10
    whole, parts = read_state(tmp_path / "whole"), read_state(tmp_path / "run")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert_array_equal(value, parts[name], err_msg=name)
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "run")


@pytest.mark.parametrize("settings", [{"dtype": "bf16", "activation_checkpointing": True}, {"sample_every": 3}])
def test_shards_train_with_other_settings_too(settings: dict[str, Any], data: Path, tmp_path: Path) -> None:
    results = run_of_several(2, data, tmp_path / "run", {**FOUR, **settings, "distributed": "fsdp", "steps": 3})
    assert all(isinstance(result, TrainResult) for result in results), results
    lines = metrics_of(tmp_path / "run")
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert ("sample" in lines[-1]) == ("sample_every" in settings)


@pytest.mark.slow
def test_shards_learn_lora_as_one_process_does(tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = make_data(tmp_path / "fitting", tokenizer=str(tiny_checkpoint))
    settings = {**FOUR, "init": str(tiny_checkpoint), "lora_rank": 2, "steps": 4, "eval_every": 2}
    for name in ("n_layer", "n_head", "n_embd"):
        del settings[name]
    train(data, tmp_path / "alone", TrainConfig(**settings))
    results = run_of_several(2, data, tmp_path / "run", {**settings, "distributed": "fsdp"})
    assert all(isinstance(result, TrainResult) for result in results), results
    assert_same_figures(tmp_path / "run", tmp_path / "alone")
    adapters = [
        read_safetensors(out / "adapter" / "adapter_model.safetensors")
        for out in tmp_path.glob("*")
        if (out / "adapter").is_dir()
    ]
    assert len(adapters) == 2
    for name, tensor in adapters[0].items():
        assert_allclose(tensor.float32(), adapters[1][name].float32(), atol=1e-4)


def test_if_one_process_is_told_to_stop_all_do(data: Path, tmp_path: Path) -> None:
    answers = run_of_several(2, data, tmp_path / "run", FOUR, stop=4, stop_ranks=[1])
    assert [(type(answer), answer.step) for answer in answers] == [(StopRun, 4), (StopRun, 4)]
    assert steps_saved(tmp_path / "run")[-1] == 4


def test_a_process_that_dies_ends_the_others_with_one_sentence(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answers = run_of_several(2, data, out, FOUR, kill=4, kill_rank=1)
    assert isinstance(answers[0], TrainingError)
    assert "another process of this run has ended" in str(answers[0])
    assert run_of_several(2, data, out, FOUR)[1].resumed_from == 3


def test_what_all_meet_is_said_by_one(data: Path, tmp_path: Path) -> None:
    answers = run_of_several(2, data, tmp_path / "run", {**FOUR, "block_size": 100_000})
    assert sorted(type(answer).__name__ for answer in answers) == ["DataError", "ElsewhereError"]
    answers = run_of_several(2, data, tmp_path / "run", {**FOUR, "lr": 10.0, "warmup_steps": 0, "grad_clip": 0.0})
    kinds = {type(answer) for answer in answers}
    assert kinds in ({NumericalError, ElsewhereError}, {TrainResult})
    assert DataError is not ElsewhereError


def test_a_number_of_processes_that_does_not_divide_the_batches_is_refused(data: Path, tmp_path: Path) -> None:
    answers = run_of_several(2, data, tmp_path / "run", {**FOUR, "grad_accumulation": 3})
    (said,) = [answer for answer in answers if not isinstance(answer, ElsewhereError)]
    assert isinstance(said, TrainingError)
    assert str(said) == "grad_accumulation is 3, and 2 processes share it; choose a multiple of 2"
    assert not (tmp_path / "run").exists()


def test_one_process_cannot_be_several(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="distributed is 'fsdp', and this is one process: start several with torc"):
        run(data, tmp_path / "run", distributed="fsdp")


@pytest.mark.parametrize("how", ["fsync", "write"])
def test_a_disk_that_fills_up_under_shards_is_the_systems_error(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="needs resource limits, which this system lacks")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    try:
        if how == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        with pytest.raises(OSError, match=r"No space left on device|File too large"):
            write_shards(tmp_path / "shards", {"a": torch.zeros(100, 100)}, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("what", ["code", "half"])
def test_damaged_shards_are_passed_over_and_no_code_in_them_is_run(what: str, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_of_several(2, data, out, {**FOUR, "distributed": "fsdp"}, stop=6)
    newest = out / "checkpoints" / "step-00000006"
    metadata = newest / ".metadata"
    if what == "code":
        metadata.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
        sign(newest)
    else:
        shard = newest / "__1_0.distcp"
        shard.write_bytes(shard.read_bytes()[: os.stat(shard).st_size // 2])
    with pytest.warns(CheckpointWarning, match="UnpicklingError" if what == "code" else "is not as it was written"):
        assert run(data, out, **{**FOUR, "steps": 12}).resumed_from == 5
    assert not (tmp_path / "sprung").exists()


def test_a_process_that_waits_for_others_ends_at_once_by_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a process that never comes is one hour, and no handler is called in it."""
    seen: list[Any] = []

    def wait(*_: object, **__: object) -> None:
        seen.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))
        raise ValueError("nobody there")

    def on_signal(*_: object) -> None:
        pass

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(world_module.dist, "init_process_group", wait)
    before = signal.signal(signal.SIGINT, on_signal), signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(TrainingError, match="did not find each other"), open_world("cpu"):
            pass
        assert seen == [signal.SIG_DFL, signal.SIG_IGN]
        assert signal.getsignal(signal.SIGINT) is on_signal
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
