"""Comparing what an answer gives with the right one, and with what the usual mistakes would give."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gptwo.course.answers import AnswerError, run


@dataclass(frozen=True)
class Mistake:
    """A mistake that people make: what to say of it, and what makes the right answer make it too."""

    says: str
    flags: Mapping[str, Any]


@dataclass(frozen=True)
class FunctionExercise:
    """An exercise whose answer is a function."""

    call: str
    """The call as the lesson writes it: `softmax(scores)`."""
    answer: Callable[..., Any]
    """The right one; told by flags, it makes a mistake."""
    cases: tuple[tuple[Any, ...], ...]
    mistakes: tuple[Mistake, ...]

    def examine(self, thing: object, roles: Mapping[str, str] | None) -> None:
        """Run the function on all cases; AnswerError where it is wrong."""
        if not callable(thing):
            raise AnswerError(f"This takes a function, {self.call}; you gave {a_kind_of(thing)}.")
        gots = [self._run(thing, index) for index in range(len(self.cases))]

        def answers(**flags: Any) -> Iterator[Any]:
            return (self.answer(*case, **flags) for case in self.cases)

        judge(gots, [answers], self.mistakes, self._of_case)

    def _run(self, thing: Callable[..., Any], index: int) -> Any:
        try:
            return run(self.call, thing, *self.cases[index])
        except AnswerError as error:
            if " raised " not in str(error):
                raise
            raise AnswerError(f"{error} It was given {self._given(index)}.") from error.__cause__

    def _of_case(self, index: int) -> str:
        return f"For {self._given(index)}"

    def _given(self, index: int) -> str:
        names = inspect.signature(self.answer).parameters
        given = [f"{name} = {brief(value)}" for name, value in zip(names, self.cases[index], strict=False)]
        return ", ".join(part for part in given if len(part) < 120)


@dataclass(frozen=True)
class Sizes:
    """What the axes of a shape are called: {"B": 2, "T": 5, ...}."""

    of: Mapping[str, int] = field(default_factory=dict)

    def letters(self, shape: Sequence[int]) -> str:
        """Example: with B 2, T 5 and C 12 the shape (2, 5, 36) is "(2, 5, 36), that is (B, T, 3C)"."""
        known = {size: letter for letter, size in self.of.items()}
        known = {3 * self.of["C"]: "3C", 4 * self.of["C"]: "4C"} | known if "C" in self.of else known
        plain = str(tuple(shape))
        named = "(" + ", ".join(known.get(size, str(size)) for size in shape) + ")"
        return f"{plain}, that is {named}" if known and named != plain else plain


def judge(
    gots: list[Any],
    candidates: Sequence[Callable[..., Iterator[Any]]],
    mistakes: Sequence[Mistake],
    of_case: Callable[[int], str] = lambda index: "",
    sizes: Sizes | None = None,
) -> None:
    """Raise AnswerError unless `gots` are the answers: with the mistake, or the two, that would give just these.

    candidates: each gives the right answers one by one, and with a mistake's flags those that it leads to; several
    where it is open which of a learner's parameters is which.
    """
    if any(_gives(answers, {}, gots) for answers in candidates):
        return
    right = list(candidates[0]())
    for got, expected in zip(gots, right, strict=True):
        check_kind(got, expected)
    for mistake in mistakes:
        if any(_gives(answers, mistake.flags, gots) for answers in candidates):
            raise AnswerError(mistake.says)
    for one, other in itertools.combinations(mistakes, 2):
        if not one.flags.keys() & other.flags.keys() and _gives(candidates[0], {**one.flags, **other.flags}, gots):
            raise AnswerError(f"Two things. First: {one.says} Second: {other.says}")
    index = next(i for i, (got, expected) in enumerate(zip(gots, right, strict=True)) if not same(got, expected))
    raise AnswerError(difference(gots[index], right[index], of_case(index), sizes or Sizes()))


def _gives(answers: Callable[..., Iterator[Any]], flags: Mapping[str, Any], gots: list[Any]) -> bool:
    try:
        return all(same(got, answer) for got, answer in zip(gots, answers(**flags), strict=True))
    except (RuntimeError, ValueError, IndexError, KeyError, ZeroDivisionError, OverflowError):
        return False  # a mistake that leads to no answer here


def same(got: Any, expected: Any) -> bool:
    """Whether two answers are equal; numbers up to rounding, NaN equal to itself."""
    if isinstance(expected, Tensor):
        if not isinstance(got, Tensor) or got.shape != expected.shape or got.device != expected.device:
            return False
        if got.dtype != expected.dtype:
            return False
        return torch.allclose(got.double(), expected.double(), rtol=1e-4, atol=2e-5, equal_nan=True)
    if isinstance(expected, (tuple, list)):
        return isinstance(got, (tuple, list)) and len(got) == len(expected) and all(map(same, got, expected))
    if isinstance(expected, float):
        return isinstance(got, (int, float)) and math.isclose(got, expected, rel_tol=1e-6, abs_tol=1e-12)
    return type(got) is type(expected) and bool(got == expected)


def check_kind(got: Any, expected: Any) -> None:
    """AnswerError where `got` is not of the type, or the element type, of what is expected."""
    if isinstance(expected, Tensor):
        if not isinstance(got, Tensor):
            raise AnswerError(f"It gives {a_kind_of(got)}, expected a torch.Tensor.")
        if got.device != expected.device:
            raise AnswerError(f"What it gives lies on the device {got.device}; keep to that of the input, cpu.")
        if got.dtype != expected.dtype:
            raise AnswerError(
                f"The dtype of what it gives is {got.dtype}, expected {expected.dtype}; "
                "tensors made on the way take another than the input's unless told."
            )
    elif isinstance(expected, (tuple, list)):
        if not isinstance(got, (tuple, list)):
            raise AnswerError(f"It gives {a_kind_of(got)}, expected a {type(expected).__name__}.")
        if isinstance(expected, tuple) and len(got) != len(expected):
            raise AnswerError(f"It gives {len(got)} things, expected {len(expected)}.")
        for one, other in zip(got, expected, strict=False):
            check_kind(one, other)
    elif isinstance(expected, float):
        if not isinstance(got, (int, float)):
            raise AnswerError(f"It gives {a_kind_of(got)}, expected a float.")
    elif type(got) is not type(expected):
        hint = "; .item() makes a number of a tensor" if isinstance(got, Tensor) and isinstance(expected, int) else ""
        raise AnswerError(f"It gives {a_kind_of(got)}, expected {a_kind_of(expected)}{hint}.")


def difference(got: Any, expected: Any, case: str, sizes: Sizes, subject: str = "it gives") -> str:
    """How a wrong answer differs from the right one, when no mistake is known that makes it."""
    if isinstance(expected, (tuple, list)) and any(isinstance(part, Tensor) for part in expected):
        pairs = zip(got, expected, strict=True)
        index = next(i for i, (one, other) in enumerate(pairs) if not same(one, other))
        return difference(got[index], expected[index], case, sizes, f"result {index + 1} is")
    case = f"{case} " if case else ""
    if not isinstance(expected, Tensor):
        return f"{case}{subject} {brief(got)}, expected {brief(expected)}."
    if got.shape != expected.shape:
        return f"The shape is wrong: {sizes.letters(got.shape)}, expected {sizes.letters(expected.shape)}."
    if got.isnan().any() and not expected.isnan().any():
        return (
            f"{case}{subject} NaN at {got.isnan().nonzero()[0].tolist()}: inf - inf, 0 / 0, or a softmax over a row in "
            "which all is -inf."
        )
    if expected.numel() <= 12:
        return f"{case}{subject} {brief(got)}, expected {brief(expected)}."
    wrong = ~torch.isclose(got.double(), expected.double(), rtol=1e-4, atol=2e-5)
    place = wrong.nonzero()[0].tolist()
    finite = wrong & got.isfinite() & expected.isfinite() & (expected.abs() > 1e-3)
    ratios = (got / expected)[finite]
    hint = ""
    if ratios.numel() > 3 and torch.allclose(ratios, ratios[0].expand_as(ratios), rtol=1e-3):
        hint = f" All of it is {ratios[0].item():.4g} times too large."
    elif got.dim() == 3 and not wrong[:, 0].any():
        hint = " Position 0 is right and later ones are not, so look at what a position takes from others."
    return (
        f"{case}the shape is right and {wrong.float().mean().item():.0%} of the numbers are wrong, "
        f"first at {place}: {got[tuple(place)].item():.4f}, expected {expected[tuple(place)].item():.4f}.{hint}"
    )


def brief(value: Any) -> str:
    """A value as it reads in a sentence."""
    if isinstance(value, Tensor):
        if value.numel() > 12:
            return f"a tensor of shape {tuple(value.shape)}"
        return str(_rounded(value.tolist()))
    if isinstance(value, float):
        return f"{value:.6g}"
    if inspect.isfunction(value):
        return value.__name__
    text = str(_rounded(value)) if isinstance(value, list) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def a_kind_of(thing: object) -> str:
    """Example: `a list`, `an int`, `the class Attention`."""
    if isinstance(thing, type):
        return f"the class {thing.__name__}"
    kind = type(thing)
    name = kind.__name__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__name__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
