"""Answers as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pydantic_core
from starlette.responses import Response

PART = 4096  # values; some hundred microseconds


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(json_bytes(value), status, dict(headers or {}), "application/json")


def json_bytes(value: Any) -> bytes:
    """A value as JSON in UTF-8. What JSON has no number for becomes null."""
    return pydantic_core.to_json(value, inf_nan_mode="null")


def json_list(values: Sequence[Any]) -> bytes:
    """A long list as JSON, written in parts, since all other threads wait while one part is written."""
    parts = (json_bytes(values[start : start + PART])[1:-1] for start in range(0, len(values), PART))
    return b"[" + b",".join(parts) + b"]"


def with_raw(head: Mapping[str, Any], values: Mapping[str, bytes]) -> bytes:
    """The JSON of `head`, which is not empty, with more fields behind it that are written already."""
    return (
        json_bytes(head)[:-1] + b"".join(b',"' + key.encode() + b'":' + value for key, value in values.items()) + b"}"
    )


def with_list(head: Mapping[str, Any], name: str, items: Iterable[bytes], **rest: Any) -> bytes:
    """The JSON of `head` with a list that is written already, and more behind it.

    Example: with_list({"a": 1}, "b", [b"2", b"3"], c=4) == b'{"a":1,"b":[2,3],"c":4}'
    """
    first, last = json_bytes(head)[:-1], json_bytes(rest)[1:]
    return first + b',"' + name.encode() + b'":[' + b",".join(items) + b"]," + last
