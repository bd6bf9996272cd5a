"""A run's metrics for TensorBoard, beside the lines of JSON: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from gptwo.errors import MissingDependencyError, TrainingError
from gptwo.training.report import StepReport

DIRECTORY = "tensorboard"


@contextlib.contextmanager
def tensorboard(out: Path, first: int) -> Iterator[Callable[[StepReport], None]]:
    """A writer of reports; what was written of steps after `first`, which are made again, is passed over.

    Raises MissingDependencyError without the package `tensorboard`, TrainingError if nothing can be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what its dependencies think of each other
            from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependencyError(
            "tensorboard needs a package of that name: pip install '.[tensorboard]' in gptwo's checkout"
        ) from error
    try:
        writer = SummaryWriter(str(out / DIRECTORY), purge_step=first + 1)
    except OSError as error:
        raise TrainingError(f"{out / DIRECTORY}: cannot be written ({error.strerror})") from error

    def write(report: StepReport) -> None:
        for name, value in report.to_dict().items():
            if name == "sample":
                writer.add_text(name, f"```\n{value}\n```", report.step)
            elif name != "step":
                writer.add_scalar(name, value, report.step)

    try:
        yield write
    finally:
        writer.close()
