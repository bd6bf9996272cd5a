"""JSON from an untrusted file: one object or list, without surprises."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

# Far above any GPT-2 (XL's header has 60 kB and some 7,000 values), and low enough that a hostile file costs little:
# "[[],[],…" grows thirtyfold in Python, and one emoji makes a string of four bytes a character.
MAX_BYTES: Final = 10_000_000
MAX_VALUES: Final = 200_000


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object, in UTF-8.

    Raises ValueError, with a short reason, for anything else: other JSON, a repeated key, deep nesting, or more than
    MAX_BYTES or MAX_VALUES.
    """
    value = _parse(text)
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def parse_list(text: bytes) -> list[Any]:
    """Parse a JSON list, as `parse_object` does an object."""
    value = _parse(text)
    if not isinstance(value, list):
        raise ValueError("it is not a list")
    return value


def _parse(text: bytes) -> Any:
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has {len(text)} bytes, more than {MAX_BYTES}")
    if sum(text.count(mark) for mark in (b"[", b"{", b",", b":")) > MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES} values")
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_without_repeats)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"it repeats the key {repeated[:80]!a}")
    return values
