"""The checks of the course: what is right passes, and every mistake is told as what it is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import nn

from gptwo import course
from gptwo.course import forward, verdict
from gptwo.course.judging import FunctionExercise
from gptwo.course.modules import HEADS, WIDTH, ModuleExercise

EXERCISES = {
    name: import_module(f"gptwo.course.{lesson}").EXERCISES[name]
    for lesson, names in course.LESSONS.items()
    for name in names
}
FUNCTIONS = {name: one for name, one in EXERCISES.items() if isinstance(one, FunctionExercise)}
MODULES = {name: one for name, one in EXERCISES.items() if isinstance(one, ModuleExercise)}


class OfFlags(nn.Module):
    """A class as a learner's, but for its forward pass, which is the reference's with a mistake in it."""

    def __init__(self, exercise: ModuleExercise, flags: dict[str, Any]) -> None:
        super().__init__()
        self.exercise, self.flags = exercise, flags
        self.weights = nn.Module()
        for name, shape in exercise.shapes.items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(
                last, nn.Parameter(torch.ones(shape) if "ln" in name and last == "weight" else torch.zeros(shape))
            )

    def forward(self, x: torch.Tensor, past: Any = None) -> Any:
        weights = {name: p for name, p in self.named_parameters()}
        y, kept = self.exercise.forward(x, weights, past, **self.flags)
        return (y, kept) if self.exercise.cuts else y


def test_the_lessons_and_the_exercises_are_the_same() -> None:
    for lesson, names in course.LESSONS.items():
        assert tuple(import_module(f"gptwo.course.{lesson}").EXERCISES) == names


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_known_mistake_in_a_function_is_told_as_what_it_is(name: str) -> None:
    exercise = FUNCTIONS[name]
    assert verdict(name, exercise.answer).right
    for mistake in exercise.mistakes:
        said = verdict(name, partial(exercise.answer, **mistake.flags))
        assert (said.right, said.text) == (False, mistake.says), mistake.flags


@pytest.mark.parametrize("name", MODULES)
def test_every_known_mistake_in_a_class_is_told_as_what_it_is(name: str) -> None:
    exercise = MODULES[name]
    assert verdict(name, lambda *_: OfFlags(exercise, {})).right
    for mistake in exercise.mistakes:
        said = verdict(name, lambda *_, flags=mistake.flags: OfFlags(exercise, flags))
        assert (said.right, said.text) == (False, mistake.says), mistake.flags
