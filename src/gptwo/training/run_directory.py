"""What lies in a run's directory beside its checkpoints and its model: the settings, the metrics, and a lock."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptwo.checkpoint import clear_saving_leftovers
from gptwo.errors import TrainingError
from gptwo.files import only_holder, replace_file

SETTINGS = "train.json"
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


def remember_settings(out: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Write the settings of a run beside it, or hold them against those that it was started with.

    settings: plain values by name. defaults: what a setting was before it existed, where that is known.
    Raises TrainingError, naming the setting, if one differs.
    """
    path = out / SETTINGS
    try:
        if not path.exists():
            with replace_file(path) as file:
                file.write((json.dumps(settings, indent=2) + "\n").encode())
            return
        before = json.loads(path.read_bytes())
        if not isinstance(before, dict):
            raise ValueError
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read or written ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{path}: is broken; choose another --out") from error
    for name, value in settings.items():
        old = before.get(name, defaults.get(name, value))
        if old != value:
            wrong = "other data" if name.endswith("_sha256") else f"{name} {old!r}, not {value!r}"
            raise TrainingError(
                f"{out} was started with {wrong}; give the same settings to go on, or another --out to start afresh"
            )


def clear_leftovers(out: Path) -> None:
    """Delete what a process that was killed left half written; a model that it was about to replace comes back.

    The names are those that `replace_file` gives.
    """
    clear_saving_leftovers(out / MODEL)
    for place, pattern in (
        (out, f".{SETTINGS}.*.tmp"),
        (out, f".{METRICS}.*.tmp"),
        (out / CHECKPOINTS, ".step-*.pt.*.tmp"),
    ):
        for path in place.glob(pattern):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def metrics(out: Path, first: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A writer of one line of JSON for each step; the lines of steps after `first`, which are made again, go.

    Raises TrainingError if the file cannot be written.
    """
    path = out / METRICS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
        with replace_file(path) as file:
            file.write("".join(line + "\n" for line in lines if _step_of(line) <= first).encode())
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
    except (ValueError, KeyError, TypeError):
        return math.inf
