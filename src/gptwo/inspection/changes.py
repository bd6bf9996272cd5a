"""Changing activations on the way: what a change is, and how its result is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError
from gptwo.options import is_integer, shown

Floats = npt.NDArray[np.float32]
Change = Callable[[Floats], Any] | npt.ArrayLike
"""A function from an activation to the one that takes its place, or that one itself; a number fills the whole."""


def ablate(*indices: int, value: float = 0.0) -> Callable[[Floats], Floats]:
    """A change that sets the given entries of the first axis to `value`; without any, the whole.

    For `z`, `pattern` or `heads` the first axis is the head, for the residual stream and the MLP it is the token.
    Example: `change={"h.3.attn.z": ablate(1, 4)}` takes heads 1 and 4 out of layer 3.
    """
    for index in indices:
        if not is_integer(index):
            raise InvalidRequestError(f"ablate got {shown(index)}, expected indices of heads", param="change")

    def change(activation: Floats) -> Floats:
        for index in indices:
            if not -len(activation) <= index < len(activation):
                raise InvalidRequestError(
                    f"ablate got index {index}, but the first axis has {len(activation)} entries", param="change"
                )
        changed = activation.copy()
        changed[list(indices) if indices else ...] = value
        return changed

    return change


def changed(name: str, activation: Floats, change: Change) -> Floats:
    """What a change makes of an activation, in its shape. Raises InvalidRequestError for anything else."""
    with np.errstate(invalid="ignore"):  # scores hold -inf, of which any arithmetic may make NaN
        result = change(activation.copy()) if callable(change) else change
    if result is None and callable(change):
        raise InvalidRequestError(
            f"the change of {name} is None, expected numbers of shape {activation.shape}: a function has to return the "
            "activation, also where it changed that in place",
            param="change",
        )
    return numbers(f"the change of {name}", result, activation.shape, param="change")


def numbers(what: str, value: object, shape: tuple[int, ...], *, param: str) -> Floats:
    """A number, or numbers of this shape, as float32 of this shape. Raises InvalidRequestError for anything else."""
    array = floats(what, value, f"numbers of shape {shape}", param=param)
    if array.ndim == 0:
        return np.full(shape, array)
    if array.shape != shape:
        raise InvalidRequestError(f"{what} has shape {array.shape}, expected {shape}", param=param)
    return array


def floats(what: str, value: object, expected: str, *, param: str) -> Floats:
    """Real numbers as a float32 array of its own, in C order. Raises InvalidRequestError for anything else."""
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "biuf":  # of text, None and complex numbers numpy would make floats too
            raise TypeError
        with np.errstate(over="ignore"):
            return given.astype(np.float32, order="C")
    except (TypeError, ValueError, RuntimeError):  # the last is a tensor's that numpy may not read
        raise InvalidRequestError(f"{what} is {shown(value)}, expected {expected}", param=param) from None
