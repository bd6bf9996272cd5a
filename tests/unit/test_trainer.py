"""The training loop: it learns, it can be stopped anywhere, and it says what goes wrong."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_run import PROCESSES, SETTINGS, make_data, metrics_of, train_in_a_process

import gptwo
from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.config import GPTConfig
from gptwo.errors import (
    CheckpointError,
    CheckpointWarning,
    ConfigError,
    DataError,
    GptwoError,
    InvalidRequestError,
    ModelNotFoundError,
    NumericalError,
    TrainingError,
)
from gptwo.tokenizer import Tokenizer
from gptwo.training import trainer
from gptwo.training.config import TrainConfig
from gptwo.training.shards import read_shard
from gptwo.training.trainer import StepReport, TrainResult, train


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


def weights_of(out: Path, step: int) -> dict[str, Any]:
    """The weights and the optimizer's state in a checkpoint, as arrays by name."""
    state = torch.load(out / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)
    moments = {f"{key}.{name}": t for key, one in state["optimizer"]["state"].items() for name, t in one.items()}
    return {name: tensor.numpy() for name, tensor in {**state["model"], **moments}.items()}


def steps_saved(out: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (out / "checkpoints").glob("step-*.pt"))


def left_over(out: Path) -> list[Path]:
    return [path for path in out.rglob(".*") if path.name.endswith((".tmp", ".old"))]


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


# ---- what a run leaves


def test_the_loss_goes_down(data: Path, tmp_path: Path) -> None:
    told: list[StepReport] = []
    result = run(data, tmp_path / "run", told.append, steps=120, dropout=0.0, eval_every=40)
    assert told[0].loss == pytest.approx(np.log(280), abs=0.3)  # nothing is known at first
    assert np.mean([report.loss for report in told[-10:]]) < told[0].loss - 2.0
    losses = [report.val_loss for report in told if report.val_loss is not None]
    assert losses == sorted(losses, reverse=True)
    assert result.best_val_loss == losses[-1]


def test_each_step_has_a_line_of_metrics_and_is_told_of(data: Path, tmp_path: Path) -> None:
    told: list[StepReport] = []
    result = run(data, tmp_path / "run", told.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [report.to_dict() for report in told]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if "val_loss" in line] == [3, 6, 9, 12]
    assert all(line["tokens_per_second"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert [line["lr"] for line in lines[:3]] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    windows = (len(read_shard(data / "train.bin")) - 1 - 8) // 8
    assert lines[-1]["epoch"] == pytest.approx(12 * 4 / windows)
    header = read_shard(data / "val.bin").header
    best = min(lines, key=lambda line: line.get("val_loss", np.inf))
    assert result == TrainResult(
        model=tmp_path / "run" / "model",
        steps=12,
        best_val_loss=best["val_loss"],
        best_val_nats_per_character=best["val_loss"] * header.count / header.characters,
        resumed_from=0,
    )


def test_the_newest_two_checkpoints_are_kept(whole: Path) -> None:
    assert steps_saved(whole) == [10, 12]
    assert {path.name for path in whole.iterdir()} == {"checkpoints", "lock", "metrics.jsonl", "model", "train.json"}
    assert left_over(whole) == []


def test_a_model_from_scratch_has_the_shape_that_was_asked_for(whole: Path) -> None:
    checkpoint = load_checkpoint(whole / "model")
    tokenizer = Tokenizer.load(whole / "model")
    end = tokenizer.end_of_text_id
    expected = GPTConfig(
        vocab_size=280, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end
    )
    assert dataclasses.replace(checkpoint.config, extra={}) == expected


def test_the_saved_model_gives_the_validation_loss_that_was_reported(whole: Path, data: Path) -> None:
    best = min((line for line in metrics_of(whole) if "val_loss" in line), key=lambda line: line["val_loss"])
    shard = read_shard(data / "val.bin")
    nats = 0.0
    with gptwo.load(whole / "model") as model:
        for start in range(0, len(shard) - 1, 8):
            ids = shard.window(start, 9)
            logits = model.logits(ids[:-1].tolist()).astype(np.float64)
            shifted = logits - logits.max(axis=1, keepdims=True)
            logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            nats -= logprobs[np.arange(len(ids) - 1), ids[1:]].sum()
    assert nats / (len(shard) - 1) == pytest.approx(best["val_loss"], abs=1e-5)


def test_the_saved_model_is_the_best_and_not_the_last(data: Path, tmp_path: Path) -> None:
    def worse_at_the_end(step: int, config: TrainConfig) -> float:
        return 0.01 if step < 9 else 3.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "learning_rate", worse_at_the_end)
        run(data, tmp_path / "run", save_every=3)
    lines = metrics_of(tmp_path / "run")
    assert lines[8]["val_loss"] < lines[11]["val_loss"]
    saved = load_checkpoint(tmp_path / "run" / "model").tensors["wte.weight"].float32()
    assert_array_equal(saved, weights_of(tmp_path / "run", 9)["wte.weight"])
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| steps | 9 of 12, 32 tokens each |" in card
    assert f"{lines[8]['val_loss']:.4f} nats per token, {lines[8]['val_nats_per_character']:.4f}" in card


def test_the_card_says_how_to_make_the_model_again(whole: Path, data: Path) -> None:
    card = (whole / "model" / "README.md").read_text()
    assert f"gptwo prepare text.txt --out {data} --tokenizer bpe:280 --val-fraction 0.1\n" in card
    assert f"gptwo train --data {data} --out {whole} --n-layer 1 --n-head 2 --n-embd 16 --block-size 8" in card
    assert f"| seed | {SETTINGS['seed']} |" in card


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_the_model_is_saved_in_the_type_that_was_asked_for(dtype: str, data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", save_dtype=dtype, steps=3)
    tensors = load_checkpoint(tmp_path / "run" / "model").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {dtype.upper()}


def test_bf16_trains_to_nearly_the_same_losses(data: Path, tmp_path: Path, whole: Path) -> None:
    run(data, tmp_path / "run", dtype="bf16")
    losses = [[line["loss"] for line in metrics_of(out)] for out in (tmp_path / "run", whole)]
    assert losses[0] != losses[1]
    assert_allclose(*losses, rtol=0.02)


def test_accumulated_gradients_are_those_of_one_large_batch(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "large", batch_size=8, dropout=0.0, steps=4, warmup_steps=0)
    run(data, tmp_path / "small", batch_size=2, grad_accumulation=4, dropout=0.0, steps=4, warmup_steps=0)
    large, small = metrics_of(tmp_path / "large"), metrics_of(tmp_path / "small")
    for name in ("loss", "grad_norm", "val_loss", "epoch"):
        assert_allclose(
            [line[name] for line in small if name in line], [line[name] for line in large if name in line], rtol=1e-5
        )
    assert small[0]["loss"] == pytest.approx(large[0]["loss"], rel=1e-6)
    assert small[0]["grad_norm"] == pytest.approx(large[0]["grad_norm"], rel=1e-6)


def test_dropout_and_the_seed_matter(data: Path, tmp_path: Path, whole: Path) -> None:
    losses = {"whole": [line["loss"] for line in metrics_of(whole)]}
    changes = {
        "dropout": {"dropout": 0.0},
        "attention": {"attn_dropout": 0.0},
        "seed": {"seed": SETTINGS["seed"] % 2**32},
    }
    for name, change in changes.items():
        run(data, tmp_path / name, **change)
        losses[name] = [line["loss"] for line in metrics_of(tmp_path / name)]
    assert len({tuple(values) for values in losses.values()}) == 4


def test_the_largest_seed_is_one(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", seed=2**63 - 1, steps=2)
    assert len(metrics_of(tmp_path / "run")) == 2


def test_a_step_does_not_depend_on_how_often_it_is_evaluated_or_saved(data: Path, tmp_path: Path, whole: Path) -> None:
    run(data, tmp_path / "run", eval_every=1, save_every=1)
    assert [line["loss"] for line in metrics_of(tmp_path / "run")] == [line["loss"] for line in metrics_of(whole)]


# ---- validation data


def test_without_validation_data_the_last_model_is_saved(tmp_path: Path) -> None:
    data = make_data(tmp_path, val_fraction=0.0)
    result = run(data, tmp_path / "run")
    assert result.best_val_loss is None
    assert result.best_val_nats_per_character is None
    assert not any("val_loss" in line for line in metrics_of(tmp_path / "run"))
    saved = load_checkpoint(tmp_path / "run" / "model").tensors["wte.weight"].float32()
    assert_array_equal(saved, weights_of(tmp_path / "run", 12)["wte.weight"])
    assert "validation loss |" not in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_validation_data_shorter_than_a_window_will_do(tokens: int, tmp_path: Path) -> None:
    data = make_data(tmp_path, tokenizer="char", characters=500, val_fraction=tokens / 500)
    assert len(read_shard(data / "val.bin")) == tokens
    result = run(data, tmp_path / "run", steps=3)
    assert (result.best_val_loss is None) == (tokens == 1)
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_training_data_shorter_than_a_window_is_refused(data: Path, tmp_path: Path) -> None:
    count = len(read_shard(data / "train.bin"))
    run(data, tmp_path / "fits", block_size=count - 1, batch_size=1, steps=1)
    with pytest.raises(DataError, match=rf"has {count} tokens, fewer than block_size \+ 1 = {count + 1}"):
        run(data, tmp_path / "run", block_size=count)
    assert not (tmp_path / "run").exists()


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
        time.sleep(0.002)
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
    (out / ".model.0123abcd.old").mkdir()
    (out / "model").rename(out / ".model.0123abcd.old" / "model")
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


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.02), ("steps", 13), ("seed", 1), ("n_layer", 2), ("dtype", "bf16"), ("min_lr", 0.0)]
)
def test_other_settings_on_a_run_that_exists_are_refused_by_name(
    name: str, value: Any, data: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(TrainingError) as caught:
        run(data, out, **{name: value})
    before = TrainConfig(**SETTINGS).to_dict()[name]
    assert f"was started with {name} {before!r}, not {value!r}; " in str(caught.value)
    assert_same_run(out, whole)


@pytest.mark.parametrize("characters", [3500, 3999])  # of which the second changes the validation data alone
def test_other_data_on_a_run_that_exists_is_refused(characters: int, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(TrainingError, match="was started with other data"):
        run(make_data(tmp_path, characters=characters), out)


def test_a_setting_that_a_run_was_started_without_is_its_default(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(data, tmp_path / "run", stop_at(2))
    path = tmp_path / "run" / "train.json"
    values = json.loads(path.read_text())
    del values["grad_clip"], values["val_sha256"]
    path.write_text(json.dumps(values))
    with pytest.raises(TrainingError, match=r"grad_clip 1\.0, not 2\.0"):
        run(data, tmp_path / "run", grad_clip=2.0)
    assert run(data, tmp_path / "run").resumed_from == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"[" * 100_000])
def test_broken_settings_of_a_run_are_an_error_that_names_them(content: bytes, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.json").write_bytes(content)
    with pytest.raises(TrainingError, match=r"train\.json: is broken; choose another --out"):
        run(data, tmp_path / "run")


def test_checkpoints_of_another_model_are_refused(data: Path, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(TrainingError, match="its checkpoint of step 12 is of another model"):
        run(data, tmp_path / "run", n_embd=32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_head": 3}, ConfigError, "n_embd 16 is not a multiple of n_head 3"),
        ({"device": "cuda:99"}, InvalidRequestError, "device 'cuda:99' cannot be used"),
        ({"device": "abacus"}, InvalidRequestError, "device 'abacus' cannot be used"),
        ({"n_embd": 2**30, "n_head": 1}, TrainingError, "not enough memory"),
    ],
)
def test_what_cannot_be_built_is_an_error_that_says_so(
    changes: dict[str, Any], error: type[GptwoError], message: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(data, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file: cannot be written"):
        run(data, tmp_path / "file")


# ---- data


def test_data_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.json: cannot be read .* make the data with 'gptwo prepare'"):
        run(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_shards_of_another_tokenizer_are_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    other = make_data(tmp_path / "other", tokenizer="char")
    shutil.copy(other / "val.bin", tmp_path / "data" / "val.bin")
    with pytest.raises(DataError, match=r"val\.bin: was not made with the tokenizer in"):
        run(tmp_path / "data", tmp_path / "run")


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_token_beyond_the_vocabulary_is_an_error_that_names_the_file(name: str, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / f"{name}.bin"
    content = path.read_bytes()
    path.write_bytes(content[:1024] + b"\xff\xff" * ((len(content) - 1024) // 2))
    with pytest.raises(DataError, match=rf"{name}\.bin: token \d+ is 65535, the vocabulary has 280"):
        run(tmp_path / "data", tmp_path / "run")


def test_a_shard_whose_vocabulary_is_larger_than_the_models_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "train.bin"
    content = path.read_bytes()
    path.write_bytes(content[:1024].replace(b'"vocab_size": 280', b'"vocab_size": 281') + content[1024:])
    with pytest.raises(DataError, match=r"train\.bin: its vocabulary has 281 tokens, the model's 280"):
        run(tmp_path / "data", tmp_path / "run")


# ---- losses that are no numbers


@pytest.mark.parametrize(
    ("rate", "message"),
    [(1e30, r"the (validation )?loss is (nan|inf).* at step"), (float("inf"), "at step")],
)
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_checkpoints(
    rate: float, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    normal = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: rate if step == 6 else normal(step, config))
    with pytest.raises(NumericalError, match=message) as caught:
        run(data, out, dropout=0.0)
    assert "step-00000005.pt is as it was" in str(caught.value)
    assert steps_saved(out) == [5]
    assert left_over(out) == []
    assert all(np.isfinite(value).all() for value in weights_of(out, 5).values())
    assert np.isfinite([line["loss"] for line in metrics_of(out)]).all()
    monkeypatch.undo()
    assert run(data, out, dropout=0.0).resumed_from == 5


def test_weights_that_are_no_numbers_are_not_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    normal = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: np.inf if step == 9 else normal(step, config))
    with pytest.raises(NumericalError, match="a weight is infinite or not a number at step 10"):
        run(data, out)
    assert steps_saved(out) == [5]


def test_a_loss_that_is_no_number_at_once_is_an_error(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    tensors = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    tensors["ln_f.weight"] = np.full_like(tensors["ln_f.weight"], np.nan)
    save_checkpoint(tmp_path / "nan", checkpoint.config, tensors, None)
    with pytest.raises(NumericalError, match=r"at step 1, so the run stops\. A lower lr may help"):
        from_model(tmp_path / "nan", data, tmp_path / "run")


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


# ---- starting from a model


def from_model(
    model: Path | str,
    data: Path,
    out: Path,
    on_step: Callable[[StepReport], None] = lambda report: None,
    **changes: Any,
) -> TrainResult:
    return run(data, out, on_step, init=str(model), n_layer=None, n_head=None, n_embd=None, **changes)


@pytest.fixture(scope="module")
def fitting(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data prepared with the tokenizer of the tiny checkpoint."""
    return make_data(tmp_path_factory.mktemp("fitting"), tokenizer=str(tiny_checkpoint))


def changed_checkpoint(tiny_checkpoint: Path, out: Path, *, tokenizer: bool = True, **changes: Any) -> Path:
    """The tiny checkpoint, its configuration changed."""
    checkpoint = load_checkpoint(tiny_checkpoint)
    tensors = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    kept = Tokenizer.load(tiny_checkpoint) if tokenizer else None
    save_checkpoint(out, checkpoint.config.replace(**changes), tensors, kept)
    return out


def test_a_run_can_start_from_a_model(tiny_checkpoint: Path, fitting: Path, tmp_path: Path) -> None:
    extra = {"task_specific_params": {"text-generation": {"max_length": 50}}}
    start = changed_checkpoint(
        tiny_checkpoint, tmp_path / "start", eos_token_id=7, pad_token_id=3, layer_norm_epsilon=1e-6, extra=extra
    )
    with pytest.raises(StopError):
        from_model(start, fitting, tmp_path / "run", stop_at(7), dropout=0.2, attn_dropout=0.1)
    assert from_model(start, fitting, tmp_path / "run", dropout=0.2, attn_dropout=0.1).resumed_from == 7
    from_model(start, fitting, tmp_path / "whole", dropout=0.2, attn_dropout=0.1)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "run" / "model")
    assert after.config == before.config.replace(resid_pdrop=0.2, embd_pdrop=0.2, attn_pdrop=0.1)
    assert after.config.extra["task_specific_params"] == extra["task_specific_params"]
    moved = [np.abs(tensor.float32() - before.tensors[name].float32()).max() for name, tensor in after.tensors.items()]
    assert min(moved) > 0
    assert max(moved) < 0.3  # it is that model still


def test_a_start_is_not_a_place_to_choose_a_shape() -> None:
    with pytest.raises(InvalidRequestError, match="n_layer is that of gpt2; it can be chosen from scratch only"):
        TrainConfig(init="gpt2", n_layer=2)


def test_a_block_longer_than_the_models_positions_is_refused(
    tiny_checkpoint: Path, fitting: Path, tmp_path: Path
) -> None:
    from_model(tiny_checkpoint, fitting, tmp_path / "fits", block_size=64, steps=1)
    with pytest.raises(TrainingError, match=r"block_size is 65, and .* has 64 positions"):
        from_model(tiny_checkpoint, fitting, tmp_path / "run", block_size=65)
    assert not (tmp_path / "run").exists()


def test_data_of_another_tokenizer_than_the_models_is_refused(
    tiny_checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="was not prepared with the tokenizer of") as caught:
        from_model(tiny_checkpoint, data, tmp_path / "run")
    assert f"--tokenizer {tiny_checkpoint}" in str(caught.value)


def test_a_tokenizer_in_other_files_is_the_same_if_its_ids_mean_the_same(
    tiny_checkpoint: Path, fitting: Path, tmp_path: Path
) -> None:
    start = changed_checkpoint(tiny_checkpoint, tmp_path / "start")
    path = start / "tokenizer.json"
    values = json.loads(path.read_bytes())
    values["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    path.write_text(json.dumps(values))
    assert Tokenizer.load(start).fingerprint != Tokenizer.load(tiny_checkpoint).fingerprint
    from_model(start, fitting, tmp_path / "run", steps=1)


def test_a_model_without_a_tokenizer_takes_any_that_fits(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    start = changed_checkpoint(tiny_checkpoint, tmp_path / "start", tokenizer=False)
    from_model(start, data, tmp_path / "run", steps=3)
    assert load_checkpoint(tmp_path / "run" / "model").config.vocab_size == 300
    assert Tokenizer.load(tmp_path / "run" / "model").vocab_size == 280
    larger = make_data(tmp_path / "larger", tokenizer="bpe:305")
    with pytest.raises(DataError, match=r"train\.bin: its vocabulary has 305 tokens, the model's 300"):
        from_model(start, larger, tmp_path / "other")


def test_a_model_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file or directory"):
        from_model("./absent", data, tmp_path / "run")
    assert not (tmp_path / "run").exists()
