"""What commands read: one text, or a file of prompts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptwo.cli.loading import as_path
from gptwo.errors import DataError
from gptwo.files import decode_utf8


@dataclass(frozen=True)
class PromptLine:
    """One prompt of a file: text or token ids, the parameters that came with it, and where it stood."""

    prompt: str | list[int]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""


def read_text(name: str) -> str:
    """The text of a file, or of standard input for `-`. Raises DataError if it cannot be read or is not UTF-8."""
    return decode_utf8(read_bytes(name), shown_place(name))


def read_bytes(name: str) -> bytes:
    """The bytes of a file, or of standard input for `-`. Raises DataError if it cannot be read."""
    try:
        if name != "-":
            return as_path(name).read_bytes()
        if sys.stdin is None or sys.stdin.closed:
            raise DataError("standard input is closed, so there is no text to read from it")
        return sys.stdin.buffer.read()
    except OSError as error:
        raise DataError(f"{shown_place(name)}: cannot be read ({error.strerror})") from error


def read_prompt(text: str) -> str:
    """A prompt from the command line; `-` is all of standard input but one line end at its end."""
    return read_text("-").removesuffix("\n").removesuffix("\r") if text == "-" else text


def read_prompts(name: str) -> list[PromptLine]:
    """A file of prompts: one a line, or, in a file called *.jsonl, an object a line with `prompt` and any parameters.

    Raises DataError, naming file and line, for what is not UTF-8, not JSON, or not a prompt.
    """
    lines = read_text(name).split("\n")
    if lines[-1] == "":
        lines.pop()
    lines = [line.removesuffix("\r") for line in lines]
    if not name.lower().endswith(".jsonl"):
        return [PromptLine(line, place=f"{name} line {i}") for i, line in enumerate(lines, 1)]
    return [_json_line(line, f"{name} line {i}") for i, line in enumerate(lines, 1) if line.strip()]


def _json_line(line: str, place: str) -> PromptLine:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON ({error})") from error
    if not isinstance(value, dict) or "prompt" not in value:
        raise DataError(f'{place}: expected an object with a prompt, such as {{"prompt": "Once upon"}}')
    prompt = value.pop("prompt")
    is_ids = isinstance(prompt, list) and all(isinstance(item, int) and not isinstance(item, bool) for item in prompt)
    if not isinstance(prompt, str) and not is_ids:
        raise DataError(f"{place}: the prompt is neither text nor a list of token ids")
    return PromptLine(prompt or "", value, place)


def shown_place(name: str) -> str:
    """What messages call a file, or standard input."""
    return "standard input" if name == "-" else name
