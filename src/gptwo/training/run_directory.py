"""What lies in a run's directory beside its checkpoints and its model: the settings, the metrics, and a lock."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptwo.checkpoint import clear_saving_leftovers
from gptwo.errors import InvalidRequestError, TrainingError, TrainingWarning
from gptwo.files import only_holder, replace_file
from gptwo.training.config import CHANGEABLE
from gptwo.training.config_file import RunSettings, resolve, to_toml
from gptwo.training.schedule import same_rates

SETTINGS = "train.toml"
METRICS = "metrics.jsonl"
MODEL = "model"
CHECKPOINTS = "checkpoints"


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold a run's directory, made if need be. Raises TrainingError if another process trains there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        stack = contextlib.ExitStack()
        stack.enter_context(only_holder(out / "lock"))
    except BlockingIOError as error:
        raise TrainingError(f"{out}: another process is training here") from error
    except OSError as error:
        raise TrainingError(f"{out}: cannot be written ({error.strerror})") from error
    with stack:
        yield


def remember_settings(settings: RunSettings, steps_made: Callable[[], int]) -> None:
    """Write the settings of a run beside it, as a file that `--config` takes, or hold them against what is there.

    steps_made: how many the run has in its newest checkpoint. What was written before a setting existed has its
    default. Raises TrainingError, naming the setting, if one differs that a run cannot change (see CHANGEABLE).
    """
    path = settings.out / SETTINGS
    try:
        if path.exists():
            before = resolve(path, {})
            _check_same(before, settings)
            _check_steps(before, settings, steps_made)
            _tell_of_another_device(before, settings, steps_made)
            if before.config == settings.config:
                return
        with replace_file(path) as file:
            file.write(to_toml(settings).encode("utf-8", "replace"))  # a path may be no text
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read or written ({error.strerror})") from error
    except InvalidRequestError as error:
        raise TrainingError(f"{path}: is broken; choose another --out") from error


def _check_same(before: RunSettings, now: RunSettings) -> None:
    old, new = before.config.to_dict(), now.config.to_dict()
    for name in new:
        if old[name] != new[name] and name not in CHANGEABLE | {"steps"}:
            raise TrainingError(
                f"{now.out} was started with {name} {old[name]!r}, not {new[name]!r}; give the same settings to go on, "
                "or another --out to start afresh"
            )


def _check_steps(before: RunSettings, now: RunSettings, steps_made: Callable[[], int]) -> None:
    """A run may become longer or shorter as long as no step that was made would have had another learning rate."""
    if before.config.steps == now.config.steps:
        return
    made = steps_made()
    if now.config.steps < made:
        raise TrainingError(f"{now.out} has made {made:,} steps already, more than the {now.config.steps:,} asked for")
    if not same_rates(before.config, now.config, made):
        raise TrainingError(
            f"{now.out} was started with steps {before.config.steps}, not {now.config.steps}; the learning rate of the "
            f"{made:,} steps that were made hangs on that (with schedule 'constant', or 'wsd' before its decay, it "
            "would not); give the same number to go on, or start another run from its model with --init "
            f"{now.out / MODEL}"
        )


def _tell_of_another_device(before: RunSettings, now: RunSettings, steps_made: Callable[[], int]) -> None:
    old, new = (settings.config.device.partition(":")[0] for settings in (before, now))
    if old not in (new, "auto") and steps_made():
        warnings.warn(
            f"{now.out} made its steps so far on {old} and goes on on {new}: it learns as well there, but its bits are "
            "not those of a run that stayed",
            TrainingWarning,
            stacklevel=2,
        )


def check_same_data(out: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise TrainingError if a run is to go on with other data than its checkpoint saw."""
    if dict(before) != dict(now):
        raise TrainingError(
            f"{out} was started with other data; give the same data to go on, or another --out to start afresh"
        )


def clear_leftovers(out: Path) -> None:
    """Delete what a process that was killed left half written; a model that it was about to replace comes back.

    The names are those that `replace_file` gives.
    """
    clear_saving_leftovers(out / MODEL)
    for place, pattern in (
        (out, f".{SETTINGS}.*.tmp"),
        (out, f".{METRICS}.*.tmp"),
        (out / CHECKPOINTS, ".step-*.tmp"),
        (out / "adapter", ".adapter_*.tmp"),
    ):
        for path in place.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def metrics(out: Path, first: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A writer of lines of JSON, one for each step; those of steps after `first`, which are made again, go.

    Raises TrainingError if the file cannot be written.
    """
    path = out / METRICS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        with replace_file(path) as file:
            file.write("".join(line + "\n" for line in lines if first and _step_of(line) <= first).encode())
        stream = path.open("a", encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read or written ({error.strerror})") from error

    def write(values: Mapping[str, Any]) -> None:
        try:
            stream.write(json.dumps(values) + "\n")
            stream.flush()
        except OSError as error:
            raise TrainingError(f"{path}: cannot be written ({error.strerror})") from error

    try:
        yield write
    finally:
        with contextlib.suppress(OSError):  # of a line that was told of already
            stream.close()


def _step_of(line: str) -> float:
    """The step of a line of metrics; infinite for one that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return math.inf
