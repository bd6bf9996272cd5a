"""`gptwo train`: a model from prepared data."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gptwo.cli.loading import as_path
from gptwo.cli.parameters import SectionedCommand, given, parameters_of
from gptwo.cli.terminal import bar, is_terminal, note, write
from gptwo.errors import MissingDependencyError
from gptwo.training.config import TrainConfig

if TYPE_CHECKING:
    from gptwo.training.trainer import StepReport

OPTIONS: list[click.Parameter] = [
    click.Option(["--data"], required=True, metavar="DIR", help="What `gptwo prepare` made."),
    click.Option(["--out"], required=True, metavar="RUN", help="Where the run lives; its model is in RUN/model."),
    click.Option(["--threads"], type=click.IntRange(min=1), help="Threads to compute with."),
]
SETTINGS = parameters_of(TrainConfig)


@click.command(
    cls=SectionedCommand, params=[*OPTIONS, *(parameter.option("Settings") for parameter in SETTINGS.values())]
)
def command(data: str, out: str, threads: int | None, **_: Any) -> None:
    """Train a model on prepared data, or go on with the run in RUN.

    The same command started again goes on from the newest complete checkpoint. The result, with the lowest validation
    loss, lies in RUN/model as a directory that gptwo and transformers load; RUN/metrics.jsonl has a line for each step.
    """
    config = TrainConfig(**given(click.get_current_context(), SETTINGS))
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError("training needs PyTorch: pip install 'gptwo[torch]'") from error
    from gptwo.training.trainer import train

    if threads is not None:
        torch.set_num_threads(threads)
    with bar("training") as show:

        def on_step(report: StepReport) -> None:
            show(report.step / config.steps, f"loss {report.loss:.3f}  {report.tokens_per_second:,.0f} tokens/s")
            if report.val_loss is not None and is_terminal(sys.stderr):
                note(f"step {report.step}: validation loss {_nats(report.val_loss, report.val_nats_per_character)}")

        result = train(as_path(data), as_path(out), config, on_step)
    if result.resumed_from:
        write(f"went on from step {result.resumed_from:,}\n")
    if result.best_val_loss is not None:
        write(f"best validation loss {_nats(result.best_val_loss, result.best_val_nats_per_character)}\n")
    write(f"model in {result.model}\n")


def _nats(per_token: float, per_character: float | None) -> str:
    return f"{per_token:.4f} nats per token, {per_character:.4f} per character"
