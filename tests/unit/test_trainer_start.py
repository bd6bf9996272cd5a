"""What a run starts from: its settings, its data, and perhaps a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_trainer
import torch
from tiny_run import SETTINGS, make_data
from tiny_trainer import StopError, assert_same_run, from_model, run, stop_at

from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.errors import (
    ConfigError,
    DataError,
    GptwoError,
    InvalidRequestError,
    ModelNotFoundError,
    TrainingError,
    TrainingWarning,
)
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer
from gptwo.training.config import TrainConfig
from gptwo.training.config_file import RunSettings
from gptwo.training.run_directory import remember_settings

surroundings, data, whole = tiny_trainer.surroundings, tiny_trainer.data, tiny_trainer.whole


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", 0.02), ("steps", 13), ("seed", 1), ("n_layer", 2), ("dtype", "bf16"), ("min_lr", 0.0), ("eval_batches", 3)],
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


@pytest.mark.parametrize("schedule", [{"schedule": "constant"}, {"schedule": "wsd", "decay_fraction": 0.25}])
def test_a_run_can_be_made_longer_where_no_rate_of_its_steps_hangs_on_that(
    schedule: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    run(data, tmp_path / "at once", steps=12, **schedule)
    with pytest.raises(StopError):
        run(data, tmp_path / "longer", stop_at(6), steps=8, **schedule)
    assert run(data, tmp_path / "longer", steps=12, **schedule).resumed_from == 6
    assert_same_run(tmp_path / "longer", tmp_path / "at once")
    with pytest.raises(TrainingError, match="has made 12 steps already, more than the 11 asked for"):
        run(data, tmp_path / "longer", steps=11, **schedule)


def test_a_longer_run_after_the_decay_is_refused_with_the_way_out(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(data, out, steps=8, schedule="wsd", decay_fraction=0.5)
    with pytest.raises(TrainingError, match=r"start another run from its model with --init .*model"):
        run(data, out, steps=12, schedule="wsd", decay_fraction=0.5)
    assert "steps = 8" in (out / "train.toml").read_text()


def test_more_patience_goes_on_where_less_had_ended(data: Path, tmp_path: Path) -> None:
    settings = {"eval_every": 1, "lr": 1e-9, "dropout": 0.0, "steps": 30, "schedule": "constant"}
    ended = run(data, tmp_path / "run", patience=1, **settings).steps
    assert ended < 30
    assert run(data, tmp_path / "run", patience=0, **settings).resumed_from == ended


def test_a_model_to_start_from_is_evaluated_before_the_first_step(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(StopError):
        from_model(whole / "model", data, out, stop_at(2), lr=10.0, grad_clip=0.0, warmup_steps=0)
    result = from_model(whole / "model", data, out, lr=10.0, grad_clip=0.0, warmup_steps=0)
    first, second = (json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()[:2])
    assert first == {"step": 0, "val_loss": result.start_val_loss}
    assert second["step"] == 1
    best = min(json.loads(line).get("val_loss", 99.0) for line in (whole / "metrics.jsonl").read_text().splitlines())
    assert result.start_val_loss == pytest.approx(best, abs=1e-5)
    assert result.best_val_loss == result.start_val_loss  # such a rate makes nothing better
    before, after = (load_checkpoint(path / "model").tensors["wte.weight"].float32() for path in (whole, out))
    assert np.array_equal(before, after)
    assert f"validation loss before | {best:.4f}" in (out / "model" / "README.md").read_text()


@pytest.mark.parametrize("characters", [3500, 3999])  # of which the second changes the validation data alone
def test_other_data_on_a_run_that_exists_is_refused(characters: int, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    with pytest.raises(TrainingError, match="was started with other data"):
        run(make_data(tmp_path, characters=characters), out)


def test_a_setting_that_a_run_was_started_without_is_its_default(data: Path, tmp_path: Path) -> None:
    with pytest.raises(StopError):
        run(data, tmp_path / "run", stop_at(2))
    path = tmp_path / "run" / "train.toml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("grad_clip")))
    with pytest.raises(TrainingError, match=r"grad_clip 1\.0, not 2\.0"):
        run(data, tmp_path / "run", grad_clip=2.0)
    assert run(data, tmp_path / "run").resumed_from == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"a = " + b"[" * 100_000, b"stepz = 1", b"steps = 0"])
def test_broken_settings_of_a_run_are_an_error_that_names_them(content: bytes, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "train.toml").write_bytes(content)
    with pytest.raises(TrainingError, match=r"train\.toml: is broken; choose another --out"):
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


# ---- the device


def test_the_device_is_a_graphics_card_where_there_is_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def move_to(model: GPT2, device: str) -> GPT2:
        asked.append(device)
        raise StopError

    monkeypatch.setattr(GPT2, "move_to", move_to)
    for here in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda here=here: here)
        for device in ("auto", "cpu", "cuda:1"):
            with pytest.raises(StopError):
                run(data, tmp_path / "run", device=device)
    assert asked == ["cuda", "cpu", "cuda:1", "cpu", "cpu", "cuda:1"]


def test_a_run_remembers_the_device_that_it_was_on(
    data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(StopError):
        run(data, tmp_path / "run", stop_at(7), device="auto")
    assert '\ndevice = "cpu"\n' in (tmp_path / "run" / "train.toml").read_text()
    run(data, tmp_path / "run", device="auto")
    assert_same_run(tmp_path / "run", whole)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert " cores, cpu |" in card.replace("1 core,", "1 cores,")
    assert "--device cpu" in card


@pytest.mark.parametrize(
    ("before", "now", "steps", "warns"),
    [
        ("cpu", "cuda", 5, True),
        ("cuda:1", "cpu", 5, True),
        ("cuda", "cuda:1", 5, False),
        ("cpu", "cuda", 0, False),
        ("auto", "cuda", 5, False),
        ("cpu", "cpu", 5, False),
    ],
)
def test_a_run_that_goes_on_on_another_device_says_what_that_means(
    before: str, now: str, steps: int, warns: bool, tmp_path: Path
) -> None:
    remember_settings(RunSettings(tmp_path, tmp_path, TrainConfig(device=before)), lambda: 0)
    settings = RunSettings(tmp_path, tmp_path, TrainConfig(device=now))
    if warns:
        expected = f"made its steps so far on {before[:-2] if ':' in before else before} and goes on on {now}: "
        with pytest.warns(TrainingWarning, match=expected):
            remember_settings(settings, lambda: steps)
    else:
        remember_settings(settings, lambda: steps)
    assert f'device = "{now}"\n' in (tmp_path / "train.toml").read_text()


# ---- data


def test_a_name_that_no_directory_can_have_is_refused(data: Path, tmp_path: Path) -> None:
    for places in ((tmp_path / ("a" * 300), tmp_path / "run"), (data, tmp_path / ("a" * 300))):
        with pytest.raises(GptwoError, match=r"a: cannot be (read|written) \(File name too long\)"):
            run(*places)


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


# ---- starting from a model


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
