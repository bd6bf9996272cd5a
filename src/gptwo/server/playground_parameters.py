"""What the playground shows of the sampling parameters: their own words and bounds, so that none is written twice."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from gptwo.options import Bounds
from gptwo.sampling import SamplingParams

# Kinds whose values are lists or mappings, by the field: an annotation does not tell strings from words to avoid.
COLLECTIONS = {
    "stop": "texts",
    "bad_words": "texts",
    "stop_token_ids": "token_ids",
    "allowed_token_ids": "token_ids",
    "logit_bias": "biases",
}


def playground_parameters() -> dict[str, Any]:
    """The parameters in order, each with name, help, default, type, bounds and choices, as JSON can hold them.

    A bound that isn't there is null, as is the default of a parameter that is off until it is given.
    """
    hints = typing.get_type_hints(SamplingParams)
    fields = {field.name: field for field in dataclasses.fields(SamplingParams)}
    structured = fields.pop("structured_outputs", None)
    described: dict[str, Any] = {"parameters": [_describe(field, hints[name]) for name, field in fields.items()]}
    described["structured_outputs"] = None if structured is None else str(structured.metadata["help"])
    return described


def _describe(field: dataclasses.Field[Any], annotation: Any) -> dict[str, Any]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = set(typing.get_args(annotation)) if union else {annotation}
    literals = [kind for kind in kinds if typing.get_origin(kind) is Literal]
    check = field.metadata["check"]
    bounds = check if isinstance(check, Bounds) else None
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    if field.name in COLLECTIONS:
        kind = COLLECTIONS[field.name]
    elif literals:
        kind = "choice"
    elif bool in kinds:
        kind = "boolean"
    elif bounds is not None:
        kind = "integer" if bounds.whole else "number"
    else:
        kind = "text"
    return {
        "name": field.name,
        "help": str(field.metadata["help"]),
        "type": kind,
        "default": dict(default) if isinstance(default, Mapping) else default,
        "optional": type(None) in kinds,
        "minimum": None if bounds is None else bounds.minimum,
        "maximum": None if bounds is None or bounds.maximum == math.inf else bounds.maximum,
        "above_minimum": bounds is not None and bounds.above_minimum,
        "choices": [value for literal in literals for value in typing.get_args(literal)] or None,
    }
