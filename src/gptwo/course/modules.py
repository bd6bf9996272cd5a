"""Exercises whose answer is a class: it is made, given random weights, run, and compared.

B batch, T positions, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptwo.course.answers import EMPTY, AnswerError, run
from gptwo.course.forward import Weights
from gptwo.course.judging import Mistake, Sizes, a_kind_of, judge
from gptwo.course.roles import Layers, draw, given_weights, layers_of

# Small, and no two alike, so that a shape says which axis is which.
WIDTH, HEADS, DEPTH, VOCABULARY, PLACES = 12, 3, 2, 19, 9


@dataclass(frozen=True)
class ModuleExercise:
    """A class that is made by `arguments` and turns x into y; with `cuts`, piece by piece, keeping a past."""

    call: str
    """How the lesson makes one: `Attention(width, heads)`."""
    arguments: tuple[Any, ...]
    inputs: Callable[[], tuple[Tensor, ...]]
    read: Callable[[Layers], Iterator[Weights]]
    shapes: Mapping[str, tuple[int, ...]]
    """The roles of its parameters."""
    forward: Callable[..., tuple[Tensor, Any]]
    """(x, weights, past, **flags) -> y and the next past."""
    mistakes: tuple[Mistake, ...]
    sizes: Sizes
    cuts: tuple[int, ...] = ()

    def examine(self, thing: object, roles: Mapping[str, str] | None) -> None:
        """Make one, run it and compare; AnswerError where it is wrong."""
        if isinstance(thing, nn.Module):
            raise AnswerError(f"Give the class itself, not one made of it: check(..., {type(thing).__name__}).")
        if not callable(thing):
            raise AnswerError(f"This takes a class, made as {self.call}; you gave {a_kind_of(thing)}.")
        module = run(self.call, thing, *self.arguments)
        if not isinstance(module, nn.Module):
            raise AnswerError(f"{self.call} is {a_kind_of(module)}, expected an nn.Module.")
        module.eval()
        inputs = self.inputs()
        if not any(True for _ in module.parameters()):
            self._check_begun(module, inputs[0])
            raise AnswerError(
                "PyTorch sees no parameters in it: make layers in __init__ (after super().__init__()) as nn.Linear or "
                "nn.Parameter; a plain tensor or a list hides them."
            )
        layers = layers_of(module, inputs[0])
        draw(module, layers)
        gots = [y for x in inputs for y in self._run(module, x)]
        again = [y for x in inputs for y in self._run(module, x)]
        if any(not torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(gots, again, strict=True)):
            raise AnswerError(
                "It gives something else each time that it is given the same, in evaluation mode too: use nn.Dropout, "
                "which module.eval() turns off, or leave dropout out; and keep nothing between calls."
            )
        found = self.read(layers) if roles is None else given_weights(module, roles, self.shapes)
        candidates = [self._answers(weights, inputs) for weights in found]
        try:
            judge(gots, candidates, self.mistakes, sizes=self.sizes)
        except AnswerError as error:
            raise AnswerError(f"{error}{self._probed(module, inputs[0], str(error))}") from None

    def _check_begun(self, module: nn.Module, x: Tensor) -> None:
        try:
            self._run(module, x)
        except AnswerError as error:
            if EMPTY in str(error):
                raise

    def _answers(self, weights: Weights, inputs: tuple[Tensor, ...]) -> Callable[..., Iterator[Tensor]]:
        def answers(**flags: Any) -> Iterator[Tensor]:
            for x in inputs:
                past = None
                for piece in self._pieces(x):
                    y, past = self.forward(piece, weights, past, **flags)
                    yield y

        return answers

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.split(x, list(self.cuts), dim=1) if self.cuts else (x,)

    def _run(self, module: nn.Module, x: Tensor) -> list[Tensor]:
        """What the learner's module gives: a tensor for each piece."""
        ys, past = [], None
        for piece in self._pieces(x):
            what = "forward(x, past)" if self.cuts else "forward(x)"
            got = run(what, module, piece, past) if self.cuts and past is not None else run(what, module, piece)
            if self.cuts:
                if not isinstance(got, tuple) or len(got) != 2:
                    raise AnswerError(
                        f"forward(x, past=None) gives {a_kind_of(got)}, expected a pair: y and the new past."
                    )
                got, past = got
                if past is None:
                    raise AnswerError(
                        "The past that forward gives back is None: the next call needs the keys and values."
                    )
            if not isinstance(got, Tensor):
                raise AnswerError(f"{what} gives {a_kind_of(got)}, expected a torch.Tensor.")
            if got.device != x.device:
                raise AnswerError(f"What {what} gives lies on the device {got.device}; keep to that of x, {x.device}.")
            ys.append(got)
        return ys

    def _probed(self, module: nn.Module, x: Tensor, said: str) -> str:
        """What a mistake that is not known shows of itself when single inputs are changed."""
        if "numbers are wrong" not in said or self.cuts:
            return ""
        before, hints = self._run(module, x)[0], ""
        later, other = x.clone(), x.clone()
        later[:, -1] = 2 * x[:, -1] + 1 if x.is_floating_point() else (x[:, -1] + 1) % VOCABULARY
        other[1:] = 2 * x[1:] + 1 if x.is_floating_point() else (x[1:] + 1) % VOCABULARY
        if not torch.allclose(before[:, :-1], self._run(module, later)[0][:, :-1], atol=1e-5):
            hints += " Earlier positions change when the last one does, so something looks ahead."
        if not torch.allclose(before[:1], self._run(module, other)[0][:1], atol=1e-5):
            hints += " The first text of the batch changes when the others do, so texts are mixed up."
        return hints


ATTENTION_SHAPES = {
    "c_attn.weight": (WIDTH, 3 * WIDTH),
    "c_attn.bias": (3 * WIDTH,),
    "c_proj.weight": (WIDTH, WIDTH),
    "c_proj.bias": (WIDTH,),
}
BLOCK_SHAPES = {
    "ln_1.weight": (WIDTH,),
    "ln_1.bias": (WIDTH,),
    **{f"attn.{name}": shape for name, shape in ATTENTION_SHAPES.items()},
    "ln_2.weight": (WIDTH,),
    "ln_2.bias": (WIDTH,),
    "mlp.c_fc.weight": (WIDTH, 4 * WIDTH),
    "mlp.c_fc.bias": (4 * WIDTH,),
    "mlp.c_proj.weight": (4 * WIDTH, WIDTH),
    "mlp.c_proj.bias": (WIDTH,),
}
MODEL_SHAPES = {
    "wte.weight": (VOCABULARY, WIDTH),
    "wpe.weight": (PLACES, WIDTH),
    **{f"h.{layer}.{name}": shape for layer in range(DEPTH) for name, shape in BLOCK_SHAPES.items()},
    "ln_f.weight": (WIDTH,),
    "ln_f.bias": (WIDTH,),
}
