"""Changing activations on the way: what a change is, and how its result is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError
from gptwo.options import finite, is_integer, shown

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
    number = finite(result)
    if number is not None:
        return np.full_like(activation, number)
    try:
        if result is None:  # which numpy would take for NaN
            raise TypeError
        array = np.asarray(result, np.float32)
    except (TypeError, ValueError):
        raise InvalidRequestError(
            f"the change of {name} is {shown(result)}, expected numbers of shape {activation.shape}", param="change"
        ) from None
    if array.shape != activation.shape:
        raise InvalidRequestError(
            f"the change of {name} has shape {array.shape}, expected {activation.shape}", param="change"
        )
    return array
