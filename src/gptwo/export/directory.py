"""The directory of an export: the model for its engine, config.json, the tokenizer's files, report.json."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from gptwo.checkpoint import Checkpoint, replace_directory
from gptwo.errors import ExportError, InvalidRequestError, MissingDependencyError
from gptwo.export import DTYPES
from gptwo.export.report import Report, Runs, compare, files_of

REPORT: Final = "report.json"


class SavesTokenizer(Protocol):
    """The part of a tokenizer that an export needs."""

    def save(self, directory: Path) -> None:
        """Write the tokenizer's files into a directory."""


@dataclasses.dataclass(frozen=True)
class Against:
    """What an export is compared with."""

    reference: Runs
    prompts: Sequence[Sequence[int]]
    """Token ids, fewer than the model has positions."""
    advance: Callable[[float], None] = lambda share: None
    """Called with the share that is done."""


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path,
    *,
    to: str,
    dtype: str | None = None,
    tokenizer: SavesTokenizer | None = None,
    against: Callable[[], Against] | None = None,
    force: bool = False,
    compiled: bool = False,
    threads: int | None = None,
) -> Report:
    """Write a checkpoint into the directory `out` for another engine, and say how it compares.

    to: onnx, coreml or torch. dtype: one of DTYPES[to], the first unless given. against: called once the model is
    written and can be run here; None leaves the comparison out. force: replace an export that is there. compiled: for
    torch, a program that AOTInductor compiled for this machine as well. threads: to compare with.

    `out` is there when all of it is. Raises ExportError for an `out` that is there already or cannot be written,
    InvalidRequestError for another target or type, MissingDependencyError for an engine that is not installed,
    NumericalError for weights that the type cannot hold.
    """
    dtype = _checked(checkpoint, to, dtype, compiled)
    check_target(out, force=force)
    reports = []

    def write(new: Path) -> None:
        checkpoint.config.save(new / "config.json")
        if tokenizer is not None:
            tokenizer.save(new)
        opened = _write_model(new, checkpoint, to, dtype, compiled, threads)
        compared, why = None, None
        if against is None:
            why = "not asked for"
        elif isinstance(opened, str):
            why = opened
        else:
            given = against()
            compared = compare(given.reference, opened(), given.prompts, checkpoint.config.n_positions, given.advance)
        report = Report(to, dtype, checkpoint.config.parameter_count, files_of(new), compared, why)
        (new / REPORT).write_text(json.dumps(as_json(report), indent=2) + "\n", encoding="utf-8")
        reports.append(report)

    try:
        replace_directory(out, write)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written ({error.strerror or error})") from error
    return reports[0]


def as_json(report: Report) -> dict[str, Any]:
    """What report.json holds; numbers that JSON lacks are null."""
    compared = report.compared
    values = {**dataclasses.asdict(report), "bytes": report.bytes, "format": "gptwo export"}
    if compared is not None:
        values["compared"] = {name: _finite(value) for name, value in dataclasses.asdict(compared).items()}
    return values


def check_target(out: Path, *, force: bool) -> None:
    """Raise ExportError if nothing may be exported to this path.

    Replacing a directory deletes what is in it, so with `force` it must be an export, or empty.
    """
    target = Path(os.path.realpath(out))
    if str(target) != str(target).encode("utf-8", "replace").decode():
        raise ExportError(f"{str(out)!a} has a name that is no text, and such files the engines' libraries cannot open")
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise ExportError(f"{out}: is a file, expected a directory to be made")
    names = set(os.listdir(target))
    if strangers := names - _exported(target):
        raise ExportError(f"{out}: holds {min(strangers)!a}, which is no part of an export; choose another directory")
    if names and not force:
        raise ExportError(f"{out}: is there already; --force replaces it")


def _exported(directory: Path) -> set[str]:
    """What the report in a directory names as the export's files, and itself; nothing if it is no report of ours."""
    try:
        report = json.loads((directory / REPORT).read_bytes()[:1_000_000])
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(report, dict) or report.get("format") != "gptwo export":
        return set()
    files = report.get("files")
    return {REPORT, *files} if isinstance(files, dict) else {REPORT}


def check_wanted(to: str, dtype: str | None, *, compiled: bool = False) -> None:
    """Raise InvalidRequestError for a target or a type that there is not, whatever the model."""
    if to not in DTYPES:
        raise InvalidRequestError(f"to is {to!r}, expected one of {', '.join(DTYPES)}", param="to")
    if dtype is not None and dtype not in DTYPES[to]:
        raise InvalidRequestError(f"dtype {dtype!r}: {to} has {', '.join(DTYPES[to])}", param="dtype")
    if compiled and to != "torch":
        raise InvalidRequestError(f"only torch has a compiled program, {to} has none", param="compiled")


def _checked(checkpoint: Checkpoint, to: str, dtype: str | None, compiled: bool) -> str:
    check_wanted(to, dtype, compiled=compiled)
    if checkpoint.packed is not None:
        raise InvalidRequestError(
            f"{checkpoint.path} is packed as {checkpoint.packed.weights}, which only gptwo's core reads; export the "
            "checkpoint that it was made from",
            param="model",
        )
    if checkpoint.config.n_positions < 2:
        raise InvalidRequestError("a model of one position has no text to go on with", param="model")
    return dtype or DTYPES[to][0]


def _write_model(
    directory: Path, checkpoint: Checkpoint, to: str, dtype: str, compiled: bool, threads: int | None
) -> Callable[[], Runs] | str:
    """Write what the engine loads; what opens it to be run, or why nothing can run it here."""
    if to == "onnx":
        from gptwo.export.onnx_model import OnnxModel, write_onnx

        write_onnx(directory, checkpoint, dtype)
        return lambda: OnnxModel(directory, checkpoint.config.n_layer, threads=threads)
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError(f"an export to {to} needs PyTorch: pip install '.[{to}]' in gptwo's checkout")
    if to == "torch":
        from gptwo.export.torch_program import TorchScriptModel, write_torch

        write_torch(directory, checkpoint, dtype, compiled=compiled)
        return lambda: TorchScriptModel(directory, threads=threads)
    from gptwo.export.coreml import CoreMLModel, write_coreml

    write_coreml(directory, checkpoint, dtype)
    if platform.system() != "Darwin":
        return "Core ML runs on Apple's systems only"
    return lambda: CoreMLModel(directory)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
