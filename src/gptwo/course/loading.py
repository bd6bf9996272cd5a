"""Lesson 4: the weights of a checkpoint, and greedy text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gptwo.course import forward
from gptwo.course.answers import AnswerError, run
from gptwo.course.judging import FunctionExercise, Mistake, a_kind_of, judge
from gptwo.course.model import CONFIG, SIZES
from gptwo.course.modules import HEADS, MODEL_SHAPES
from gptwo.course.toy import toy_model

Arrays = dict[str, npt.NDArray[np.float32]]
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def loaded(
    ids: Tensor, arrays: Mapping[str, npt.NDArray[np.float32]], *, turned: str = "", exchanged: str = ""
) -> Tensor:
    """Logits of a model with these arrays, or of one that was loaded with a mistake."""
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if turned:
        weights = {name: t.T if name.endswith(f"{turned}.weight") else t for name, t in weights.items()}
    if exchanged == "norms":
        swap = {"ln_1": "ln_2", "ln_2": "ln_1"}
        weights |= {n.replace(a, b): t for n, t in weights.items() for a, b in swap.items() if a in n}
    elif exchanged == "layers":
        weights |= {
            n.replace(a, b, 1): t for n, t in weights.items() for a, b in (("h.0", "h.1"), ("h.1", "h.0")) if a in n
        }
    elif exchanged == "one layer":
        weights |= {n.replace("h.0", "h.1", 1): t for n, t in weights.items() if n.startswith("h.0")}
    elif exchanged == "qkv":  # (C, 3C) taken for q, k and v of one head after another
        weights |= {
            n: t.reshape(*t.shape[:-1], HEADS, 3, -1).transpose(-3, -2).flatten(-3)
            for n, t in weights.items()
            if "c_attn" in n
        }
    elif exchanged == "reshaped":
        weights |= {
            n: t.T.reshape(t.shape) for n, t in weights.items() if n.endswith(tuple(f"{m}.weight" for m in MATRICES))
        }
    return forward.model(ids, weights, HEADS)[0]


@dataclass(frozen=True)
class LoadingExercise:
    """A function that makes a model with given weights."""

    mistakes: tuple[Mistake, ...]

    def examine(self, thing: object, roles: Mapping[str, str] | None) -> None:
        """Load random weights, run and compare; AnswerError where it is wrong, or an array not used."""
        if not callable(thing):
            raise AnswerError(f"This takes a function, load(arrays, config); you gave {a_kind_of(thing)}.")
        draw = np.random.default_rng(1)
        arrays = {name: draw.normal(0, 0.4, shape).astype(np.float32) for name, shape in MODEL_SHAPES.items()}
        ids = torch.randint(CONFIG.vocab_size, (2, 5))
        got = self._logits(thing, arrays, ids)

        def answers(**flags: Any) -> Iterator[Tensor]:
            yield loaded(ids, arrays, **flags)

        try:
            judge([got], [answers], self.mistakes, sizes=SIZES)
        except AnswerError as error:
            if "numbers are wrong" not in str(error):
                raise
            raise AnswerError(self._without_effect(thing, arrays, ids, got) or str(error)) from None

    def _without_effect(self, load: Callable[..., Any], arrays: Arrays, ids: Tensor, before: Tensor) -> str:
        """Which arrays may be anything: those that are not loaded."""
        unused = []
        for name, array in arrays.items():
            # The bias of the keys never makes a difference: it adds the same to all scores of a query.
            after = self._logits(load, {**arrays, name: array[::-1].copy() + 1}, ids)
            if torch.equal(after, before):
                unused.append(name)
        if not unused:
            return ""
        named = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
        return f"These arrays are not loaded, for the logits stay the same whatever is in them: {named}."

    def _logits(self, load: Callable[..., Any], arrays: Arrays, ids: Tensor) -> Tensor:
        torch.manual_seed(0)
        model = run("load(arrays, config)", load, {name: array.copy() for name, array in arrays.items()}, CONFIG)
        if not callable(model):
            raise AnswerError(f"load(arrays, config) gives {a_kind_of(model)}, expected a model to call with ids.")
        if isinstance(model, torch.nn.Module):
            model.eval()
        logits = run("model(ids)", model, ids)
        if not isinstance(logits, Tensor):
            raise AnswerError(
                f"The model that load gives returns {a_kind_of(logits)}, expected logits, a torch.Tensor."
            )
        return logits


def _turned(name: str) -> Mistake:
    why = " Being square it fits both ways, and only the numbers show it." if name == "attn.c_proj" else ""
    return Mistake(
        f"{name}.weight is the wrong way round: the checkpoint's matrices lie as (in, out), and nn.Linear keeps "
        f"(out, in)." + why,
        {"turned": name},
    )


LOADING = LoadingExercise(
    (
        _turned("attn.c_proj"),
        Mistake(
            "The matrices are reshaped where they should be transposed: .T exchanges rows and columns, reshape and "
            "view only break the numbers into other rows.",
            {"exchanged": "reshaped"},
        ),
        Mistake("ln_1 and ln_2 are exchanged.", {"exchanged": "norms"}),
        Mistake("The layers are loaded in the wrong order: h.0 is the first block.", {"exchanged": "layers"}),
        Mistake("Every block has the weights of h.0; block i has those of h.i.", {"exchanged": "one layer"}),
        Mistake("c_attn is taken apart wrongly: its columns are first all of q, then k, then v.", {"exchanged": "qkv"}),
    )
)


def greedy(
    model: Callable[[Tensor], Tensor],
    prompt: list[int],
    count: int,
    *,
    which: str = "last",
    least: bool = False,
    context: str = "all",
    with_prompt: bool = False,
    extra: int = 0,
) -> list[int]:
    """The `count` tokens that follow, each the likeliest; see the lesson."""
    ids, new = list(prompt), []
    for _ in range(count + extra):
        seen = {"all": ids, "newest": ids[-1:], "prompt": list(prompt), "without last": ids[:-1] or ids}[context]
        logits = model(torch.tensor([seen]))[0, {"last": -1, "first": 0}[which]]
        new.append(int(logits.argmin() if least else logits.argmax()))
        ids.append(new[-1])
    return [*prompt, *new] if with_prompt else new


GREEDY = FunctionExercise(
    "greedy(model, prompt, count)",
    greedy,
    ((toy_model, [3, 1, 4], 8), (toy_model, [7], 5), (toy_model, [2, 2], 1), (toy_model, [5], 0)),
    (
        Mistake(
            "The next token is chosen by the logits of the first position; those of the last one, logits[0, -1], are "
            "about what comes next.",
            {"which": "first"},
        ),
        Mistake("It takes the least likely token; take the largest logit, argmax.", {"least": True}),
        Mistake(
            "The model is given the newest token alone and forgets the rest: give it all tokens so far.",
            {"context": "newest"},
        ),
        Mistake(
            "The model is given the prompt again and again: append each new token to what it reads next.",
            {"context": "prompt"},
        ),
        Mistake("The newest token is left out of what the model reads.", {"context": "without last"}),
        Mistake("It gives the prompt back as well; give the new tokens only.", {"with_prompt": True}),
        Mistake("It gives one token too many.", {"extra": 1}),
        Mistake("It gives one token too few.", {"extra": -1}),
    ),
)

EXERCISES = {"loading": LOADING, "greedy": GREEDY}
