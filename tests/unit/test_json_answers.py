"""Answers that are written in parts are the JSON that one piece would be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gptwo.server.json_answers import PART, json_list, with_raw


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART])
def test_a_list_in_parts_is_the_list(size: int) -> None:
    values: list[Any] = [[number, f'"{number}],[', None][number % 3] for number in range(size)]
    assert json.loads(json_list(values)) == values
    assert json.loads(with_raw({"a": 1}, {"b": json_list(values), "c": b"null"})) == {"a": 1, "b": values, "c": None}
