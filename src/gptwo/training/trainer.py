"""The training loop: from token shards to a transformers directory.

A run can be killed at any moment and started again with the same command; it ends with the same weights as one that
was never killed (on the same machine, with the same number of threads), since each step depends on nothing but the
weights, the optimizer's state and the step's number.

B batch, T block size, V vocabulary.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from gptwo.checkpoint import check_replaceable, load_checkpoint, save_checkpoint
from gptwo.config import GPTConfig
from gptwo.errors import DataError, NumericalError, TrainingError
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer
from gptwo.training import run_directory
from gptwo.training.card import model_card
from gptwo.training.config import TrainConfig
from gptwo.training.loader import Batch, BatchLoader, validation_batches
from gptwo.training.optimizer import learning_rate, make_optimizer
from gptwo.training.prepared import PreparedData
from gptwo.training.run_checkpoint import newest_run_checkpoint, run_checkpoints, save_run_checkpoint


@dataclass(frozen=True)
class StepReport:
    """What is known after a step; the validation figures only after an evaluation."""

    step: int
    loss: float
    """Mean cross-entropy of the step's tokens, in nats."""
    lr: float
    grad_norm: float
    """Of all gradients together, before clipping."""
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
    """Steps that were done before; as many as `steps` if the run was complete, and nothing was done now."""


def train(
    data: Path, out: Path, config: TrainConfig, on_step: Callable[[StepReport], None] = lambda report: None
) -> TrainResult:
    """Train on what `gptwo prepare` left in `data`, and leave the model in `out/model`.

    Goes on from the newest checkpoint in `out`, if there is one. `on_step` is told of each step; whatever it raises
    ends the run, after a checkpoint of that step.

    Raises DataError, TrainingError, CheckpointError or ConfigError, each with one sentence that says what to do,
    InvalidRequestError for a device that is not there, and NumericalError if the loss is no longer a number.
    """
    with _enough_memory():
        run = _Run(data, out, config)
        with run_directory.only_one(out):
            identity = {
                "data_sha256": run.data.train.sha256,
                "val_sha256": run.data.val.sha256,
            }
            run_directory.remember_settings(out, {**config.to_dict(), **identity}, TrainConfig().to_dict())
            run_directory.clear_leftovers(out)
            check_replaceable(out / run_directory.MODEL)  # now, not after the first steps
            return run.run(on_step)


class _Run:
    def __init__(self, data: Path, out: Path, config: TrainConfig) -> None:
        self.data, self.out, self.config = PreparedData.load(data), out, config
        self.tokenizer = self.data.tokenizer
        self.loader = BatchLoader(
            self.data.train, block_size=config.block_size, batch_size=config.batch_size, seed=config.seed
        )
        model = self._first_model()
        for part in (self.data.train, self.data.val):
            if part.vocab_size > model.config.vocab_size:
                raise DataError(
                    f"{part.path}: its vocabulary has {part.vocab_size} tokens, the model's "
                    f"{model.config.vocab_size}; prepare the data with the model's tokenizer"
                )
        self.model = model.move_to(config.device)
        self.optimizer = make_optimizer(self.model, config)
        self.best = math.inf
        self.seconds = 0.0

    @property
    def validates(self) -> bool:
        """Whether there is a token to predict in the validation data."""
        return len(self.data.val) > 1

    def _first_model(self) -> GPT2:
        config, end = self.config, self.tokenizer.end_of_text_id
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
                bos_token_id=end,
                eos_token_id=end,
                **dropout,
            )
            return GPT2(shape).initialize(torch.Generator().manual_seed(config.seed))
        start = load_checkpoint(config.init, progress=True)
        if start.packed is not None:
            raise TrainingError(
                f"{config.init} is packed as {start.packed.weights}, which cannot be trained; "
                "start from the checkpoint that it was made from"
            )
        if config.block_size > start.config.n_positions:
            raise TrainingError(
                f"block_size is {config.block_size}, and {config.init} has {start.config.n_positions} positions; "
                "choose at most as many"
            )
        if start.tokenizer_path is not None and not _same_ids(Tokenizer.load(start.tokenizer_path), self.tokenizer):
            raise TrainingError(
                f"the data in {self.data.directory} was not prepared with the tokenizer of {config.init}; "
                f"prepare it with --tokenizer {config.init}"
            )
        arrays = {name: tensor.float32() for name, tensor in start.tensors.items()}
        return GPT2.from_arrays(start.config.replace(**dropout), arrays)

    def run(self, on_step: Callable[[StepReport], None]) -> TrainResult:
        """All the steps that are still to be made."""
        first = self._resume()
        if first < self.config.steps:
            with run_directory.metrics(self.out, first) as write_metrics:
                self._steps(first, lambda report: write_metrics(report.to_dict()), on_step)
        elif not (self.out / run_directory.MODEL).is_dir():
            self._save_model(first)  # somebody took it away: the last weights are what is left
        return TrainResult(
            model=self.out / run_directory.MODEL,
            steps=max(first, self.config.steps),
            best_val_loss=self._best(),
            best_val_nats_per_character=self._per_character(self._best()),
            resumed_from=first,
        )

    def _steps(
        self, first: int, write_metrics: Callable[[StepReport], None], on_step: Callable[[StepReport], None]
    ) -> None:
        config = self.config
        tokens = config.batch_size * config.grad_accumulation * config.block_size
        model = torch.compile(self.model) if config.compile else self.model
        for step in range(first, config.steps):
            started = time.perf_counter()
            loss, norm = self._step(model, step)
            took = time.perf_counter() - started
            self.seconds += took
            done = step + 1
            val_loss = None
            if self.validates and (done % config.eval_every == 0 or done == config.steps):
                val_loss = self._evaluate(model, done)
            report = StepReport(
                step=done,
                loss=loss,
                lr=learning_rate(step, config),
                grad_norm=norm,
                epoch=self.loader.epochs(done * config.grad_accumulation),
                tokens_per_second=tokens / took,
                val_loss=val_loss,
                val_nats_per_character=self._per_character(val_loss),
            )
            # The checkpoint comes last: where it is, the metrics and the model of its step are.
            write_metrics(report)
            due = done % config.save_every == 0 or done == config.steps
            if due:
                self._save(done)
            try:
                on_step(report)
            except BaseException:
                if not due:
                    self._save(done)
                raise

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
            raise self._diverged(f"the loss is {total} and the gradient's norm {norm}", step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    def _loss(self, model: Callable[..., Any], batch: Batch, reduction: str = "mean") -> torch.Tensor:
        device = self.config.device
        inputs, targets = (torch.from_numpy(ids).to(device) for ids in (batch.inputs, batch.targets))  # (B, T) each
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=self.config.dtype == "bf16"):
            logits = model(inputs).logits  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction=reduction)

    @torch.no_grad()
    def _evaluate(self, model: Callable[..., Any], step: int) -> float:
        """The validation loss in nats per token; the model is saved when it is the best so far."""
        config = self.config
        self.model.eval()
        loss, count = 0.0, 0
        for batch in validation_batches(self.data.val, block_size=config.block_size, batch_size=config.batch_size):
            loss += self._loss(model, batch, "sum").item()
            count += batch.target_count
        loss /= max(1, count)
        if not math.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss}", step)
        if loss < self.best:
            self.best = loss
            self._save_model(step)
        return loss

    def _resume(self) -> int:
        """Load the newest checkpoint, if there is one; the number of steps that it has behind it."""
        directory = self.out / run_directory.CHECKPOINTS
        state = newest_run_checkpoint(directory)
        if state is None:
            return 0
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{directory}: its checkpoint of step {state['step']} is of another model; choose another --out"
            ) from error
        self.best, self.seconds = state["best"], state["seconds"]
        return int(state["step"])

    def _save(self, step: int) -> None:
        """A checkpoint; without validation data also the model, since then the last is the best that is known."""
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise self._diverged("a weight is infinite or not a number", step)
        if not self.validates:
            self._save_model(step)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "seconds": self.seconds,
        }
        save_run_checkpoint(self.out / run_directory.CHECKPOINTS, step, state)

    def _save_model(self, step: int) -> None:
        card = model_card(
            shape=self.model.config,
            config=self.config,
            data=self.data,
            out=self.out,
            step=step,
            seconds=self.seconds,
            val_loss=self._best(),
            val_nats_per_character=self._per_character(self._best()),
        )
        save_checkpoint(
            self.out / run_directory.MODEL,
            self.model.config,
            self.model.to_arrays(),
            self.tokenizer,
            dtype=self.config.save_dtype.upper(),
            card=card,
        )

    def _best(self) -> float | None:
        return None if math.isinf(self.best) else self.best

    def _per_character(self, loss: float | None) -> float | None:
        val = self.data.val
        return None if loss is None or not val.characters or val.masked else loss * (val.count / val.characters)

    def _diverged(self, what: str, step: int) -> NumericalError:
        kept = run_checkpoints(self.out / run_directory.CHECKPOINTS)
        still = f"; {kept[-1]} is as it was" if kept else ""
        return NumericalError(
            f"{what} at step {step}, so the run stops{still}. A lower lr may help, with another --out"
        )


def _same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers mean the same by each id, however their files are written."""
    if one.fingerprint == other.fingerprint:
        return True
    if one.vocab_size != other.vocab_size:
        return False
    return all(one.token_bytes(token_id) == other.token_bytes(token_id) for token_id in range(one.vocab_size))


@contextlib.contextmanager
def _enough_memory() -> Iterator[None]:
    """Tell a user whose model or batch is too large so, in one line."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "tried to allocate" not in str(error).lower():
            raise
        raise TrainingError(
            "there is not enough memory; a smaller batch_size (with more grad_accumulation) or model may fit"
        ) from error
