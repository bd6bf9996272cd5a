"""The training loop: from tokens to a transformers directory.

A run can be killed at any moment and started again with the same command; it ends with the same weights as one that
was never killed (on the same machine, with the same number of threads and processes), since each step depends on
nothing but the weights, the optimizers' state and the step's number.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from gptwo.checkpoint import check_replaceable
from gptwo.errors import NumericalError, TrainingError
from gptwo.training import run_directory
from gptwo.training.card import model_card
from gptwo.training.config import TrainConfig
from gptwo.training.config_file import RunSettings
from gptwo.training.flops import flops_per_token
from gptwo.training.loader import BatchLoader, validation_batches
from gptwo.training.memory import kept_memory
from gptwo.training.model_files import save_model
from gptwo.training.optimizer import make_optimizers
from gptwo.training.parallel import is_sharded, parallelize, part, whole_model
from gptwo.training.prepared import PreparedData
from gptwo.training.report import StepReport, StopRun, TrainResult
from gptwo.training.run_checkpoint import (
    Progress,
    RunCheckpoint,
    newest_run_checkpoint,
    run_checkpoints,
    save_run_checkpoint,
)
from gptwo.training.run_state import empty_state, load_run_state, run_state
from gptwo.training.sample import check_prompt, prompt_ids, sample
from gptwo.training.schedule import learning_rate, split_share
from gptwo.training.start import first_model
from gptwo.training.step import Stepper
from gptwo.training.tensorboard import tensorboard
from gptwo.training.token_splitting import TokenSplitter
from gptwo.training.validation import validation_loss, validation_share
from gptwo.training.world import World, chosen_device, open_world

OnStep = Callable[[StepReport], None]


def train(data: Path | str, out: Path | str, config: TrainConfig, on_step: OnStep = lambda report: None) -> TrainResult:
    """Train on what `gptwo prepare` left in `data`, and leave the model in `out/model`.

    Goes on from the newest checkpoint in `out`, if there is one. `on_step` is told of each step, in each process if
    `torchrun` started several; whatever it raises ends the run, after a checkpoint of that step. If it raises in
    another process only, StopRun is raised here.

    Raises DataError, TrainingError, CheckpointError or ConfigError, each with one sentence that says what to do,
    InvalidRequestError for a device that is not there or a prompt for samples that is too long,
    MissingDependencyError without what TensorBoard needs, and NumericalError if the loss is no longer a number.
    """
    config = replace(config, device=chosen_device(config.device))  # which is what the run remembers
    settings = RunSettings(Path(data), Path(out), config)
    out = settings.out
    with _enough_memory(), open_world(config.device) as world:
        if config.grad_accumulation % world.size:
            raise TrainingError(
                f"grad_accumulation is {config.grad_accumulation}, and {world.size} processes share it; choose a "
                f"multiple of {world.size}"
            )
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        run = _Run(settings, world)
        with contextlib.ExitStack() as held:
            held.callback(part, run.stepper.objective)
            if world.first:
                held.enter_context(run_directory.only_one(out))
                run_directory.remember_settings(settings, lambda: run.steps_made)
                run_directory.clear_leftovers(out)
                check_replaceable(out / run_directory.MODEL)  # now, not after the first steps
            world.wait()
            return run.run(on_step)


class _Run:
    def __init__(self, settings: RunSettings, world: World) -> None:
        self.out, self.config, self.world = settings.out, settings.config, world
        config = self.config
        with world.first_goes_first():  # to the hub, perhaps
            self.data = PreparedData.load(settings.data, tokenizer=config.tokenizer or None)
        self.loader = BatchLoader(
            self.data.train,
            block_size=config.block_size,
            batch_size=config.batch_size,
            seed=config.seed,
            documents=config.document_attention,
            splitter=self._splitter(),
            split_share=lambda number: split_share(number // config.grad_accumulation, config),
        )
        self.val_share = validation_share(self.data.val, config)
        with world.first_goes_first():
            model = first_model(config, self.data)
        self.model = model.move_to(world.device(config.device))
        if config.sample_every:
            first_token = int(self.data.train.window(0, 1)[0])
            self.prompt = prompt_ids(config.sample_prompt, self.data.tokenizer, first_token)
            check_prompt(self.prompt, model.config.n_positions)
        self.flops_per_token = flops_per_token(model.config, config.block_size, frozen=config.lora_rank > 0)
        objective = parallelize(self.model, config, world)
        self.optimizers = make_optimizers(self.model, config)
        self.stepper = Stepper(objective, self.optimizers, self.loader, config, world)
        self.progress = Progress()

    def _splitter(self) -> TokenSplitter | None:
        if not self.config.split_tokens:
            return None
        vocabulary = self.data.tokenizer.vocabulary
        splitter = TokenSplitter(vocabulary.tokens, vocabulary.special)
        if not splitter.ways.any():
            raise TrainingError("split_tokens is for tokens of several characters, which this tokenizer does not have")
        return splitter

    def run(self, on_step: OnStep) -> TrainResult:
        """All the steps that are still to be made."""
        self._resume()
        first = self.progress.step
        if first < self.config.steps and not self.progress.ended:
            if first == 0 and self.config.init != "scratch" and len(self.data.val) > 1:
                self._evaluate()
            with contextlib.ExitStack() as held:
                write: list[Callable[[StepReport], None]] = []
                if self.world.first:
                    lines = held.enter_context(run_directory.metrics(self.out, first))
                    write.append(lambda report: lines(report.to_dict()))
                    if first == 0 and self.progress.start is not None:
                        share = {} if self.val_share is None else {"val_share": self.val_share}
                        lines({"step": 0, "val_loss": self.progress.start, **share})
                    if self.config.tensorboard:
                        write.append(held.enter_context(tensorboard(self.out, first)))
                self._steps(write, on_step, held)
        elif self.world.from_first(not (self.out / run_directory.MODEL).is_dir()):
            self._save_model()  # somebody took it away: the last weights are what is left
        return TrainResult(
            model=self.out / run_directory.MODEL,
            steps=self.progress.step,
            start_val_loss=self.progress.start,
            best_val_loss=self.progress.best,
            best_val_nats_per_character=self._per_character(self.progress.best),
            resumed_from=first,
            val_share=self.val_share,
        )

    def _steps(self, write: list[Callable[[StepReport], None]], on_step: OnStep, held: contextlib.ExitStack) -> None:
        config, first = self.config, self.progress.step
        tokens = config.batch_size * config.grad_accumulation * config.block_size
        while self.progress.step < config.steps and not self.progress.ended:
            number = self.progress.step
            started = time.perf_counter()
            rate = learning_rate(number, config)
            loss, norm = self._step(number, rate)
            took = time.perf_counter() - started
            if number == first:  # not before: what lasts, the weights and the optimizers' state, is to lie elsewhere
                held.enter_context(kept_memory())
            done = number + 1
            self.progress = replace(
                self.progress,
                step=done,
                batches=done * config.grad_accumulation,
                seconds=self.progress.seconds + took,
            )
            last = done == config.steps
            val_loss, better = None, False
            if len(self.data.val) > 1 and (done % config.eval_every == 0 or last):
                val_loss, better = self._evaluate()
            report = StepReport(
                step=done,
                loss=loss,
                lr=rate,
                grad_norm=norm,
                epoch=self.loader.epochs(self.progress.batches),
                tokens_per_second=tokens / took,
                flops_per_second=tokens * self.flops_per_token / took,
                val_loss=val_loss,
                val_nats_per_character=self._per_character(val_loss),
                val_share=None if val_loss is None else self.val_share,
                sample=self._sample() if config.sample_every and done % config.sample_every == 0 else None,
            )
            # The checkpoint comes last: where it is, the metrics and the model of its step are.
            for one in write:
                one(report)
            saved = done % config.save_every == 0 or better or last or self.progress.ended
            if saved:
                self._save()
            self._tell(on_step, report, saved)

    def _step(self, number: int, rate: float) -> tuple[float, float]:
        loss, norm = self.stepper.step(number, rate)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"the loss is {loss} and the gradient's norm {norm}", number + 1)
        return loss, norm

    def _evaluate(self) -> tuple[float | None, bool]:
        """The validation loss in nats per target, and whether it is the best so far; then the model is saved."""
        config, progress = self.config, self.progress
        loss = validation_loss(
            self.stepper,
            validation_batches(
                self.data.val,
                block_size=config.block_size,
                batch_size=config.batch_size,
                most=config.eval_batches,
                documents=config.document_attention,
            ),
        )
        if loss is None:
            return None, False
        if not math.isfinite(loss):
            raise self._diverged(f"the validation loss is {loss}", progress.step)
        if progress.step == 0:
            progress = replace(progress, start=loss)
        better = progress.best is None or loss < progress.best
        if better:
            self.progress = replace(progress, best=loss, best_step=progress.step, waited=0)
            self._save_model()
        else:
            waited = progress.waited + 1
            self.progress = replace(progress, waited=waited, ended=0 < config.patience <= waited)
        return loss, better

    def _sample(self) -> str | None:
        """What the model writes now; None in all processes but the first."""
        model = whole_model(self.model, self.config, self.world)
        if model is None or not self.world.first:
            return None
        return sample(model, self.data.tokenizer, self.prompt, self.config.seed)

    def _tell(self, on_step: OnStep, report: StepReport, saved: bool) -> None:
        """Tell of a step. If that raises in any process, the step is saved and all end."""
        raised: BaseException | None = None
        try:
            on_step(report)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            raised = error
        (stop,) = self.world.sum(float(raised is not None))
        if stop and not saved:
            self._save()
        if raised is not None:
            raise raised
        if stop:
            raise StopRun(report.step)

    @functools.cached_property
    def _newest(self) -> RunCheckpoint | None:
        """What to go on from; known to the first process only."""
        return newest_run_checkpoint(self.out / run_directory.CHECKPOINTS)

    @property
    def steps_made(self) -> int:
        """Those of the newest checkpoint."""
        return self._newest.progress.step if self._newest is not None else 0

    def _resume(self) -> None:
        """Load the newest checkpoint, if there is one."""
        checkpoint = self.world.from_first(self._newest if self.world.first else None)
        if checkpoint is None:
            return
        run_directory.check_same_data(self.out, checkpoint.data, self._identity)
        try:
            into = empty_state(self.model, self.optimizers, checkpoint.shapes())
            load_run_state(self.model, self.optimizers, checkpoint.read(into))
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{self.out / run_directory.CHECKPOINTS}: its checkpoint of step {checkpoint.progress.step} is of "
                "another model; choose another --out"
            ) from error
        progress, patience = checkpoint.progress, self.config.patience
        self.progress = replace(progress, ended=0 < patience <= progress.waited)  # the patience may be another now

    def _save(self) -> None:
        """A checkpoint; without validation data also the model, since then the last is the best that is known."""
        broken = sum(not torch.isfinite(_local(weight)).all().item() for weight in self.model.parameters())
        if self.world.sum(broken)[0]:
            raise self._diverged("a weight is infinite or not a number", self.progress.step)
        nothing_to_compare = len(self.data.val) < 2 or self.progress.step == self.config.steps
        if self.progress.best is None and nothing_to_compare:
            self._save_model()
        save_run_checkpoint(
            self.out / run_directory.CHECKPOINTS,
            self.progress,
            run_state(self.model, self.optimizers),
            data=self._identity,
            keep=self.config.keep,
            world=self.world,
            sharded=is_sharded(self.config, self.world),
        )

    def _save_model(self) -> None:
        model = whole_model(self.model, self.config, self.world)
        if model is None or not self.world.first:
            return
        card = model_card(
            shape=model.config,
            config=self.config,
            data=self.data,
            out=self.out,
            step=self.progress.step,
            seconds=self.progress.seconds,
            start_val_loss=self.progress.start,
            val_loss=self.progress.best,
            val_nats_per_character=self._per_character(self.progress.best),
            val_share=self.val_share,
        )
        save_model(model, self.out / run_directory.MODEL, self.data.tokenizer, self.config, card)

    def _per_character(self, loss: float | None) -> float | None:
        """Nats per token of the validation data as nats per character, if all of its text is to be predicted."""
        val = self.data.val
        return None if loss is None or not val.characters or val.masked else loss * (val.count / val.characters)

    @property
    def _identity(self) -> dict[str, str]:
        """What tells the data apart."""
        return {"train_sha256": self.data.train.sha256, "val_sha256": self.data.val.sha256}

    def _diverged(self, what: str, step: int) -> NumericalError:
        kept = run_checkpoints(self.out / run_directory.CHECKPOINTS)
        still = f"; {kept[-1]} is as it was" if kept else ""
        return NumericalError(
            f"{what} at step {step}, so the run stops{still}. A lower lr may help, with another --out"
        )


def _local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


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
