"""What a check says, and the running of a learner's code, which may do anything."""

from __future__ import annotations

import copy
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from gptwo.errors import one_line

HERE = Path(__file__).parent
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
EMPTY = "its body is still empty, or a return is missing"


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer."""

    name: str
    """The exercise."""
    right: bool
    text: str
    """Sentences for the learner: what is wrong, and what to do."""

    def __str__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.name}: {self.text}"


class AnswerError(Exception):
    """What is wrong with an answer, in sentences for the learner."""


class Exercise(Protocol):
    """What a lesson asks for."""

    def examine(self, thing: object, roles: Mapping[str, str] | None) -> None:
        """Raise AnswerError where `thing` is wrong."""


def examined(name: str, exercise: Exercise, thing: object, roles: Mapping[str, str] | None) -> Verdict:
    """The verdict on `thing`; nothing that it does makes the check fail, and the random numbers stay as they were."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            exercise.examine(thing, roles)
    except AnswerError as error:
        return Verdict(name, False, str(error))
    except Exception as error:  # noqa: BLE001 - an answer may be such that to look at it raises anything
        return Verdict(name, False, f"The check cannot follow your answer: {type(error).__name__}: {one_line(error)}.")
    return Verdict(name, True, "right.")


def run(what: str, code: Callable[..., Any], *arguments: Any) -> Any:
    """What the learner's `code` gives. AnswerError if it raises, changes its arguments, or gives nothing.

    what: how the call reads in a sentence, such as `softmax(scores)`.
    """
    given = copy.deepcopy(arguments)
    try:
        result = code(*given)
    except NotImplementedError as error:
        raise AnswerError(f"{what} is not there yet: {EMPTY}.") from error
    except RecursionError as error:
        raise AnswerError(f"{what} calls itself without end{_place(error)}.") from error
    except (Exception, SystemExit) as error:
        reason = one_line(str(error) or "no message", 300)
        raise AnswerError(f"{what} raised {type(error).__name__}: {reason}{_place(error)}.") from error
    if result is None or result is Ellipsis:
        raise AnswerError(f"{what} gives {result}: {EMPTY}.")
    for before, after in zip(arguments, given, strict=True):
        if not _unchanged(before, after):
            raise AnswerError(
                f"{what} changes in place what it is given, which whoever calls it may still need; work on a copy "
                "(operations that end in _, such as masked_fill_ or +=, and assignments to x[...] change their tensor)."
            )
    return result


def _unchanged(before: object, after: object) -> bool:
    if isinstance(before, torch.Tensor) and isinstance(after, torch.Tensor):
        return before.shape == after.shape and torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
    if isinstance(before, dict) and isinstance(after, dict):
        return before.keys() == after.keys() and all(_unchanged(before[key], after[key]) for key in before)
    if isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
        return len(before) == len(after) and all(map(_unchanged, before, after))
    if isinstance(before, (str, bytes, int, float)):
        return before == after
    return True  # a model, a configuration, a cache of the learner's own kind


def _place(error: BaseException) -> str:
    """Where in the learner's code it happened: the last line that is neither a library's nor ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        library = "site-packages" in path.parts or frame.filename.startswith("<frozen")
        if not library and not {HERE, STANDARD_LIBRARY} & set(path.parents):
            line = (frame.line or "").strip()
            return f" (line {frame.lineno}{f', `{line}`' if line else ''})"
    return ""
