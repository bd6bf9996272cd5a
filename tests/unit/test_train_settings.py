"""The settings of a run: in Python, in a file and as flags they are the same, under the same names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gptwo.training.trainer
from gptwo.cli import main
from gptwo.errors import InvalidRequestError
from gptwo.training.config import OTHER_NAMES, TrainConfig
from gptwo.training.config_file import RunSettings, read_config, resolve, to_toml
from gptwo.training.report import TrainResult

# A value of each setting that is not its default, as a file holds it; two files, for what does not go together.
SCRATCH: dict[str, Any] = {
    "n_layer": 3,
    "n_head": 5,
    "n_embd": 40,
    "tokenizer": "./a tokenizer",
    "block_size": 17,
    "document_attention": True,
    "dropout": 0.25,
    "attn_dropout": 0.125,
    "split_tokens": 0.0625,
    "batch_size": 3,
    "grad_accumulation": 4,
    "steps": 77,
    "patience": 3,
    "optimizer": "muon",
    "lr": 1e-7,
    "min_lr": 0.0,
    "schedule": "wsd",
    "warmup_steps": 0,
    "decay_fraction": 0.5,
    "weight_decay": 1,
    "beta1": 0.5,
    "beta2": 0.75,
    "muon_lr": 0.01,
    "muon_momentum": 0.5,
    "grad_clip": 0.0,
    "seed": 2**63 - 1,
    "dtype": "bf16",
    "activation_checkpointing": True,
    "compile": True,
    "device": "cuda",
    "threads": 2,
    "distributed": "fsdp",
    "eval_every": 9,
    "eval_batches": 5,
    "sample_every": 8,
    "sample_prompt": 'a "prompt"\n\x7f\t\\ é 😀 ',
    "save_every": 7,
    "keep": 6,
    "save_dtype": "bf16",
    "tensorboard": True,
}
LORA: dict[str, Any] = {
    "init": "./a model",
    "lora_rank": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.5,
    "lora_targets": ["c_attn", "c_fc"],
}


def written(directory: Path, values: dict[str, Any]) -> Path:
    path = directory / "run.toml"
    path.write_text("".join(f"{name} = {toml(value)}\n" for name, value in values.items()), encoding="utf-8")
    return path


def toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def flags_of(values: dict[str, Any]) -> list[str]:
    words = []
    for name, value in values.items():
        words.append("--" + name.replace("_", "-"))
        words += [] if value is True else [",".join(value) if isinstance(value, list) else str(value)]
    return words


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """What the command line hands to `train`, which does nothing here."""
    found: list[RunSettings] = []

    def train(data: Path, out: Path, config: TrainConfig, on_step: Any) -> TrainResult:
        found.append(RunSettings(data, out, config))
        return TrainResult(out / "model", config.steps, None, None, None, 0)

    monkeypatch.setattr(gptwo.training.trainer, "train", train)
    return found


def test_every_setting_is_among_those_that_are_tried() -> None:
    assert SCRATCH.keys() | LORA.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
    for field in dataclasses.fields(TrainConfig):
        assert {**SCRATCH, **LORA}[field.name] != field.default


@pytest.mark.parametrize("values", [SCRATCH, LORA, {}], ids=["scratch", "lora", "defaults"])
def test_a_file_flags_and_python_agree(values: dict[str, Any], tmp_path: Path, told: list[RunSettings]) -> None:
    expected = RunSettings(tmp_path / "d", tmp_path / "o", TrainConfig(**values))
    places = {"data": str(tmp_path / "d"), "out": str(tmp_path / "o")}
    path = written(tmp_path, {**values, **places})
    assert main(["train", "--config", str(path)]) == 0
    assert main(["train", *flags_of({**places, **values})]) == 0
    assert told == [expected, expected]


@pytest.mark.parametrize("name", sorted({*SCRATCH, *LORA}))
def test_a_flag_beats_the_file_which_beats_the_default(name: str, tmp_path: Path, told: list[RunSettings]) -> None:
    values = LORA if name in LORA else SCRATCH
    default = getattr(TrainConfig(), name)
    places = {"data": "d", "out": "o"}
    path = written(tmp_path, {**values, **places})
    word = "--" + name.replace("_", "-")
    if isinstance(default, bool):
        flag = [word.replace("--", "--no-", 1)]
    elif isinstance(default, tuple):
        flag = [word, ",".join(default)]
    else:
        flag = [word, "none" if default is None else str(default)]
    if name == "init":
        flag += ["--lora-rank", "0"]
    assert main(["train", "--config", str(path), *flag]) == 0
    (settings,) = told
    assert getattr(settings.config, name) == default
    others = {other for other in values if other not in (name, "lora_rank" if name == "init" else name)}
    assert {other: getattr(settings.config, other) for other in others} == {
        other: getattr(TrainConfig(**values), other) for other in others
    }


@pytest.mark.parametrize(
    ("here", "settings", "arguments", "said"),
    [
        (True, {}, [], "training on cuda\n"),
        (True, {"device": "cpu"}, [], "training on cpu; --device cuda takes the graphics card\n"),
        (True, {}, ["--device", "cpu"], ""),
        (False, {}, [], ""),
    ],
)
def test_where_there_is_a_graphics_card_it_is_said_whether_it_is_taken(
    here: bool,
    settings: dict[str, Any],
    arguments: list[str],
    said: str,
    tmp_path: Path,
    told: list[RunSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    path = written(tmp_path, {"data": "d", "out": "o", **settings})
    assert main(["train", "--config", str(path), *arguments]) == 0
    assert capsys.readouterr().err == said
    assert len(told) == 1


def test_the_places_may_stand_in_the_file_and_a_flag_beats_them(tmp_path: Path, told: list[RunSettings]) -> None:
    path = written(tmp_path, {"data": "d", "out": "o"})
    assert main(["train", "--config", str(path), "--out", "elsewhere"]) == 0
    assert (told[0].data, told[0].out) == (Path("d"), Path("elsewhere"))


@pytest.mark.parametrize("values", [SCRATCH, LORA, {}], ids=["scratch", "lora", "defaults"])
def test_what_is_written_down_is_read_back_as_it_was(values: dict[str, Any], tmp_path: Path) -> None:
    settings = RunSettings(Path("some data"), tmp_path / 'q"uote', TrainConfig(**values))
    path = tmp_path / "train.toml"
    path.write_text(to_toml(settings), encoding="utf-8")
    assert resolve(path, {}) == settings


def test_what_differs_from_the_defaults_is_written_first() -> None:
    lines = to_toml(RunSettings(Path("d"), Path("o"), TrainConfig(steps=5))).splitlines()
    assert lines[:5] == ['data = "d"', 'out = "o"', "steps = 5", "", "# As by default:"]
    assert "lr = 0.0006" in lines[5:]
    assert "steps = 5" not in lines[5:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stpes = 5", "run.toml: no setting 'stpes'; did you mean 'steps'?"),
        ("[model]\nn_layer = 2", "run.toml: [model] is a table, and settings stand outside"),
        ("steps = 0", "run.toml: steps is 0, expected an integer from 1"),
        ('steps = "5"', "run.toml: steps is '5', expected an integer"),
        ("compile = 1", "run.toml: compile is 1, expected true or false"),
        ("lr = true", "run.toml: lr is True, expected a number"),
        ("lr = nan", "run.toml: lr is nan, expected a number"),
        ("sample_prompt = 3", "run.toml: sample_prompt is 3, expected text"),
        ('lora_targets = ["c_atn"]', "run.toml: lora_targets has no matrix 'c_atn'; did you mean 'c_attn'?"),
        ("lora_targets = []", "run.toml: lora_targets is [], expected one or more of"),
        ("data = 5", "run.toml: data is no path"),
        ('data = "a\\u0000b"', "run.toml: data is no path"),
        (f"steps = {'9' * 5000}", "run.toml: is no TOML (Exceeds the limit"),
        ("steps 5", "run.toml: is no TOML"),
        ("steps = 1979-05-27", "run.toml: steps is datetime.date(1979, 5, 27), expected an integer"),
    ],
)
def test_a_mistake_in_a_file_is_one_sentence_that_names_it(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    Path("run.toml").write_text('out = "o"\n' + content, encoding="utf-8")
    assert main(["train", "--config", "run.toml", "--data", "d"][: 3 if "data" in content else None]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = " + b"[" * 5000, b"[" + b"a." * 2**20, b"#" * 2**16 + b"\n"])
def test_a_file_that_is_no_text_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(InvalidRequestError, match=r"run\.toml: is no TOML"):
        read_config(tmp_path / "run.toml")


def test_a_mark_at_the_beginning_and_line_ends_of_windows_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbfsteps = 5\r\nlr = 0.1\r\n")
    assert read_config(tmp_path / "run.toml") == {"steps": 5, "lr": 0.1}


@pytest.mark.parametrize("place", ["data", "out", "config"])
def test_a_path_that_is_empty_is_wrong_usage(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    places = {"data": "d", "out": "o", place: ""}
    assert main(["train", *(word for name, path in places.items() for word in (f"--{name}", path))]) == 2
    assert "a path is empty" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"run\.toml: cannot be read \(No such file"):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"lora_rank": 4}, "lora_rank"),
        ({"init": "gpt2", "lora_rank": 4, "optimizer": "muon"}, "optimizer"),
        ({"lora_targets": "wte"}, "lora_targets"),
        ({"schedule": "cosin"}, "schedule"),
        ({"keep": 0}, "keep"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(values: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        TrainConfig(**values)
    assert caught.value.param == param


def test_a_run_goes_on_by_its_directory_alone(tmp_path: Path, told: list[RunSettings]) -> None:
    settings = RunSettings(Path("some data"), tmp_path, TrainConfig(**SCRATCH))
    (tmp_path / "train.toml").write_text(to_toml(settings), encoding="utf-8")
    assert main(["train", "--out", str(tmp_path), "--threads", "1"]) == 0
    assert told == [dataclasses.replace(settings, config=dataclasses.replace(settings.config, threads=1))]


def test_names_of_other_trainers_are_told_by_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = {"data", "out", *(field.name for field in dataclasses.fields(TrainConfig))}
    assert set(OTHER_NAMES.values()) <= known
    assert not OTHER_NAMES.keys() & known
    assert main(["train", "--max-iters", "5"]) == 2
    assert "No such option: --max-iters; it is called --steps here" in capsys.readouterr().err
    assert main(["train", "--stepz", "5"]) == 2
    assert "--steps" in capsys.readouterr().err
    with pytest.raises(InvalidRequestError, match="no setting 'learning_rate'; it is called 'lr' here"):
        read_config(written(tmp_path, {"learning_rate": 1}))
    (tmp_path / "run.toml").write_text("[model]\nn_layer = 2\n")
    with pytest.raises(InvalidRequestError, match=r"\[model\] is a table, and settings stand outside of all tables"):
        read_config(tmp_path / "run.toml")


@pytest.mark.parametrize(("steps", "given", "warmup"), [(5000, None, 100), (40, None, 4), (3, None, 0), (3, 100, 100)])
def test_the_warm_up_is_a_tenth_of_a_short_run(steps: int, given: int | None, warmup: int) -> None:
    assert TrainConfig(steps=steps, warmup_steps=given).warmup == warmup
