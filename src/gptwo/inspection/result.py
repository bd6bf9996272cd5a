"""How results print: names and shapes, where Python would print every number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from gptwo.options import shown

NAMED = 6
"""Arrays of a mapping that are named."""


class Result:
    """The base of a dataclass with `repr=False`: a line for each field, with an array's type and shape."""

    def __repr__(self) -> str:
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        width = max(map(len, names))
        return "\n".join([type(self).__name__, *(f"  {name:<{width}}  {_said(getattr(self, name))}" for name in names)])


def _said(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, Result):
        return type(value).__name__
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return f"{len(value)} of {type(value[0]).__name__}"
    if isinstance(value, Mapping) and all(isinstance(one, np.ndarray) for one in value.values()):
        named = [f"{name} {array.shape}" for name, array in list(value.items())[:NAMED]]
        rest = [f"… {len(value)} in all"] if len(value) > NAMED else []
        return ", ".join([*named, *rest]) or "none"
    return shown(value)
