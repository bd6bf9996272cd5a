"""What one line of the input asks for."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptwo.batch.settings import Work, line_seed, make_params
from gptwo.batch.source import LONGEST_LINE, Line
from gptwo.errors import GptwoError, InvalidRequestError, nearest_name
from gptwo.options import is_integer, shown
from gptwo.sampling import BeamParams, SamplingParams

DEFAULT_MAX_TOKENS = 100  # fewer where the model's context ends before; what `gptwo generate` does
OPENAI_MAX_TOKENS = 16
ENDPOINT = "/v1/completions"
# Of OpenAI's fields those that change nothing here, and those whose default is all that a batch can do.
IGNORED = ("user", "metadata", "store")
FIXED: Mapping[str, tuple[Any, ...]] = {
    "stream": (False, None),
    "stream_options": (None,),
    "echo": (False, None),
    "suffix": (None, ""),
}


@dataclass
class Task:
    """A line as it was understood, as far as it was: what is set before an error is found goes into its answer."""

    index: int
    line_number: int
    id: str | int | None = None
    prompt: str | list[int] | None = None
    """Text or token ids; what is scored, when scoring."""
    values: dict[str, Any] = field(default_factory=dict)
    """Parameters, the run's and the line's own."""
    error: GptwoError | None = None
    openai: bool = False
    """Whether the line is one of OpenAI's batch files."""
    model: str = ""
    """What the line calls the model, or the run does."""

    def params(self, room: int | None) -> SamplingParams | BeamParams:
        """The parameters. room: positions that the prompt leaves, None where they have no end.

        Raises InvalidRequestError.
        """
        values = self.values
        if "max_tokens" not in values:
            length = DEFAULT_MAX_TOKENS if room is None or room <= 0 else min(DEFAULT_MAX_TOKENS, room)
            least = values.get("min_tokens", 0)
            values = {"max_tokens": max(length, least) if is_integer(least) else length, **values}
        return make_params(values)


def read_task(line: Line, work: Work) -> Task:
    """Understand a line; what is wrong with it becomes the task's `error`."""
    task = Task(line.index, line.number, model=work.model.name)
    try:
        _read(line, work, task)
    except InvalidRequestError as error:
        task.error = error
    return task


def _read(line: Line, work: Work, task: Task) -> None:
    values = _object(line)
    custom = "custom_id" in values
    if custom and "id" in values:
        raise InvalidRequestError("the line has both id and custom_id", param="id")
    wanted = values.pop("custom_id" if custom else "id", None)
    if wanted is not None and not isinstance(wanted, str) and not is_integer(wanted):
        raise InvalidRequestError(f"the id is {shown(wanted)}, expected text or an integer", param="id")
    task.id = storable(wanted) if isinstance(wanted, str) else wanted
    task.openai = "body" in values
    if task.openai:
        values = _body(values, work.score)
        task.model = str(values.pop("model", task.model))
    name = "text" if work.score else "prompt"
    if name not in values:
        near = difflib.get_close_matches(name, map(str, values), n=1)
        hint = f", but {shown(near[0])}" if near else ""
        if "prompt" in values or "text" in values:
            hint = "; prompts are continued without --score" if work.score else "; texts are scored with --score"
        raise InvalidRequestError(f"the line has no {name}{hint}", param=name)
    prompt = values.pop(name)
    ids = isinstance(prompt, list) and all(is_integer(item) for item in prompt)
    if not isinstance(prompt, str) and not ids:
        raise InvalidRequestError(f"the {name} is {shown(prompt)}, expected text or a list of token ids", param=name)
    if isinstance(prompt, str) and storable(prompt) != prompt:
        task.prompt = storable(prompt)
        raise InvalidRequestError(f"the {name} is not Unicode: half of a pair of surrogates stands alone", param=name)
    task.prompt = prompt
    if work.score:
        return  # whatever else a data set has on its lines is left alone
    task.values = {**({"max_tokens": OPENAI_MAX_TOKENS} if task.openai else {}), **work.parameters, **values}
    params = task.params(None)
    if isinstance(params, SamplingParams) and params.seed is None:
        task.values["seed"] = line_seed(work.seed, line.index)


def _object(line: Line) -> dict[str, Any]:
    if line.data is None:
        raise InvalidRequestError(f"the line is longer than {LONGEST_LINE:,} bytes")
    try:
        values = json.loads(line.data.decode())
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"not UTF-8 (byte 0x{line.data[error.start]:02X})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InvalidRequestError(f"the line is {shown(values)}, expected an object")
    return values


def _body(values: dict[str, Any], score: bool) -> dict[str, Any]:
    """What a line of OpenAI's batch files asks for, in our names."""
    if score:
        raise InvalidRequestError("the line is a request to an endpoint, which is for generating, not for scoring")
    for name, expected in (("method", "POST"), ("url", ENDPOINT)):
        if values.get(name, expected) != expected:
            raise InvalidRequestError(f"{name} is {shown(values[name])}, expected {expected!r}", param=name)
    for name in values.keys() - {"method", "url", "body"}:
        hint = nearest_name(name, ("custom_id", "method", "url", "body"))
        raise InvalidRequestError(f"the line has {shown(name)} beside its body{hint}", param=name)
    body = values["body"]
    if not isinstance(body, dict):
        raise InvalidRequestError(f"the body is {shown(body)}, expected an object", param="body")
    for name, allowed in FIXED.items():
        if name in body and body[name] not in allowed:
            raise InvalidRequestError(f"{name} is {shown(body[name])}, which a batch does not do", param=name)
    return {name: value for name, value in body.items() if name not in IGNORED and name not in FIXED}


def storable(text: str) -> str:
    """The text, with "?" for what UTF-8 cannot hold: JSON can spell half of a pair of surrogates."""
    return text.encode("utf-8", "replace").decode()
