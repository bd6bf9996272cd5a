"""What the settings of a run do: LoRA, early stopping, samples, memory, pictures, TensorBoard."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_trainer
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny_run import SETTINGS, make_data, metrics_of
from tiny_trainer import StopError, assert_same_run, from_model, run, steps_saved, stop_at, weights_of

import gptwo
from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.safetensors_file import read_safetensors
from gptwo.errors import GptwoError, InvalidRequestError, MissingDependencyError, TrainingError
from gptwo.model import GPT2
from gptwo.training import trainer
from gptwo.training.batch import IGNORED, Batch
from gptwo.training.config import TrainConfig
from gptwo.training.loader import BatchLoader, validation_batches
from gptwo.training.loss_curve import draw_loss_curve
from gptwo.training.prepare import prepare
from gptwo.training.prepared import PreparedData
from gptwo.training.report import StepReport
from gptwo.training.tensorboard import tensorboard

surroundings, data, whole = tiny_trainer.surroundings, tiny_trainer.data, tiny_trainer.whole


@pytest.fixture(scope="module")
def fitting(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data prepared with the tokenizer of the tiny checkpoint."""
    return make_data(tmp_path_factory.mktemp("fitting"), tokenizer=str(tiny_checkpoint))


# ---- optimizers and memory


def test_muon_learns_and_goes_on_with_the_same_bits(data: Path, tmp_path: Path, whole: Path) -> None:
    run(data, tmp_path / "whole", optimizer="muon")
    with pytest.raises(StopError):
        run(data, tmp_path / "run", stop_at(7), optimizer="muon")
    run(data, tmp_path / "run", optimizer="muon")
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    losses = [[line["loss"] for line in metrics_of(out)] for out in (tmp_path / "run", whole)]
    assert losses[0][0] == losses[1][0]
    assert losses[0][1:] != losses[1][1:]
    assert losses[0][-1] < losses[0][0] - 0.5


def test_activation_checkpointing_changes_no_bit_of_what_is_learnt(data: Path, tmp_path: Path, whole: Path) -> None:
    run(data, tmp_path / "run", activation_checkpointing=True)
    one, other = weights_of(tmp_path / "run", 12), weights_of(whole, 12)
    for name, value in one.items():
        assert_array_equal(value, other[name], err_msg=name)


def test_what_decides_nothing_that_is_learnt_may_change_on_the_way(data: Path, tmp_path: Path, whole: Path) -> None:
    with pytest.raises(StopError):
        run(data, tmp_path / "run", stop_at(7))
    run(data, tmp_path / "run", activation_checkpointing=True, keep=1, save_every=4, threads=1)
    assert [line["loss"] for line in metrics_of(tmp_path / "run")] == [line["loss"] for line in metrics_of(whole)]
    assert "keep = 1\n" in (tmp_path / "run" / "train.toml").read_text()


# ---- documents, prompts and completions


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of many short documents, whose prompts are not to be learned."""
    directory = tmp_path_factory.mktemp("answers")
    lines = [{"prompt": f"the king {number} ", "completion": "is of blood. " * (number % 4)} for number in range(60)]
    (directory / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options: dict[str, Any] = {"tokenizer": "bpe:280", "val_fraction": 0.2}
    prepare(
        [directory / "text.jsonl"], directory / "data", **options, prompt_field="prompt", completion_field="completion"
    )
    return directory / "data"


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_loss_is_the_mean_over_what_is_to_be_learned(
    documents: bool, accumulation: int, answers: Path, tmp_path: Path
) -> None:
    settings = {"document_attention": documents, "grad_accumulation": accumulation, "block_size": 16, "dropout": 0.0}
    run(answers, tmp_path / "run", **settings, steps=1, lr=1e-9)
    model = GPT2.from_arrays(
        load_checkpoint(tmp_path / "run" / "model").config,
        {name: one.float32() for name, one in load_checkpoint(tmp_path / "run" / "model").tensors.items()},
    )
    opened = PreparedData.load(answers)
    loader = BatchLoader(opened.train, block_size=16, batch_size=4, seed=SETTINGS["seed"], documents=documents)

    def mean(batches: list[Batch]) -> float:
        nats = []
        for batch in batches:
            seen = None if batch.documents is None else torch.from_numpy(batch.documents)
            with torch.no_grad():
                hidden = model.body(torch.from_numpy(batch.inputs), documents=seen)[0]
            logprobs = torch.log_softmax(hidden @ model.head_weight.detach().T, dim=-1).numpy()  # (B, T, V)
            for row, column in np.argwhere(batch.targets != IGNORED):
                nats.append(-logprobs[row, column, batch.targets[row, column]])
        return float(np.mean(nats))

    batches = [loader.batch(number) for number in range(accumulation)]
    assert all((batch.targets == IGNORED).any() for batch in batches)
    line = metrics_of(tmp_path / "run")[0]
    assert line["loss"] == pytest.approx(mean(batches), abs=1e-5)
    validation = validation_batches(opened.val, block_size=16, batch_size=4, documents=documents)
    assert line["val_loss"] == pytest.approx(mean(list(validation)), abs=1e-5)
    assert "val_nats_per_character" not in line  # which means nothing where prompts are not predicted


# ---- LoRA


def test_lora_is_merged_into_the_model_and_lies_beside_it(tiny_checkpoint: Path, fitting: Path, tmp_path: Path) -> None:
    lora: dict[str, Any] = {"lora_rank": 2, "lora_alpha": 8.0, "lora_targets": ["c_attn", "c_fc"], "lora_dropout": 0.1}
    with pytest.raises(StopError):
        from_model(tiny_checkpoint, fitting, tmp_path / "run", stop_at(7), **lora)
    from_model(tiny_checkpoint, fitting, tmp_path / "run", **lora)
    from_model(tiny_checkpoint, fitting, tmp_path / "whole", **lora)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    lines = metrics_of(tmp_path / "run")
    assert lines[-1]["val_loss"] < lines[0]["val_loss"]
    # What was learnt is what the adapter says, on the matrices that were named and on no others.
    before, after = load_checkpoint(tiny_checkpoint).tensors, load_checkpoint(tmp_path / "run" / "model").tensors
    adapter = read_safetensors(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["target_modules"]) == (2, 8.0, ["c_attn", "c_fc"])
    changed = set()
    for name in before:
        prefix = f"base_model.model.transformer.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in adapter:
            a, b = (adapter[f"{prefix}.lora_{kind}.weight"].float32() for kind in "AB")  # (r, in), (out, r)
            assert_allclose(after[name].float32(), before[name].float32() + 4.0 * (b @ a).T, atol=1e-6)
            changed.add(name.partition(".")[2].partition(".")[2])
        else:
            assert_array_equal(after[name].float32(), before[name].float32(), err_msg=name)
    assert changed == {"attn.c_attn.weight", "mlp.c_fc.weight"}
    assert "with LoRA of rank 2, merged" in (tmp_path / "run" / "model" / "README.md").read_text()


@pytest.mark.filterwarnings("ignore")  # of what PEFT and transformers think of each other
def test_peft_reads_the_adapter(tiny_checkpoint: Path, fitting: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs PEFT, which is not among what the tests install")
    from transformers import AutoModelForCausalLM

    from_model(tiny_checkpoint, fitting, tmp_path / "run", lora_rank=2, steps=4, eval_every=4)
    base = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    ids = torch.arange(20)[None]
    with torch.no_grad(), gptwo.load(tmp_path / "run" / "model", weights="f32") as model:
        assert_allclose(adapted(ids).logits[0], model.logits(ids[0].tolist()), atol=1e-4)


# ---- the end


def rate_that_ruins(step: int, config: TrainConfig) -> float:
    """A rate that learns for six steps and then forgets everything."""
    return 0.01 if step < 6 else 3.0


def test_a_run_whose_validation_loss_no_longer_falls_ends(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "learning_rate", rate_that_ruins)
    settings = {"steps": 60, "patience": 3, "eval_every": 2, "save_every": 50}
    result = run(data, tmp_path / "run", **settings)
    lines = [line for line in metrics_of(tmp_path / "run") if "val_loss" in line]
    best = min(lines, key=lambda line: line["val_loss"])
    assert result.steps == lines[-1]["step"] == best["step"] + 3 * 2 < 60
    assert result.best_val_loss == best["val_loss"]
    assert steps_saved(tmp_path / "run")[-1] == result.steps
    again = run(data, tmp_path / "run", lambda report: pytest.fail("a step was made"), **settings)
    assert again.resumed_from == again.steps == result.steps


def test_patience_remembers_what_it_waited_for_when_a_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "learning_rate", rate_that_ruins)
    settings = {"steps": 60, "patience": 3, "eval_every": 2, "save_every": 50}
    end = run(data, tmp_path / "whole", **settings).steps
    for step in (end - 3, end - 1):
        with pytest.raises(StopError):
            run(data, tmp_path / "run", stop_at(step), **settings)
    assert run(data, tmp_path / "run", **settings).steps == end
    assert_same_run(tmp_path / "run", tmp_path / "whole", end)


# ---- what a run shows


def test_a_run_writes_samples_and_learns_the_same(data: Path, tmp_path: Path, whole: Path) -> None:
    run(data, tmp_path / "run", sample_every=4, sample_prompt="the k")
    lines = metrics_of(tmp_path / "run")
    samples = {line["step"]: line.pop("sample") for line in lines if "sample" in line}
    assert lines == metrics_of(whole)
    assert samples.keys() == {4, 8, 12}
    assert all(text.startswith("the k") for text in samples.values())


def test_the_sample_is_what_the_saved_model_writes(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", sample_every=12, sample_prompt="the k")
    with gptwo.load(tmp_path / "run" / "model", weights="f32") as model:
        room = model.config.n_positions - len(model.tokenizer.encode("the k"))
        params = gptwo.SamplingParams(max_tokens=room, temperature=0.8, top_p=0.95, seed=SETTINGS["seed"])
        written = model.generate("the k", params).text
    assert metrics_of(tmp_path / "run")[-1]["sample"] == "the k" + written


@pytest.mark.parametrize("tokenizer", ["bpe:280", "char"])
def test_a_sample_without_a_prompt_begins_a_document(tokenizer: str, tmp_path: Path) -> None:
    run(make_data(tmp_path, tokenizer=tokenizer), tmp_path / "run", sample_every=2, steps=2, eval_every=2)
    assert metrics_of(tmp_path / "run")[-1]["sample"]


def test_a_prompt_for_samples_that_fills_the_model_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"sample_prompt has \d+ tokens, and the model 8 positions"):
        run(data, tmp_path / "run", sample_every=2, sample_prompt="the king is " * 8)
    assert not (tmp_path / "run").exists()


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a module be missing."""
    normal = builtins.__import__

    def no_import(module: str, *arguments: Any, **more: Any) -> Any:
        if module.partition(".")[0] == name or module == f"torch.utils.{name}":
            raise ImportError(name)
        return normal(module, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", no_import)


def test_metrics_go_to_tensorboard_if_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    with pytest.raises(StopError):
        run(data, out, stop_at(7), tensorboard=True, sample_every=4)
    run(data, out, tensorboard=True, sample_every=4)
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    lines = metrics_of(out)
    for name in ("loss", "lr", "val_loss"):
        expected = [(line["step"], np.float32(line[name])) for line in lines if name in line]
        assert [(event.step, np.float32(event.value)) for event in events.Scalars(name)] == expected
    assert "sample/text_summary" in events.Tags()["tensors"]


def test_a_disk_that_fills_up_under_tensorboard_is_one_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    resource = pytest.importorskip("resource", reason="needs resource limits, which this system lacks")
    report = StepReport(1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)

    def stopped() -> None:
        with tensorboard(tmp_path, 0) as write:
            write(report)
            raise StopError

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with (
            pytest.raises(TrainingError, match=r"tensorboard: cannot be written \(File too large\)"),
            tensorboard(tmp_path, 0) as write,
        ):
            write(report)
        with pytest.raises(StopError):
            stopped()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err == ""


def test_without_tensorboard_it_says_what_to_install(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("tensorboard", monkeypatch)
    with pytest.raises(MissingDependencyError, match="tensorboard needs a package of that name: pip install"):
        run(data, tmp_path / "run", tensorboard=True)


def test_the_losses_are_drawn_as_a_picture(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    out = tmp_path / "run"
    out.mkdir()
    assert draw_loss_curve(out) is None
    (out / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes())
    path = draw_loss_curve(out)
    assert path == out / "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    path.unlink()
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(
            b'{"step": 13, "lo\n{"step": 13}\n[13]\n{"step": 14, "loss": "x"}\n\xff\n{"step": 1e999, "loss": 1}\n'
        )
    assert draw_loss_curve(out) == path
    path.unlink()
    path.mkdir()
    with pytest.raises(TrainingError, match=r"loss\.png: cannot be written"):
        draw_loss_curve(out)


def test_the_loss_of_the_model_that_a_run_starts_from_is_drawn_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = pytest.importorskip("matplotlib.axes", reason="needs the extra `plot`")
    lines = [{"step": 0, "val_loss": 4.0}, {"step": 1, "loss": 3.5}, {"step": 2, "loss": 3.0, "val_loss": 3.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    drawn: dict[str, tuple[Any, ...]] = {}
    plot = axes.Axes.plot

    def remember(self: Any, *points: Any, **style: Any) -> Any:
        drawn[style["label"]] = points
        return plot(self, *points, **style)

    monkeypatch.setattr(axes.Axes, "plot", remember)
    draw_loss_curve(tmp_path)
    assert drawn == {"training": ([1, 2], [3.5, 3.0]), "validation": ((0, 2), (4.0, 3.25))}


def test_without_matplotlib_drawing_says_what_to_install(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without("matplotlib", monkeypatch)
    with pytest.raises(MissingDependencyError, match="drawing needs matplotlib"):
        draw_loss_curve(whole)
    assert issubclass(MissingDependencyError, GptwoError)
