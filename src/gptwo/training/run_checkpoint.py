"""Checkpoints that a run resumes from: one file each, complete or absent.

A file holds the step, the weights, the optimizer's state, the best validation loss and the seconds spent. Nothing else
is needed: the order of the data and the dropout of a step follow from the seed and the step's number.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from gptwo.errors import CheckpointWarning, TrainingError
from gptwo.files import replace_file

KEPT = 2

_NAME = re.compile(r"step-(\d{8,})\.pt", re.ASCII)
_KINDS = {"step": int, "model": dict, "optimizer": dict, "best": float, "seconds": float}


def save_run_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps, then delete all but the newest two. Raises TrainingError, losing nothing."""
    path = directory / f"step-{step:08d}.pt"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            torch.save({"step": step, **state}, file)
        for old in run_checkpoints(directory)[:-KEPT]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError) as error:
        # What a failed write leaves behind makes torch raise an error of its own over the system's.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise TrainingError(f"{path}: cannot be saved ({reason.strerror}); older checkpoints are untouched") from error
    return path


def run_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    found = [(int(match[1]), path) for path in directory.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_run_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The state to go on from, or None to start afresh; no code in a file is ever run.

    A file that cannot be read, or holds something else, is passed over with a CheckpointWarning. Raises TrainingError
    if that leaves none: starting afresh would throw away what may yet be mended.
    """
    paths = run_checkpoints(directory)
    for path in reversed(paths):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about kinds of pickles, which no user can act upon
                state = torch.load(path, weights_only=True, map_location="cpu")
            wrong = None if _is_state(state) else "it holds something else"
        except Exception as error:  # noqa: BLE001 - a damaged file makes torch raise nearly every class there is
            wrong = type(error).__name__
        if wrong is None:
            return dict(state)
        warnings.warn(f"{path}: no checkpoint that can be read ({wrong}); passed over", CheckpointWarning, stacklevel=2)
    if paths:
        raise TrainingError(f"{directory}: none of its checkpoints can be read; delete them to start afresh")
    return None


def _is_state(state: object) -> bool:
    return isinstance(state, dict) and all(isinstance(state.get(name), kind) for name, kind in _KINDS.items())
