"""What the playground is told of the sampling parameters."""

from __future__ import annotations

import json

from gptwo.sampling import SamplingParams
from gptwo.server.playground_parameters import playground_parameters


def test_every_parameter_is_described_in_its_own_words() -> None:
    described = playground_parameters()
    words = {one["name"]: one["help"] for one in described["parameters"]}
    own = SamplingParams.field_help()
    assert described["structured_outputs"] == own.pop("structured_outputs")
    assert words == own
    json.dumps(described, allow_nan=False)


def test_types_defaults_and_bounds_are_those_of_the_fields() -> None:
    by_name = {one["name"]: one for one in playground_parameters()["parameters"]}
    kinds = {name: one["type"] for name, one in by_name.items()}
    assert kinds["max_tokens"] == kinds["seed"] == "integer"
    assert kinds["temperature"] == "number"
    assert kinds["ignore_eos"] == "boolean"
    assert kinds["overflow"] == "choice"
    assert (kinds["stop"], kinds["bad_words"], kinds["stop_token_ids"], kinds["logit_bias"]) == (
        "texts",
        "texts",
        "token_ids",
        "biases",
    )
    assert "text" not in kinds.values()
    assert by_name["overflow"]["choices"] == ["error", "slide"]
    top_p, typical, temperature = by_name["top_p"], by_name["typical_p"], by_name["temperature"]
    assert (top_p["minimum"], top_p["maximum"], top_p["default"]) == (0.0, 1.0, 1.0)
    assert typical["above_minimum"]
    assert temperature["maximum"] is None
    assert by_name["max_tokens"]["optional"]
    assert not temperature["optional"]
