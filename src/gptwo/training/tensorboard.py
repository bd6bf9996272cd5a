"""A run's metrics for TensorBoard, beside the lines of JSON: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

import contextlib
import threading
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

    def write(report: StepReport) -> None:
        with _errors_named(out):
            for name, value in report.to_dict().items():
                if name == "sample":
                    writer.add_text(name, f"```\n{value}\n```", report.step)
                elif name != "step":
                    writer.add_scalar(name, value, report.step)

    with _quiet_threads():
        with _errors_named(out):
            writer = SummaryWriter(str(out / DIRECTORY), purge_step=first + 1)
        try:
            yield write
        except BaseException:
            with contextlib.suppress(OSError):  # what ends the run counts
                writer.close()
            raise
        with _errors_named(out):
            writer.close()


@contextlib.contextmanager
def _errors_named(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError(f"{out / DIRECTORY}: cannot be written ({error.strerror})") from error


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Let the thread that writes say nothing of a full disk: the next call raises what it met."""
    before = threading.excepthook

    def hook(met: threading.ExceptHookArgs) -> None:
        if not (isinstance(met.exc_value, OSError) and type(met.thread).__module__.startswith("tensorboard")):
            before(met)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
