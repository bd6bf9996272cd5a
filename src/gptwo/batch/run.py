"""A batch from beginning to end."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.batch.parts import Parts, Totals, hold, parts_of, read_manifest
from gptwo.batch.rows import check_pyarrow
from gptwo.batch.settings import BatchModel, BatchSettings, Work
from gptwo.batch.source import Source, check_unchanged, read_part, scan
from gptwo.batch.task import read_task
from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.tokenizer_files import OTHER_TOKENIZER_FILES, TOKENIZER_FILES
from gptwo.errors import DataError, InvalidRequestError
from gptwo.version import __version__


@dataclass(frozen=True)
class BatchResult:
    """What a run came to."""

    out: Path
    lines: int
    errors: int
    """Lines that were answered with an error."""
    tokens: int
    """That were generated, or scored, by this run and those before it."""
    resumed: int
    """Lines that had been answered before."""
    seed: int


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    lines: int
    done: int
    errors: int
    tokens: int
    """By this run, not those before it."""


def run_batch(settings: BatchSettings, on_progress: Callable[[Progress], None] = lambda progress: None) -> BatchResult:
    """Answer a file of inputs, or go on with it.

    Each line is answered exactly once, whatever ends the run and however often; `out` appears when all are there. A run
    goes on with any number of processes, threads and texts at a time: they change no answer.

    Raises DataError for an input that cannot be read or was changed, an output that is there already or cannot be
    written, and settings that are not those of the run to go on with; what loading the model raises; OutOfMemoryError;
    with `strict`, InvalidRequestError for the first line with an error. What is done is kept in all these cases.
    """
    out, parquet = settings.out, settings.out.suffix.lower() == ".parquet"
    if parquet:
        check_pyarrow()
    before = None if settings.restart else read_manifest(parts_of(out))
    _check_places(settings, resumes=before is not None)
    source = scan(settings.source, settings.processes, None if before is None else _known(before, "part_lines"))
    if settings.strict:
        _check_lines(settings, source)
    weights = model_digest(settings.model)
    seed = settings.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little") if before is None else _known(before, "seed")
    parameters = json.loads(json.dumps(dict(settings.parameters)))
    work = Work(
        model=settings.model,
        score=settings.score,
        parameters=parameters,
        seed=seed,
        token_ids=settings.token_ids,
        json_lines=not parquet,
        created=int(time.time()) if before is None else _known(before, "created"),
    )
    identity = {
        "version": __version__,
        "input_sha256": source.sha256,
        "weights_sha256": weights,
        **{name: getattr(settings.model, name) for name in ("weights", "backend", "device")},
        "score": work.score,
        "parameters": parameters,
        "seed": seed,
        "token_ids": work.token_ids,
        "part_lines": source.part_lines,
        "created": work.created,
    }
    with hold(out, identity, restart=settings.restart) as parts:
        resumed = _answer(settings, work, source, parts, on_progress)
        check_unchanged(source.path, source.stamp)
        totals = _sum(parts.totals(part.number) for part in source.parts)
        parts.finish(out, len(source.parts), score=settings.score)
    return BatchResult(out, totals.lines, totals.errors, totals.tokens, resumed, seed)


def _answer(
    settings: BatchSettings, work: Work, source: Source, parts: Parts, on_progress: Callable[[Progress], None]
) -> int:
    """Answer the parts that are missing; how many lines were there before."""
    done = parts.done()
    missing = [part for part in source.parts if part.number not in done]
    before = _sum(parts.totals(number) for number in done)
    lines, errors, tokens = before.lines, before.errors, 0
    if settings.strict and errors:
        raise InvalidRequestError(f"{errors} of the lines that are done have an error; go on without --strict")
    on_progress(Progress(source.lines, lines, errors, tokens))
    if not missing:
        return before.lines
    reports: Iterator[Mapping[str, Any]]
    if settings.ray:
        from gptwo.batch.ray_data import answer_on_ray

        reports = answer_on_ray(settings, work, source, parts, missing)
    else:
        from gptwo.batch.pool import answer_in_processes

        reports = answer_in_processes(settings, work, source, parts, missing)
    try:
        for report in reports:
            lines, errors = lines + report["lines"], errors + report["errors"]
            tokens += report["tokens"]
            if settings.strict and report["first_error"] is not None:
                number, error = report["first_error"]
                raise InvalidRequestError(f"{source.path} line {number}: {error}")
            on_progress(Progress(source.lines, lines, errors, tokens))
    finally:
        reports.close()  # type: ignore[attr-defined]  # both are generators
    return before.lines


def model_digest(model: BatchModel) -> str:
    """What stands for all that a model's answers depend on: its configuration, weights and tokenizer."""
    checkpoint = load_checkpoint(model.name, revision=model.revision, progress=True)
    digest = hashlib.sha256(repr(checkpoint.config).encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        digest.update(np.ascontiguousarray(tensor.raw).data.cast("B"))
        tensor.release()
    tokenizer = checkpoint.tokenizer_path if model.tokenizer is None else Path(model.tokenizer).expanduser()
    if tokenizer is not None:
        files = (
            [tokenizer / name for name in (*TOKENIZER_FILES, *OTHER_TOKENIZER_FILES)]
            if tokenizer.is_dir()
            else [tokenizer]
        )
        for file in filter(Path.is_file, files):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _check_places(settings: BatchSettings, *, resumes: bool) -> None:
    out = settings.out
    if not out.parent.is_dir():
        raise DataError(f"{out}: there is no directory {out.parent}")
    if out.is_dir():
        raise DataError(f"{out}: is a directory")
    if not settings.source.is_file():
        kind = "is no file that can be read twice" if settings.source.exists() else "there is no such file"
        raise DataError(f"{settings.source}: {kind}")
    if out.exists():
        if out.samefile(settings.source):
            raise DataError(f"{out}: is the input too")
        if not settings.overwrite and not resumes:
            raise DataError(f"{out}: is there already; choose another name, or --overwrite")


def _check_lines(settings: BatchSettings, source: Source) -> None:
    """Raise InvalidRequestError for the first line that is wrong whatever the model is."""
    work = Work(model=settings.model, score=settings.score, parameters=settings.parameters, seed=0, token_ids=False)
    for part in source.parts:
        for line in read_part(source.path, part):
            error = read_task(line, work).error
            if error is not None:
                raise InvalidRequestError(f"{source.path} line {line.number}: {error}")


def _known(manifest: Mapping[str, Any], name: str) -> int:
    value = manifest.get(name)
    if not isinstance(value, int) or (name == "part_lines" and value < 1):
        raise DataError(f"batch.json has no {name}: it is broken; start afresh with --restart")
    return value


def _sum(totals: Iterator[Totals]) -> Totals:
    values: list[Sequence[int]] = [(one.lines, one.errors, one.tokens) for one in totals]
    return Totals(*map(sum, zip(*values, strict=True))) if values else Totals()
