"""Checkpoints that a run resumes from: one directory each, complete or none.

`checkpoints/step-00000200/` holds tensors (`state.pt`, or the files of torch.distributed.checkpoint where the weights
are sharded over several processes) and `manifest.json`: how far the run was, what data it saw, and the length and
SHA-256 of each file. A directory is written under a temporary name, synced to the disk and renamed, and its manifest
comes last: without one a directory is no checkpoint.

The random states and the place in the data are a number: the order of the data and the dropout of a step follow from
the seed and the step's number. The manifest ends with a hash of the rest of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptwo.errors import CheckpointWarning, TrainingError
from gptwo.files import replace_file
from gptwo.training.world import World

FORMAT = "gptwo-run-1"
MANIFEST, STATE = "manifest.json", "state.pt"

_ENTRIES = {"format", "progress", "data", "files"}
_NAME = re.compile(r"step-(\d{8,})", re.ASCII)


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    step: int = 0
    """Steps that are done."""
    batches: int = 0
    """Batches that were read: where the loader goes on."""
    seconds: float = 0.0
    start: float | None = None
    """Validation loss of the model that the run started from, if it was another's."""
    best: float | None = None
    """Lowest validation loss."""
    best_step: int | None = None
    waited: int = 0
    """Evaluations since then."""
    ended: bool = False
    """Whether the validation loss has stopped falling, so that no step is to follow."""


@dataclass(frozen=True)
class RunCheckpoint:
    """One that is complete and whose files are as they were written."""

    path: Path
    progress: Progress
    data: Mapping[str, str]
    """What tells the data apart."""

    @property
    def sharded(self) -> bool:
        """Whether it is of several processes with a part of the weights each."""
        return not (self.path / STATE).exists()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its tensors, by name, without reading more than it must."""
        if self.sharded:
            from gptwo.training.sharded_state import read_shapes  # takes a while, and few need it

            return read_shapes(self.path)
        return {name: tuple(tensor.shape) for name, tensor in _read_state(self.path).items()}

    def read(self, into: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its tensors. into: tensors of the same shapes, which those of a sharded one are read into."""
        if self.sharded:
            from gptwo.training.sharded_state import read_shards

            read_shards(self.path, into)
            return into
        return _read_state(self.path)


def save_run_checkpoint(
    directory: Path,
    progress: Progress,
    state: dict[str, Tensor],
    *,
    data: Mapping[str, str],
    keep: int,
    world: World,
    sharded: bool,
) -> Path:
    """Write the state of a run; then delete all checkpoints but the newest `keep` and the best.

    With several processes all call it, and rank 0 alone writes unless the state is sharded. Raises TrainingError, on
    whose disk it happened, and nothing that was saved before is lost.
    """
    path = directory / _name_of(progress.step)
    temporary = directory / f".{path.name}.{world.from_first(os.urandom(4).hex())}.tmp"
    try:
        if sharded:
            files = _write_sharded(temporary, state, world)
        elif world.first:
            temporary.mkdir(parents=True)
            _write_state(temporary / STATE, state)
            files = {STATE: _described(temporary / STATE)}
        if world.first:
            manifest = {"format": FORMAT, "progress": asdict(progress), "data": dict(data), "files": files}
            _put_in_place(temporary, path, manifest)
            _delete_old(directory, keep, progress.best_step)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be saved ({error.strerror}); older checkpoints are untouched") from error
    finally:
        if world.first:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def run_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory that were finished, oldest first."""
    found = [(int(match[1]), path) for path in directory.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if (path / MANIFEST).exists()]


def newest_run_checkpoint(directory: Path) -> RunCheckpoint | None:
    """What to go on from, or None to start afresh; no code in a file is ever run.

    One that is damaged is passed over with a CheckpointWarning. Raises TrainingError if that leaves none: starting
    afresh would throw away what may yet be mended.
    """
    paths = run_checkpoints(directory)
    for path in reversed(paths):
        try:
            return _checked(path)
        except Exception as error:  # noqa: BLE001 - a damaged file makes torch raise nearly every class there is
            wrong = str(error) if isinstance(error, _DamagedError) else type(error).__name__
        warnings.warn(f"{path}: no checkpoint that can be read ({wrong}); passed over", CheckpointWarning, stacklevel=2)
    if paths:
        raise TrainingError(f"{directory}: none of its checkpoints can be read; delete them to start afresh")
    return None


class _DamagedError(Exception):
    """What is wrong with a checkpoint."""


def _checked(path: Path) -> RunCheckpoint:
    """A checkpoint whose every file is as it was written."""
    values = json.loads((path / MANIFEST).read_bytes())
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _DamagedError("it holds something else")
    said = values.pop("sha256", None)
    if (said is not None and said != manifest_hash(values)) or values.keys() != _ENTRIES:
        raise _DamagedError(f"{MANIFEST} is not as it was written")
    for name, described in values["files"].items():
        if Path(name).name != name or not (path / name).is_file() or _described(path / name) != described:
            raise _DamagedError(f"{name} is not as it was written")
    progress = Progress(**values["progress"])
    values_and_kinds = [(getattr(progress, field.name), _KINDS[str(field.type)]) for field in fields(progress)]
    if not all(isinstance(value, kind) and 0 <= (value or 0) < math.inf for value, kind in values_and_kinds):
        raise _DamagedError("it holds something else")
    if path.name != _name_of(progress.step):
        raise _DamagedError(f"it is of step {progress.step}")
    checkpoint = RunCheckpoint(path, progress, dict(values["data"]))
    checkpoint.shapes()  # so that it is known to be readable
    return checkpoint


_KINDS: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "float | None": (int, float, type(None)),
    "int | None": (int, type(None)),
}


def _write_state(path: Path, state: Mapping[str, Tensor]) -> None:
    try:
        with path.open("xb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:
        # What a failed write leaves behind makes torch raise an error of its own over the system's.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _read_state(path: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about kinds of pickles, which no user can act upon
        state = torch.load(path / STATE, weights_only=True, map_location="cpu", mmap=True)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise _DamagedError("it holds something else")
    return state


def _write_sharded(temporary: Path, state: dict[str, Tensor], world: World) -> dict[str, Any]:
    """Have all processes write their shards; what each file is, told to all."""
    from gptwo.training.sharded_state import write_shards

    own = write_shards(temporary, state, world.rank)
    described = {path.name: _described(path) for path in own}
    return {name: value for one in world.gather(described) for name, value in one.items()}


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """The SHA-256 of all that a manifest says but for that itself, in hex."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _name_of(step: int) -> str:
    return f"step-{step:08d}"


def _put_in_place(temporary: Path, path: Path, manifest: dict[str, Any]) -> None:
    if path.exists():  # and is damaged, or was not finished: else the run would have gone on from there
        _delete(path)
    temporary.rename(path)
    with replace_file(path / MANIFEST) as file:
        file.write((json.dumps({**manifest, "sha256": manifest_hash(manifest)}, indent=2) + "\n").encode())
    for directory in (path, path.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _delete_old(directory: Path, keep: int, best_step: int | None) -> None:
    for old in run_checkpoints(directory)[:-keep]:
        if int(old.name.removeprefix("step-")) != best_step:
            _delete(old)


def _delete(path: Path) -> None:
    (path / MANIFEST).unlink(missing_ok=True)  # first: without it the rest is no checkpoint
    shutil.rmtree(path)
