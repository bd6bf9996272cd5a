"""What `generate` and `interactive` share: parameters from options, a stream of pieces, and how long it all took."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

import click

from gptwo.cli.parameters import Parameter, parameters_of
from gptwo.errors import GptwoError
from gptwo.sampling.params import BeamParams, SamplingParams

if TYPE_CHECKING:
    from gptwo.engine import Piece
    from gptwo.language_model import LanguageModel

Params = SamplingParams | BeamParams

# Tokens to generate when nobody says how many; fewer where the model's context ends before.
DEFAULT_MAX_TOKENS = 100

# Defaults that are others here than in Python, where nobody reads along; None is "not used unless given".
HERE = {"max_tokens": f"{DEFAULT_MAX_TOKENS}, or as many as the context holds", "num_beams": None}

SAMPLING, BEAMS = parameters_of(SamplingParams), parameters_of(BeamParams)
SECTIONS = {"Sampling and beam search": SAMPLING.keys() & BEAMS.keys(), "Sampling": SAMPLING, "Beam search": BEAMS}


def generation_parameters() -> dict[str, tuple[str, Parameter]]:
    """Every parameter of sampling and beam search by name: the heading it stands under, and what it is."""
    return {
        name: (
            next(section for section, names in SECTIONS.items() if name in names),
            dataclasses.replace(parameter, default=HERE.get(name, parameter.default)),
        )
        for name, parameter in (SAMPLING | BEAMS).items()
    }


def generation_options() -> list[click.Parameter]:
    """An option for each of them, but for structured_outputs, which has several of its own (see `structured`)."""
    parameters = generation_parameters()
    return [
        parameter.option(section) for name, (section, parameter) in parameters.items() if name != "structured_outputs"
    ]


def make_params(values: Mapping[str, Any]) -> Params:
    """BeamParams if num_beams is among the values, else SamplingParams; InvalidRequestError as they raise it."""
    return BeamParams.from_dict(values) if "num_beams" in values else SamplingParams.from_dict(values)


def misplaced(names: Collection[str]) -> str | None:
    """Why these parameters cannot be used together, or None: some are for sampling only, some for beams only."""
    if "num_beams" in names:
        wrong = [name for name in names if name not in BEAMS]
        return f"{_dashed(wrong[0])} is for sampling, and --beams searches instead" if wrong else None
    wrong = [name for name in names if name not in SAMPLING]
    return f"{_dashed(wrong[0])} is for beam search, which needs --beams" if wrong else None


def with_length(values: Mapping[str, Any], model: LanguageModel, prompt: str | list[int]) -> dict[str, Any]:
    """The values with a max_tokens that fits into the model's context, unless they have one already."""
    if "max_tokens" in values:
        return dict(values)
    room = model.config.n_positions
    if values.get("overflow") != "slide":
        room -= max(1, len(_ids(model, prompt)))
    length = min(DEFAULT_MAX_TOKENS, room) if room > 0 else DEFAULT_MAX_TOKENS
    return {"max_tokens": max(length, values.get("min_tokens", 0)), **values}


def without_length(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values for a check before a model is there to say what its context holds."""
    return {"max_tokens": None, **values}


@contextmanager
def streamed(model: LanguageModel, prompt: str | list[int], params: Params) -> Iterator[Iterator[Piece]]:
    """The pieces of one prompt's texts. Left early, it cancels what is not made yet."""
    pieces = model.stream(prompt, params)
    try:
        yield pieces
    finally:
        if isinstance(pieces, Generator):
            pieces.close()


def is_streamed(params: Params) -> TypeGuard[SamplingParams]:
    """Whether texts come as they are made: beams and the best of several are only known at the end."""
    return isinstance(params, SamplingParams) and params.best_of in (None, params.n)


def _ids(model: LanguageModel, prompt: str | list[int]) -> list[int]:
    if not isinstance(prompt, str):
        return prompt
    if model.tokenizer is None or model.tokenizer.certainly_exceeds(prompt, model.config.n_positions):
        return []  # generating says what is wrong, where it can be reported
    try:
        return model.tokenizer.encode(prompt)
    except GptwoError:
        return []


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")


@dataclass
class Timings:
    """When the tokens of one answer came. Seconds."""

    load: float | None = None
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float = 0.0
    tokens: int = 0

    def count(self, tokens: int) -> None:
        """Note that tokens came just now."""
        if tokens:
            self.last = time.perf_counter()
            if self.tokens == 0:
                self.first = self.last - self.started
            self.tokens += tokens

    def watch(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces, each counted as it comes."""
        for piece in pieces:
            self.count(len(piece.token_ids))
            yield piece

    def count_at_once(self, tokens: int) -> None:
        """Note that all tokens came at the same time, so that nobody knows when the first did."""
        self.count(tokens)
        self.first = None

    def line(self) -> str:
        """Load time, time to the first token, then what each later token took; without a first, the mean of all."""
        parts = [] if self.load is None else [f"load {self.load:.2f} s"]
        seconds, steps = self.last - self.started, self.tokens
        if self.first is not None:
            parts.append(f"first token {1000 * self.first:.1f} ms")
            seconds, steps = seconds - self.first, steps - 1
        if steps > 0 and seconds > 0:
            parts += [f"{1000 * seconds / steps:.2f} ms/token", f"{steps / seconds:.1f} tokens/s"]
        return "  ".join([*parts, f"{self.tokens} token{'' if self.tokens == 1 else 's'}"])
