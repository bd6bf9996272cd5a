"""The training loop: what it learns, tells and leaves, and what stops it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_trainer
from numpy.testing import assert_allclose, assert_array_equal
from tiny_run import SETTINGS, make_data, metrics_of
from tiny_trainer import from_model, left_over, run, steps_saved, weights_of

import gptwo
from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.config import GPTConfig
from gptwo.errors import DataError, NumericalError
from gptwo.tokenizer import Tokenizer
from gptwo.training import trainer
from gptwo.training.config import TrainConfig
from gptwo.training.report import StepReport, TrainResult
from gptwo.training.shards import read_shard

surroundings, data, whole = tiny_trainer.surroundings, tiny_trainer.data, tiny_trainer.whole


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
    assert result.best_val_nats_per_character == pytest.approx(best["val_loss"] * header.count / header.characters)
    assert result == TrainResult(
        model=tmp_path / "run" / "model",
        steps=12,
        start_val_loss=None,
        best_val_loss=best["val_loss"],
        best_val_nats_per_character=best["val_nats_per_character"],
        resumed_from=0,
    )


def test_a_run_leaves_its_checkpoints_its_settings_its_metrics_and_its_model(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {"checkpoints", "lock", "metrics.jsonl", "model", "train.toml"}
    assert left_over(whole) == []


@pytest.mark.parametrize(("keep", "newest"), [(1, [12]), (2, [10, 12]), (3, [9, 10, 12])])
def test_the_newest_checkpoints_and_the_best_are_kept(
    keep: int, newest: list[int], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    normal = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: 3.0 if step >= 7 else normal(step, config))
    run(data, tmp_path / "run", keep=keep)
    losses = {line["step"]: line["val_loss"] for line in metrics_of(tmp_path / "run") if "val_loss" in line}
    assert min(losses, key=lambda step: losses[step]) == 6
    assert steps_saved(tmp_path / "run") == sorted({6, *newest} - ({9} if losses[9] >= losses[6] else set()))


def test_a_model_from_scratch_has_the_shape_that_was_asked_for(whole: Path) -> None:
    checkpoint = load_checkpoint(whole / "model")
    tokenizer = Tokenizer.load(whole / "model")
    end = tokenizer.end_of_text_id
    expected = GPTConfig(
        vocab_size=280, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end
    )
    assert dataclasses.replace(checkpoint.config, extra={}) == expected


def nats_of(model: gptwo.LanguageModel, ids: list[int]) -> float:
    """The loss of all tokens but the first, summed."""
    logits = model.logits(ids[:-1]).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    logprobs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-logprobs[np.arange(len(ids) - 1), ids[1:]].sum())


def test_the_saved_model_gives_the_validation_loss_that_was_reported(whole: Path, data: Path) -> None:
    best = min((line for line in metrics_of(whole) if "val_loss" in line), key=lambda line: line["val_loss"])
    shard = read_shard(data / "val.bin")
    nats = 0.0
    with gptwo.load(whole / "model") as model:
        for start in range(0, len(shard) - 1, 8):
            nats += nats_of(model, shard.window(start, 9).tolist())
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
    assert "| steps | 9 of 12, the best by validation loss, 32 tokens each |" in card
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


def test_an_evaluation_may_take_a_part_of_the_validation_data_and_says_so(data: Path, tmp_path: Path) -> None:
    told: list[StepReport] = []
    result = run(data, tmp_path / "run", told.append, eval_batches=2, batch_size=3, steps=6)
    windows = (len(read_shard(data / "val.bin")) - 1) // 8
    assert windows > 6
    share = 6 / windows
    validated = [report for report in told if report.val_loss is not None]
    assert [report.step for report in validated] == [3, 6]
    assert {report.val_share for report in validated} == {result.val_share} == {share}
    assert [line.get("val_share") for line in metrics_of(tmp_path / "run")] == [None, None, share] * 2
    words = f"on {100 * share:.3g}% of the validation data |"
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f" nats per character, {words}" in card
    assert "the mean over 6 windows, the same each time and spread evenly, of those of 8 tokens" in card
    assert "--eval-batches 2" in card
    shard = read_shard(data / "val.bin")
    starts = [number * windows // 6 * 8 for number in range(6)]
    with gptwo.load(result.model) as model:
        nats = sum(nats_of(model, shard.window(start, 9).tolist()) for start in starts)
    assert nats / (6 * 8) == pytest.approx(result.best_val_loss, abs=1e-5)


def test_more_batches_than_there_are_is_all_validation_data(data: Path, tmp_path: Path, whole: Path) -> None:
    result = run(data, tmp_path / "run", eval_batches=1000)
    assert result.val_share is None
    assert metrics_of(tmp_path / "run") == metrics_of(whole)


def test_a_model_to_start_from_is_evaluated_on_the_same_part(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fitting = make_data(tmp_path, tokenizer=str(tiny_checkpoint))
    result = from_model(tiny_checkpoint, fitting, tmp_path / "run", eval_batches=1, batch_size=2, steps=1, lr=1e-9)
    before, after = metrics_of(tmp_path / "run")
    assert before["val_loss"] == result.start_val_loss == pytest.approx(after["val_loss"], abs=1e-4)
    assert before["val_share"] == after["val_share"] == result.val_share < 1
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert card.count("% of the validation data |") == 2


def test_training_data_shorter_than_a_window_is_refused(data: Path, tmp_path: Path) -> None:
    count = len(read_shard(data / "train.bin"))
    run(data, tmp_path / "fits", block_size=count - 1, batch_size=1, steps=1)
    with pytest.raises(DataError, match=rf"has {count} tokens, fewer than block_size \+ 1 = {count + 1}"):
        run(data, tmp_path / "run", block_size=count)
    assert not (tmp_path / "run").exists()


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
    assert "step-00000006 is as it was" in str(caught.value)
    assert steps_saved(out) == [5, 6]
    assert left_over(out) == []
    assert all(np.isfinite(value).all() for value in weights_of(out, 6).values())
    assert np.isfinite([line["loss"] for line in metrics_of(out)]).all()
    monkeypatch.undo()
    assert run(data, out, dropout=0.0).resumed_from == 6


def test_weights_that_are_no_numbers_are_not_saved(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    normal = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: np.inf if step == 9 else normal(step, config))
    with pytest.raises(NumericalError, match="a weight is infinite or not a number at step 10"):
        run(data, out)
    assert steps_saved(out) == [6, 9]


def test_a_loss_that_is_no_number_at_once_is_an_error(tiny_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    tensors = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    tensors["ln_f.weight"] = np.full_like(tensors["ln_f.weight"], np.nan)
    save_checkpoint(tmp_path / "nan", checkpoint.config, tensors, None)
    with pytest.raises(NumericalError, match=r"at step 0, so the run stops\. A lower lr may help"):
        from_model(tmp_path / "nan", data, tmp_path / "run")
