"""Runs that are stopped, killed, short of space or damaged end as if nothing had happened."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_trainer
import torch
from tiny_run import PROCESSES, SETTINGS, metrics_of, train_in_a_process
from tiny_trainer import StopError, Trap, assert_same_run, fail_at_once, left_over, run, sign, steps_saved, stop_at

from gptwo.checkpoint import load_checkpoint
from gptwo.errors import CheckpointError, CheckpointWarning, TrainingError
from gptwo.training import trainer
from gptwo.training.report import StepReport
from gptwo.training.run_checkpoint import Progress, newest_run_checkpoint, save_run_checkpoint
from gptwo.training.world import World

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


@pytest.mark.parametrize(("without", "call", "before"), [("_save", 2, 3), ("_evaluate", 3, 6), ("_step", 6, 5)])
def test_a_run_that_fails_inside_a_step_goes_on_from_the_checkpoint_before(
    without: str, call: int, before: int, data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls = tmp_path / "run", 0
    method = getattr(trainer._Run, without)

    def fail_late(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise StopError
        return method(*arguments)

    monkeypatch.setattr(trainer._Run, without, fail_late)
    with pytest.raises(StopError):
        run(data, out)
    monkeypatch.undo()
    assert run(data, out).resumed_from == before
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


@pytest.mark.parametrize(
    ("kills", "optimizer"),
    [(3, "adamw"), pytest.param(20, "muon", marks=pytest.mark.slow)],
)
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(
    kills: int, optimizer: str, data: Path, tmp_path: Path
) -> None:
    settings = {**LONG, "optimizer": optimizer, "grad_accumulation": 2}
    run(data, tmp_path / "whole", **settings)
    draw, out = random.Random(), tmp_path / "run"
    for step in sorted(draw.sample(range(1, 85), kills)):
        process = PROCESSES.Process(target=train_in_a_process, args=(data, out, settings))
        process.start()
        wait_for_step(out, step, process)
        time.sleep(draw.random() * 0.03)
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    result = run(data, out, **settings)
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
    (out / "checkpoints" / ".step-00000007.89abcdef.tmp").mkdir()
    (out / "checkpoints" / ".step-00000007.89abcdef.tmp" / "state.pt").touch()
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


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("half", "state.pt is not as it was written"),
        ("bit", "state.pt is not as it was written"),
        ("gone", "state.pt is not as it was written"),
        ("list", "it holds something else"),
        ("text", "UnpicklingError|RuntimeError"),
        ("manifest", "JSONDecodeError"),
        ("no manifest", None),
        ("format", "it holds something else"),
        ("step", "it holds something else"),
        ("negative", "it holds something else"),
        ("renamed", "it is of step 10"),
        ("unknown", "TypeError"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    damage: str, what: str | None, data: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(11))
    newest = out / "checkpoints" / "step-00000011"
    state, manifest = newest / "state.pt", newest / "manifest.json"
    content = state.read_bytes()
    if damage == "half":
        state.write_bytes(content[: len(content) // 2])
    elif damage == "bit":
        state.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "gone":
        state.unlink()
    elif damage == "list":
        torch.save([1, 2], state)
        sign(newest)
    elif damage == "text":
        state.write_bytes(b"hello")
        sign(newest)
    elif damage == "manifest":
        manifest.write_bytes(manifest.read_bytes()[:50])
    elif damage == "no manifest":  # as it is when the kill comes just before
        manifest.unlink()
    elif damage == "format":
        manifest.write_text(manifest.read_text().replace("gptwo-run-1", "gptwo-run-9"))
    elif damage == "step":
        sign(newest, step="11")
    elif damage == "negative":
        sign(newest, waited=-1)
    elif damage == "renamed":
        sign(newest, step=10)
    else:
        sign(newest, elsewhere=1)
    if what is None:
        assert run(data, out).resumed_from == 10
    else:
        with pytest.warns(CheckpointWarning, match=rf"step-00000011: no checkpoint that can be read \(({what})\)"):
            assert run(data, out).resumed_from == 10
    assert_same_run(out, whole)


def test_a_manifest_in_which_a_byte_changed_is_that_of_no_checkpoint(tmp_path: Path) -> None:
    """Whichever byte it is: a step or a best loss that is a little off would go unnoticed for ever."""
    path = save_run_checkpoint(
        tmp_path, Progress(12, 24, 1.5, 2.25, 9, 1), {"model.a": torch.zeros(2)},
        data={"train_sha256": "ab", "val_sha256": "cd"}, keep=2, world=World(), sharded=False,
    )  # fmt: skip
    good, content = newest_run_checkpoint(tmp_path), (path / "manifest.json").read_bytes()
    assert good is not None
    draw = random.Random(1)
    for place in range(len(content)):
        (path / "manifest.json").write_bytes(
            content[:place] + bytes([content[place] ^ 1 << draw.randrange(7)]) + content[place + 1 :]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CheckpointWarning)
            try:
                assert newest_run_checkpoint(tmp_path) == good  # one space for another
            except TrainingError as error:
                assert "none of its checkpoints can be read" in str(error)  # noqa: PT017 - the usual case


def test_a_manifest_of_before_its_hash_is_read(data: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for manifest in (tmp_path / "run").glob("checkpoints/*/manifest.json"):
        values = json.loads(manifest.read_bytes())
        del values["sha256"]
        manifest.write_text(json.dumps(values))
    assert run(data, tmp_path / "run").resumed_from == SETTINGS["steps"]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_afresh(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for path in (out / "checkpoints").glob("*/state.pt"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.warns(CheckpointWarning), pytest.raises(TrainingError, match="none of its checkpoints can be read"):
        run(data, out)
    assert metrics_of(out) == metrics_of(whole)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pickle_with_code_in_place_of_a_checkpoint_is_not_run(wrapped: bool, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(6))
    newest = out / "checkpoints" / "step-00000006"
    trap = {"model.wte.weight": Trap(tmp_path / "sprung")}
    if wrapped:
        torch.save(trap, newest / "state.pt")
    else:
        (newest / "state.pt").write_bytes(pickle.dumps(trap))
    sign(newest)
    with pytest.warns(CheckpointWarning, match="UnpicklingError|RuntimeError"):
        assert run(data, out).resumed_from == 5
    assert not (tmp_path / "sprung").exists()


def test_a_manifest_that_names_files_elsewhere_is_not_followed(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(6))
    path = out / "checkpoints" / "step-00000006" / "manifest.json"
    path.write_text(path.read_text().replace('"state.pt"', '"../step-00000005/state.pt"'))
    with pytest.warns(CheckpointWarning, match="is not as it was written"):
        assert run(data, out).resumed_from == 5


def test_files_with_other_names_are_no_checkpoints(data: Path, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(3))
    others = [
        out / "checkpoints" / name for name in ("step-99999999 (copy)", "step-best", "step-5", "step-00000009.pt")
    ]
    for other in others:
        other.mkdir()
        (other / "manifest.json").write_bytes(b"mine")
    run(data, out)
    assert_same_run(out, whole)
    assert all((other / "manifest.json").read_bytes() == b"mine" for other in others)


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

    def step_then_fill_the_disk(*arguments: Any) -> Any:
        outcome = real_step(*arguments)
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
