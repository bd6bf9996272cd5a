"""Checkpoints that a run resumes from: one file each, complete or absent.

A file holds the step, the weights, the optimizer's state and the best validation loss. Nothing else is needed: the
order of the data and the dropout of a step follow from the seed and the step's number.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from gptwo.errors import TrainingError
from gptwo.files import replace_file

KEPT = 2


def save_run_checkpoint(directory: Path, step: int, state: dict[str, Any]) -> Path:
    """Write the state after `step` steps, then delete all but the newest two. Raises TrainingError, losing nothing."""
    path = directory / f"step-{step:08d}.pt"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            torch.save({"step": step, **state}, file)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(f"{path}: cannot be saved ({reason}); older checkpoints are untouched") from error
    for old in run_checkpoints(directory)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def run_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    return sorted(directory.glob("step-[0-9]*.pt"))


def newest_run_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The state to go on from, or None to start afresh; a file that cannot be read is passed over with a warning."""
    for path in reversed(run_checkpoints(directory)):
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as error:
            warnings.warn(f"{path}: cannot be read ({type(error).__name__}); an older one is used", stacklevel=2)
            continue
        return state
    return None
