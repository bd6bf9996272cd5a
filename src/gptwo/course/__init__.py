"""The checks behind the lessons in `course/`.

    from gptwo.course import check

    check("attention", MyAttention)     # says whether it is right, and if not, what is wrong with it

An exercise knows the right answer and the usual wrong ones: whose numbers equal those of a wrong one is told which
mistake makes such numbers. Classes may name their parameters as they like (see `roles`).
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING

from gptwo.errors import ExerciseError, InvalidRequestError, MissingDependencyError, nearest_name
from gptwo.options import shown

if TYPE_CHECKING:
    from gptwo.course.answers import Verdict

__all__ = ["LESSONS", "check", "needs", "verdict"]

LESSONS = {
    "attention": ("softmax", "attention"),
    "block": ("layer_norm", "gelu", "block"),
    "model": ("model",),
    "loading": ("loading", "greedy"),
    "sampling": (
        "temperature",
        "draw",
        "top_k",
        "top_p",
        "repetition_penalty",
        "frequency_penalty",
        "beam_search",
    ),
    "cache": ("cached_attention", "cached_model"),
    "tokenizer": ("count_pairs", "merge", "train_bpe", "encode", "decode"),
    "training": ("loss", "adamw", "learning_rate"),
    "quantization": ("quantize", "int8_product"),
    "speed": ("bytes_per_token", "online_attention", "accept"),
}
"""The lessons in their order, and the exercises of each: what `check` knows."""


def check(name: str, thing: object, *, roles: Mapping[str, str] | None = None) -> None:
    """Print whether `thing` is a right answer to the exercise `name`, and if not, how it is wrong; see `verdict`."""
    print(verdict(name, thing, roles=roles))


def needs(*things: object) -> None:
    """Say in one line, instead of what would go wrong, that a cell needs functions or classes not yet written.

    Raises ExerciseError if one of them, or a method of a class, still has an empty body.
    """
    for thing in things:
        own = vars(thing).values() if isinstance(thing, type) else (thing,)
        if any(inspect.isfunction(code) and _is_empty(code) for code in map(inspect.unwrap, filter(callable, own))):
            name = getattr(thing, "__name__", "it")
            raise ExerciseError(f"{name} is still empty: write it in its exercise above, run that cell, then this one")


def _is_empty(code: FunctionType) -> bool:
    """Whether a function does nothing but give None: `...`, `pass`, a docstring alone."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("RESUME", "NOP", "RETURN_VALUE")]
    return [(step.opname in ("LOAD_CONST", "RETURN_CONST"), step.argval) for step in steps] == [(True, None)]


def verdict(name: str, thing: object, *, roles: Mapping[str, str] | None = None) -> Verdict:
    """What there is to say of `thing` as an answer to the exercise `name`.

    thing: the function or class that the lesson asks for; the class itself, not one made of it. It runs here, on small
    inputs, and whatever it raises becomes the verdict.
    roles: which parameter of a class plays which part, {"c_attn.weight": "your.name", ...}, for one whose parameters
    the check cannot tell apart by itself; it says so then.
    Raises InvalidRequestError for a name that is no exercise, and MissingDependencyError without PyTorch.
    """
    lesson_of = {exercise: lesson for lesson, exercises in LESSONS.items() for exercise in exercises}
    if not isinstance(name, str) or name not in lesson_of:
        hint = nearest_name(name, lesson_of) if isinstance(name, str) else "; it is a name such as 'attention'"
        raise InvalidRequestError(f"there is no exercise {shown(name)}{hint}", param="name")
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("the course needs PyTorch: pip install '.[torch]' in gptwo's checkout") from error
    from gptwo.course.answers import examined

    exercises = import_module(f"gptwo.course.{lesson_of[name]}").EXERCISES
    return examined(name, exercises[name], thing, roles)


def __dir__() -> list[str]:
    return sorted(__all__)
