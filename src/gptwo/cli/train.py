"""`gptwo train`: a model from prepared data."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.loading import as_path
from gptwo.cli.parameters import SectionedCommand, given, parameters_of
from gptwo.cli.terminal import bar, is_terminal, note, write
from gptwo.errors import InvalidRequestError, MissingDependencyError
from gptwo.options import MOST_THREADS
from gptwo.training.config import TrainConfig

if TYPE_CHECKING:
    from gptwo.training.trainer import StepReport

OPTIONS: list[click.Parameter] = [
    click.Option(["--data"], required=True, metavar="DIR", help="What `gptwo prepare` made."),
    click.Option(["--out"], required=True, metavar="RUN", help="Where the run lives; its model is in RUN/model."),
    click.Option(["--threads"], type=click.IntRange(1, MOST_THREADS), help="Threads to compute with."),
]
SETTINGS = parameters_of(TrainConfig)


@click.command(
    cls=SectionedCommand, params=[*OPTIONS, *(parameter.option("Settings") for parameter in SETTINGS.values())]
)
def command(data: str, out: str, threads: int | None, **_: Any) -> None:
    """Train a model on prepared data, or go on with the run in RUN.

    The same command started again goes on from the newest complete checkpoint. Ctrl-C ends the run after the step at
    hand, which is saved; a second one ends it at once. The result, with the lowest validation loss, lies in
    RUN/model as a directory that gptwo and transformers load; RUN/metrics.jsonl has a line for each step.
    """
    try:
        config = TrainConfig(**given(click.get_current_context(), SETTINGS))
    except InvalidRequestError as error:
        raise click.UsageError(str(error)) from error
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("training needs PyTorch: pip install '.[torch]' in gptwo's checkout") from error
    from gptwo.training.trainer import train

    if threads is not None:
        torch.set_num_threads(threads)
    show: Callable[[float, str], None] | None = None
    with ExitStack() as stack:
        interrupted = stack.enter_context(_interruption())

        def on_step(report: StepReport) -> None:
            nonlocal show
            if show is None:  # not before: fetching a model to start from shows a bar of its own
                show = stack.enter_context(bar("training"))
            show(report.step / config.steps, f"loss {report.loss:.3f}  {report.tokens_per_second:,.0f} tokens/s")
            if report.val_loss is not None and is_terminal(sys.stderr):
                note(f"step {report.step}: validation loss {_nats(report.val_loss, report.val_nats_per_character)}")
            if interrupted() and report.step < config.steps:
                raise _StoppedError(report.step)

        try:
            result = train(as_path(data), as_path(out), config, on_step)
        except _StoppedError as stop:  # and the step is saved
            note(f"stopped after step {stop.step:,}; the same command goes on from there")
            raise KeyboardInterrupt from stop
    if result.resumed_from >= result.steps:
        write(f"the run was complete with step {result.resumed_from:,}; nothing was done\n")
    elif result.resumed_from:
        write(f"went on from step {result.resumed_from:,}\n")
    if result.best_val_loss is not None:
        write(f"best validation loss {_nats(result.best_val_loss, result.best_val_nats_per_character)}\n")
    write(f"model in {result.model}\n")


class _StoppedError(Exception):
    """Ends a run at the end of a step."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@contextmanager
def _interruption() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed, as a function; a second one has its usual effect, at once."""
    pressed = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Signals are the main thread's, and one that is ignored (as under nohup) stays so.
    if before is not signal.default_int_handler or not in_main_thread:
        yield pressed.is_set
        return

    def on_interrupt(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _nats(per_token: float, per_character: float | None) -> str:
    return f"{per_token:.4f} nats per token" + (f", {per_character:.4f} per character" if per_character else "")
