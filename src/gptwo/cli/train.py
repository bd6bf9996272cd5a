"""`gptwo train`: a model from prepared data."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.loading import as_path
from gptwo.cli.parameters import SectionedCommand, given, parameters_of
from gptwo.cli.terminal import write
from gptwo.errors import InvalidRequestError, MissingDependencyError, plural
from gptwo.training.config import OTHER_NAMES, TrainConfig
from gptwo.training.config_file import PLACES, resolve

if TYPE_CHECKING:
    from gptwo.training.report import TrainResult

OPTIONS: list[click.Parameter] = [
    click.Option(["--config"], metavar="FILE", help="Settings in TOML, under the names below; an option beats them."),
    click.Option(["--data"], metavar="DIR", help="What `gptwo prepare` made."),
    click.Option(["--out"], metavar="RUN", help="Where the run lives; its model is in RUN/model."),
]
SETTINGS = parameters_of(TrainConfig)


class _Command(SectionedCommand):
    """It knows what other trainers call its options."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """As click does, with the name here for one from elsewhere."""
        try:
            return super().parse_args(context, arguments)
        except click.NoSuchOption as error:
            here = OTHER_NAMES.get(error.option_name.lstrip("-").replace("-", "_"))
            if here is None:
                raise
            name = "--" + here.replace("_", "-")
            raise click.UsageError(f"No such option: {error.option_name}; it is called {name} here", context) from error


@click.command(
    cls=_Command,
    params=[*OPTIONS, *(parameter.option("Settings", both_ways=True) for parameter in SETTINGS.values())],
)
def command(config: str | None, **_: Any) -> None:
    """Train a model on prepared data, or go on with the run in RUN.

    The same command started again, or just --out RUN, goes on from the newest complete checkpoint. Ctrl-C ends the run
    after the step at hand, which is saved; a second one ends it at once. The result, with the lowest validation loss,
    lies in RUN/model as a directory that gptwo and transformers load; RUN/metrics.jsonl has a line for each step, and
    RUN/train.toml the settings. Several processes: torchrun -m gptwo train ...
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    shows = os.environ.get("RANK", "0") == "0"
    context = click.get_current_context()
    told = given(context, {*SETTINGS, *PLACES})
    told |= {name: as_path(told[name]) for name in PLACES if name in told}
    try:
        settings = resolve(_settings_of(told) if config is None else as_path(config), told)
    except InvalidRequestError as error:
        if not shows:
            raise click.exceptions.Exit(2) from error
        raise click.UsageError(str(error)) from error
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("training needs PyTorch: pip install '.[torch]' in gptwo's checkout") from error
    from gptwo.cli.train_display import Display
    from gptwo.training.report import StopRun
    from gptwo.training.trainer import train
    from gptwo.training.world import ElsewhereError, chosen_device

    with _interruption(alone) as pressed, Display(settings, quiet=not shows) as display:

        def on_step(report: Any) -> None:
            display.show(report)
            if pressed.is_set() and report.step < settings.config.steps:
                raise StopRun(report.step)

        if "device" not in told and torch.cuda.is_available():
            device = chosen_device(settings.config.device)
            display.note(f"training on {device}" + "; --device cuda takes the graphics card" * (device == "cpu"))
        try:
            result = train(settings.data, settings.out, settings.config, on_step)
        except StopRun as stop:  # and the step is saved
            display.note(f"stopped after step {stop.step:,}; the same command goes on from there")
            raise KeyboardInterrupt from stop
        except ElsewhereError as error:  # which is told of there
            raise click.exceptions.Exit(1) from error
    if shows:
        _tell(result, settings.config)


def _settings_of(told: dict[str, Any]) -> Path | None:
    """The file of a run that is there already, which then goes on by its name alone."""
    if "data" in told or "out" not in told:
        return None
    from gptwo.training.run_directory import SETTINGS as NAME

    path: Path = told["out"] / NAME
    return path if path.is_file() else None


def _tell(result: TrainResult, config: TrainConfig) -> None:
    """How a run ended, on standard output."""
    from gptwo.cli.train_display import nats

    if result.resumed_from >= result.steps:
        write(f"the run was complete with step {result.resumed_from:,}; nothing was done\n")
    elif result.resumed_from:
        write(f"went on from step {result.resumed_from:,}\n")
    if result.steps < config.steps:
        evaluations = f"{config.patience} {plural(config.patience, 'evaluation')}"
        write(f"ended with step {result.steps:,}: {evaluations} without a lower validation loss\n")
    if result.start_val_loss is not None:
        write(f"validation loss before the first step {nats(result.start_val_loss, None, result.val_share)}\n")
    if result.best_val_loss is not None:
        words = nats(result.best_val_loss, result.best_val_nats_per_character, result.val_share)
        write(f"best validation loss {words}\n")
    write(f"model in {result.model}\n")


@contextmanager
def _interruption(alone: bool) -> Iterator[threading.Event]:
    """Set once Ctrl-C is pressed, or SIGTERM comes, as from a cluster that wants its machine back.

    A second Ctrl-C has its usual effect, at once; not if torchrun started several processes, which may all get several.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield pressed
        return

    def on_signal(number: int, *_: object) -> None:
        pressed.set()
        if alone:
            signal.signal(number, before[number])

    # One that is ignored (as under nohup) stays so, and so does whatever else somebody has chosen.
    defaults = {int(signal.SIGINT): signal.default_int_handler, int(signal.SIGTERM): signal.SIG_DFL}
    before = {number: signal.getsignal(number) for number in defaults}
    taken = [number for number, default in defaults.items() if before[number] is default]
    for number in taken:
        signal.signal(number, on_signal)
    try:
        yield pressed
    finally:
        for number in taken:
            with suppress(ValueError):
                signal.signal(number, before[number])
