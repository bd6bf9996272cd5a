"""The training loop: from token shards to a transformers directory.

A run can be killed at any moment and started again with the same command; it ends with the same weights as one that
was never killed (on the same machine, with the same number of threads), since each step depends on nothing but the
weights, the optimizer's state and the step's number.

B batch, T block size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.config import GPTConfig
from gptwo.errors import DataError, NumericalError, TrainingError
from gptwo.files import replace_file
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer
from gptwo.training.card import model_card
from gptwo.training.config import TrainConfig
from gptwo.training.loader import Batch, BatchLoader, validation_windows
from gptwo.training.optimizer import learning_rate, make_optimizer
from gptwo.training.prepare import PreparedData
from gptwo.training.run_checkpoint import newest_run_checkpoint, save_run_checkpoint
from gptwo.training.shards import ShardHeader, read_shard


@dataclass(frozen=True)
class StepReport:
    """What is known after a step; the validation figures only after an evaluation."""

    step: int
    loss: float
    """Mean cross-entropy of the step's tokens, in nats."""
    lr: float
    grad_norm: float
    epoch: float
    tokens_per_second: float
    val_loss: float | None = None
    """Nats per token over all validation data."""
    val_nats_per_character: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON: what is None is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    model: Path
    """The transformers directory: the weights with the lowest validation loss, or the last without such data."""
    steps: int
    best_val_loss: float | None
    best_val_nats_per_character: float | None
    resumed_from: int


def train(
    data: Path, out: Path, config: TrainConfig, on_step: Callable[[StepReport], None] = lambda report: None
) -> TrainResult:
    """Train on what `gptwo prepare` left in `data`, and leave the model in `out/model`.

    Goes on from the newest checkpoint in `out`, if there is one. `on_step` is told of each step.
    Raises DataError, TrainingError, CheckpointError, and NumericalError if the loss is no longer a number.
    """
    run = _Run(data, out, config)
    with _only_one(out):
        run.remember_config()
        return run.run(on_step)


class _Run:
    def __init__(self, data: Path, out: Path, config: TrainConfig) -> None:
        self.data, self.out, self.config = PreparedData.load(data), out, config
        self.tokenizer = Tokenizer.load(data / "tokenizer")
        self.train_header, train_tokens = read_shard(data / "train.bin")
        self.val_header, val_tokens = read_shard(data / "val.bin")
        for name, header in (("train.bin", self.train_header), ("val.bin", self.val_header)):
            if header.tokenizer != self.tokenizer.fingerprint:
                raise DataError(f"{data / name}: was not made with the tokenizer in {data / 'tokenizer'}")
        self.loader = BatchLoader(
            train_tokens, block_size=config.block_size, batch_size=config.batch_size, seed=config.seed
        )
        self.validation = _batched(validation_windows(val_tokens, config.block_size), config.batch_size)
        self.model = self._first_model().to(config.device)
        self.optimizer = make_optimizer(self.model, config)
        self.best = math.inf
        self.seconds = 0.0

    def _first_model(self) -> GPT2:
        config, eot = self.config, self.tokenizer.end_of_text_id
        attn_dropout = config.dropout if config.attn_dropout is None else config.attn_dropout
        dropout: dict[str, Any] = {
            "embd_pdrop": config.dropout,
            "resid_pdrop": config.dropout,
            "attn_pdrop": attn_dropout,
        }
        if config.init == "scratch":
            shape = GPTConfig(
                vocab_size=self.tokenizer.vocab_size,
                n_positions=config.block_size,
                n_embd=config.n_embd or 384,
                n_layer=config.n_layer or 6,
                n_head=config.n_head or 6,
                bos_token_id=eot,
                eos_token_id=eot,
                **dropout,
            )
            return GPT2(shape).initialize(torch.Generator().manual_seed(config.seed))
        start = load_checkpoint(config.init)
        if config.block_size > start.config.n_positions:
            raise TrainingError(
                f"block_size is {config.block_size}; {config.init} has {start.config.n_positions} positions"
            )
        if self.tokenizer.vocab_size > start.config.vocab_size:
            raise TrainingError(
                f"the data's vocabulary has {self.tokenizer.vocab_size} tokens, that of {config.init} "
                f"{start.config.vocab_size}: prepare the data with the model's tokenizer"
            )
        if start.tokenizer_path is not None:
            fingerprint = Tokenizer.load(start.tokenizer_path).fingerprint
            if fingerprint != self.tokenizer.fingerprint:
                raise TrainingError(f"the data was not prepared with the tokenizer of {config.init}")
        arrays = {name: tensor.float32() for name, tensor in start.tensors.items()}
        return GPT2.from_arrays(start.config.replace(**dropout), arrays)

    def remember_config(self) -> None:
        """Write the settings beside the run, or hold them against those that it was started with."""
        path = self.out / "train.json"
        settings = {**self.config.to_dict(), "data_sha256": self.train_header.sha256}
        if not path.exists():
            with replace_file(path) as file:
                file.write((json.dumps(settings, indent=2) + "\n").encode())
            return
        try:
            before = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path}: cannot be read; choose another --out") from error
        for name, value in settings.items():
            if before.get(name) != value:
                raise TrainingError(
                    f"{self.out} was started with {name} {before.get(name)!r}, not {value!r}; "
                    "give the same settings to go on, or another --out to start afresh"
                )

    def run(self, on_step: Callable[[StepReport], None]) -> TrainResult:
        config = self.config
        first = self._resume()
        model = torch.compile(self.model) if config.compile else self.model
        with _metrics(self.out / "metrics.jsonl", first) as write_metrics:
            for step in range(first, config.steps):
                started = time.perf_counter()
                loss, norm = self._step(model, step)
                took = time.perf_counter() - started
                self.seconds += took
                tokens = config.batch_size * config.grad_accumulation * config.block_size
                report = StepReport(
                    step=step + 1,
                    loss=loss,
                    lr=learning_rate(step, config),
                    grad_norm=norm,
                    epoch=self.loader.epochs((step + 1) * config.grad_accumulation),
                    tokens_per_second=tokens / took,
                    **self._evaluate_if_due(model, step + 1),
                )
                if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                    self._save(step + 1)
                write_metrics(report)
                on_step(report)
        if not self.validation:
            self._save_model(config.steps)
        best = None if math.isinf(self.best) else self.best
        return TrainResult(
            model=self.out / "model",
            steps=config.steps,
            best_val_loss=best,
            best_val_nats_per_character=None if best is None else best * _tokens_per_character(self.val_header),
            resumed_from=first,
        )

    def _step(self, model: Callable[..., Any], step: int) -> tuple[float, float]:
        """One optimizer step: the mean loss, and the gradient's norm before clipping."""
        config = self.config
        torch.manual_seed(int(np.random.SeedSequence([config.seed, step]).generate_state(1, np.uint64)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        self.model.train()
        total = 0.0
        for part in range(config.grad_accumulation):
            loss = self._loss(model, self.loader.batch(step * config.grad_accumulation + part))
            (loss / config.grad_accumulation).backward()  # type: ignore[no-untyped-call]
            total += loss.item() / config.grad_accumulation
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.grad_clip or math.inf).item()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise NumericalError(
                f"the loss is {total} and the gradient's norm {norm} at step {step + 1}: the run stops; "
                f"its newest checkpoint in {self.out / 'checkpoints'} is good. A lower --lr may help"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    def _loss(self, model: Callable[..., Any], batch: Batch, reduction: str = "mean") -> torch.Tensor:
        device = self.config.device
        inputs, targets = (torch.from_numpy(ids).to(device) for ids in batch)  # (B, T) each
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=self.config.dtype == "bf16"):
            logits = model(inputs).logits  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)

    @torch.no_grad()
    def _evaluate_if_due(self, model: Callable[..., Any], step: int) -> dict[str, float]:
        """The validation loss, if it is time for it; the model is saved when it is the best so far."""
        due = step % self.config.eval_every == 0 or step == self.config.steps
        if not (due and self.validation):
            return {}
        self.model.eval()
        nats = sum(self._loss(model, batch, "sum").item() for batch in self.validation)
        loss = nats / sum(targets.size for _, targets in self.validation)
        if loss < self.best:
            self.best = loss
            self._save_model(step)
        return {"val_loss": loss, "val_nats_per_character": loss * _tokens_per_character(self.val_header)}

    def _resume(self) -> int:
        """Load the newest checkpoint, if there is one; the number of steps that it has behind it."""
        state = newest_run_checkpoint(self.out / "checkpoints")
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best, self.seconds = state["best"], state["seconds"]
        return int(state["step"])

    def _save(self, step: int) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "seconds": self.seconds,
        }
        save_run_checkpoint(self.out / "checkpoints", step, state)

    def _save_model(self, step: int) -> None:
        loss = None if math.isinf(self.best) else self.best
        card = model_card(
            shape=self.model.config,
            config=self.config,
            data=self.data,
            out=self.out,
            step=step,
            seconds=self.seconds,
            val_loss=loss,
            val_nats_per_character=None if loss is None else loss * _tokens_per_character(self.val_header),
        )
        arrays = self.model.to_arrays()
        save_checkpoint(
            self.out / "model", self.model.config, arrays, self.tokenizer, dtype=self.config.save_dtype.upper(), card=card
        )


def _tokens_per_character(header: ShardHeader) -> float:
    return header.count / header.characters


def _batched(windows: list[Batch], batch_size: int) -> list[Batch]:
    """Windows of the same length joined into batches; a shorter last one stays alone."""
    batches: list[Batch] = []
    full = [window for window in windows if window[0].size == windows[0][0].size]
    for start in range(0, len(full), batch_size):
        group = full[start : start + batch_size]
        batches.append((np.concatenate([x for x, _ in group]), np.concatenate([y for _, y in group])))
    return batches + windows[len(full) :]


@contextlib.contextmanager
def _metrics(path: Path, first: int) -> Iterator[Callable[[StepReport], None]]:
    """A writer of one JSON line a step; lines of steps that will be made again are dropped first."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= first]
    with replace_file(path) as file:
        file.write("".join(line + "\n" for line in kept).encode())
    with path.open("a", encoding="utf-8") as stream:

        def write(report: StepReport) -> None:
            stream.write(json.dumps(report.to_dict()) + "\n")
            stream.flush()

        yield write


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinite for one that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


@contextlib.contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Hold the run's directory; a second process that trains in it is refused."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / "lock").open("w")
    except OSError as error:
        raise TrainingError(f"{out}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # no such locks on Windows: there the user is trusted
        except OSError as error:
            raise TrainingError(f"{out}: another process is training here") from error
        yield
