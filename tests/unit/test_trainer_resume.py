"""Runs that are stopped, killed, short of space or damaged end as if nothing had happened."""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_trainer
import torch
from tiny_run import PROCESSES, SETTINGS, metrics_of, train_in_a_process
from tiny_trainer import StopError, assert_same_run, fail_at_once, left_over, run, steps_saved, stop_at

from gptwo.checkpoint import load_checkpoint
from gptwo.errors import CheckpointError, CheckpointWarning, TrainingError
from gptwo.training import trainer
from gptwo.training.trainer import StepReport

surroundings, data, whole = tiny_trainer.surroundings, tiny_trainer.data, tiny_trainer.whole


# ---- going on


@pytest.mark.parametrize("step", [1, 4, 5, 11, 12])
def test_a_run_stopped_between_two_steps_ends_as_if_it_had_not_been(
    step: int, data: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(step))
    assert max(steps_saved(out)) == step  # nothing that was done is lost
    told: list[StepReport] = []
    assert run(data, out, told.append).resumed_from == step
    assert [report.step for report in told] == list(range(step + 1, 13))
    assert_same_run(out, whole)


@pytest.mark.parametrize("without", ["_save", "_evaluate", "_step"])
def test_a_run_that_fails_inside_a_step_goes_on_from_the_checkpoint_before(
    without: str, data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "run", 0
    method = getattr(trainer._Run, without)

    def fail_late(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == {"_save": 2, "_evaluate": 3, "_step": 8}[without]:
            raise StopError
        return method(*arguments)

    monkeypatch.setattr(trainer._Run, without, fail_late)
    with pytest.raises(StopError):
        run(data, out)
    monkeypatch.undo()
    assert run(data, out).resumed_from == 5
    assert_same_run(out, whole)


LONG = {**SETTINGS, "steps": 100, "save_every": 7, "eval_every": 9, "n_embd": 8}


def wait_for_step(out: Path, step: int, process: Any) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            lines = (out / "metrics.jsonl").read_text().split("\n")
            if len(lines) > step:
                return
        except FileNotFoundError:
            pass
        assert process.is_alive(), process.exitcode
        time.sleep(0.01)
    pytest.fail(f"step {step} was not reached")


def test_a_run_killed_five_times_at_random_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "whole", **LONG)
    draw, out = random.Random(), tmp_path / "run"
    for step in sorted(draw.sample(range(1, 85), 5)):
        process = PROCESSES.Process(target=train_in_a_process, args=(data, out, LONG))
        process.start()
        wait_for_step(out, step, process)
        time.sleep(draw.random() * 0.03)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    result = run(data, out, **LONG)
    assert 0 < result.resumed_from < 100
    assert_same_run(out, tmp_path / "whole", 100)


def test_a_second_process_in_the_same_run_is_refused(data: Path, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", {**SETTINGS, "steps": 100_000}
    process = PROCESSES.Process(target=train_in_a_process, args=(data, out, settings))
    process.start()
    try:
        wait_for_step(out, 1, process)
        with pytest.raises(TrainingError, match="another process is training here"):
            run(data, out, steps=100_000)
        assert process.is_alive()
    finally:
        process.kill()
        process.join(60)
    with pytest.raises(StopError):  # and after its end nothing holds the place
        run(data, out, fail_at_once, steps=100_000)


def test_a_complete_run_started_again_changes_nothing(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.rglob("*")}
    result = run(data, out, lambda report: pytest.fail("a step was made"))
    assert result.resumed_from == result.steps == 12
    assert result.best_val_loss == min(line["val_loss"] for line in metrics_of(whole) if "val_loss" in line)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.rglob("*")} == before


def test_what_a_killed_process_left_half_written_is_cleared_away(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(6))
    # As it is when the kill comes between the two renamings that replace the model.
    (out / ".model.0123abcd.tmp").mkdir()
    (out / "model").rename(out / ".model.0123abcd.tmp" / "old")
    (out / ".model.4567abcd.tmp").mkdir()
    (out / ".model.4567abcd.tmp" / "config.json").touch()
    (out / "checkpoints" / ".step-00000007.pt.89abcdef.tmp").touch()
    (out / ".metrics.jsonl.89abcdef.tmp").touch()
    (out / ".mine.tmp").touch()
    with pytest.raises(StopError):
        run(data, out, stop_at(7))
    assert left_over(out) == [out / ".mine.tmp"]
    assert load_checkpoint(out / "model").config.n_embd == 16
    (out / ".mine.tmp").unlink()
    run(data, out)
    assert_same_run(out, whole)


def test_a_line_of_metrics_that_was_cut_short_is_made_again(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(7))
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 5.1}\n\xff{"step": 9, "lo')
    run(data, out)
    assert_same_run(out, whole)


# ---- checkpoints that are broken, disks that are full


@pytest.mark.parametrize("damage", ["half", "empty", "text", "list", "no best"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    damage: str, data: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(11))
    newest = out / "checkpoints" / "step-00000011.pt"
    content = newest.read_bytes()
    if damage == "list":
        torch.save([1, 2], newest)
    elif damage == "no best":
        state = torch.load(newest, weights_only=True)
        del state["best"]
        torch.save(state, newest)
    else:
        newest.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.warns(CheckpointWarning, match=r"step-00000011\.pt: no checkpoint that can be read"):
        assert run(data, out).resumed_from == 10
    assert_same_run(out, whole)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_afresh(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in (out / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(CheckpointWarning), pytest.raises(TrainingError, match="none of its checkpoints can be read"):
        run(data, out)
    assert metrics_of(out) == metrics_of(whole)


class Trap:
    """Pickled, it asks for a call when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_code_in_place_of_a_checkpoint_is_not_run(wrapped: bool, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(6))
    newest = out / "checkpoints" / "step-00000006.pt"
    trap = {"step": 6, "model": {}, "optimizer": {}, "best": 0.0, "seconds": 0.0, "trap": Trap(tmp_path / "sprung")}
    if wrapped:
        torch.save(trap, newest)
    else:
        newest.write_bytes(pickle.dumps(trap))
    with pytest.warns(CheckpointWarning, match="UnpicklingError"):
        assert run(data, out).resumed_from == 5
    assert not (tmp_path / "sprung").exists()


def test_files_with_other_names_are_no_checkpoints(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(3))
    others = [out / "checkpoints" / name for name in ("step-99999999 (copy).pt", "step-best.pt", "step-5.pt")]
    for other in others:
        other.write_bytes(b"mine")
    run(data, out)
    assert_same_run(out, whole)
    assert all(other.read_bytes() == b"mine" for other in others)


@pytest.mark.parametrize("how", ["fsync", "write"])
@pytest.mark.parametrize("step", [5, 6])  # the one writes a checkpoint, the other a model
def test_a_disk_that_fills_up_is_one_error_and_costs_nothing_that_was_saved(
    how: str, step: int, data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource", reason="needs resource limits, which this system lacks")
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(step - 1))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "metrics.jsonl"}
    limits, real_step = resource.getrlimit(resource.RLIMIT_FSIZE), trainer._Run._step

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def step_then_fill_the_disk(self: Any, model: Any, number: int) -> Any:
        outcome = real_step(self, model, number)
        if how == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        else:
            monkeypatch.setattr(os, "fsync", full)
        return outcome

    monkeypatch.setattr(trainer._Run, "_step", step_then_fill_the_disk)
    try:
        with pytest.raises((TrainingError, CheckpointError), match=r"No space left on device|File too large") as caught:
            run(data, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert str(out) in str(caught.value)
    assert left_over(out) == []
    assert {path: path.read_bytes() for path in before} == before
    assert run(data, out).resumed_from == step - 1
    assert_same_run(out, whole)
