"""What a batch is asked to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gptwo.errors import InvalidRequestError, nearest_name
from gptwo.options import MOST_THREADS, integer, shown
from gptwo.sampling import BeamParams, SamplingParams

SUFFIXES = (".parquet", ".jsonl")
MOST_PROCESSES = 256


@dataclass(frozen=True, kw_only=True)
class BatchModel:
    """Which model answers; the fields are the arguments of `gptwo.load`."""

    name: str = "shakespeare"
    weights: str = "auto"
    backend: str = "auto"
    device: str = "cpu"
    revision: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done to each line, whoever does it. Two runs with equal work and lines have equal answers."""

    model: BatchModel
    score: bool
    parameters: Mapping[str, Any]
    """Sampling or beam search, in plain values; a line's own come first."""
    seed: int
    """What each line's seed is derived from."""
    token_ids: bool
    """Whether answers bring the token ids of prompt and text."""
    json_lines: bool = True
    """Whether the answers are to be JSON Lines, in which each may have the shape that its line asks for."""
    created: int = 0
    """When the batch was begun, in seconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        """Plain values that JSON can hold, from which `from_json` makes an equal one."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Work:
        """Read what `to_json` gave."""
        return cls(**{**values, "model": BatchModel(**values["model"])})


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """A batch: where the lines are, where the answers go, and how.

    Raises InvalidRequestError, whose `param` names the field, for a value of the wrong type or out of range.
    """

    source: Path
    """JSON Lines: an object with `prompt`, or with `score` one with `text`, on each line."""
    out: Path
    """*.parquet or *.jsonl."""
    model: BatchModel = field(default_factory=BatchModel)
    score: bool = False
    """Score texts instead of continuing prompts."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of SamplingParams, or of BeamParams if num_beams is among them; a line's own come first."""
    seed: int | None = None
    """Each line's seed is derived from this and the line's index; None picks one, which a resumed run keeps."""
    token_ids: bool = False
    """Whether answers bring the token ids of prompt and text."""
    processes: int = 1
    threads: int | None = None
    """Of each process; None divides the CPUs among the processes."""
    max_sequences: int = 64
    """Texts that each process works on at a time."""
    strict: bool = False
    """Stop at the first line with an error, instead of answering that line with it."""
    overwrite: bool = False
    """Replace an output that is there already, once the new one is whole."""
    restart: bool = False
    """Throw away what an earlier run of this output has done."""
    ray: bool = False
    """Run on a Ray cluster, by Ray Data, instead of processes of this machine."""
    ray_address: str | None = None
    """The cluster's; None joins the one that is there, or starts one of this machine."""

    def __post_init__(self) -> None:
        for name in ("source", "out"):
            object.__setattr__(self, name, Path(getattr(self, name)))  # text does as well
        if self.out.suffix.lower() not in SUFFIXES:
            raise InvalidRequestError(
                f"the output is called {self.out.name}, expected a name that ends in {' or '.join(SUFFIXES)}", "out"
            )
        integer(1, MOST_PROCESSES)("processes", self.processes)
        integer(1, MOST_THREADS, optional=True)("threads", self.threads)
        integer(1)("max_sequences", self.max_sequences)
        integer(-(2**63), 2**64 - 1, optional=True)("seed", self.seed)
        if self.score and self.parameters:
            raise InvalidRequestError(
                f"{next(iter(self.parameters))} is for generating, and scoring takes no parameters", param="score"
            )
        make_params({"max_tokens": None, **self.parameters})
        try:
            json.dumps(dict(self.parameters))
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"the parameters are no plain values ({error}), as JSON has them") from error


def make_params(values: Mapping[str, Any]) -> SamplingParams | BeamParams:
    """BeamParams if num_beams is among the values, else SamplingParams; InvalidRequestError as they raise it."""
    beams = "num_beams" in values
    for name in values:
        if isinstance(name, str) and name not in (BeamParams if beams else SamplingParams).field_help():
            hint = _belongs(name, beams) or nearest_name(name, SamplingParams.field_help() | BeamParams.field_help())
            raise InvalidRequestError(f"{shown(name)} is no parameter{hint}", param=name)
    return BeamParams.from_dict(values) if beams else SamplingParams.from_dict(values)


def _belongs(name: str, beams: bool) -> str:
    if beams and name in SamplingParams.field_help():
        return " of beam search, which num_beams asks for"
    return " of sampling; beam search needs num_beams" if not beams and name in BeamParams.field_help() else ""


def line_seed(seed: int, index: int) -> int:
    """The seed of a line: 63 bits that depend on the batch's seed and the line's index, and on nothing else.

    They are hashed, so that batches whose seeds are neighbours have nothing in common.
    """
    digest = hashlib.blake2b(f"{seed % 2**64} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def digest_of(values: Mapping[str, Any]) -> str:
    """A short name for plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
