"""Answers in the shape of OpenAI's batch files, for lines that came in that shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gptwo.batch.task import Task
from gptwo.engine import Choice, Completion
from gptwo.errors import ContextLengthError, GptwoError, InvalidRequestError
from gptwo.server.logprobs import Described, LogprobLists
from gptwo.tokenizer import Tokenizer
from gptwo.version import __version__


def answer(task: Task, completion: Completion, tokenizer: Tokenizer | None, *, created: int) -> dict[str, Any]:
    """What `/v1/completions` would have answered. created: seconds since 1970, when the batch was begun."""
    output = sum(len(choice.token_ids) for choice in completion.choices)
    prompt = len(completion.prompt_token_ids)
    body = {
        "id": f"cmpl-{task.index}",
        "object": "text_completion",
        "created": created,
        "model": task.model,
        "system_fingerprint": f"gptwo-{__version__}",
        "choices": [_choice(choice, tokenizer) for choice in completion.choices],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
    }
    return _response(task, 200, body)


def refusal(task: Task, error: GptwoError) -> dict[str, Any]:
    """The same for a line that has no answer."""
    status = error.http_status
    body = {
        "message": str(error),
        "type": "invalid_request_error" if status < 500 else "server_error",
        "param": error.param if isinstance(error, InvalidRequestError) else None,
        "code": "context_length_exceeded" if isinstance(error, ContextLengthError) else None,
    }
    return _response(task, status, {"error": body})


def _response(task: Task, status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    response = {"status_code": status, "request_id": f"req-{task.index}", "body": body}
    return {"id": f"batch_req_{task.index}", "custom_id": task.id, "response": response, "error": None}


def _choice(choice: Choice, tokenizer: Tokenizer | None) -> dict[str, Any]:
    logprobs = None
    if choice.logprobs is not None:
        logprobs = LogprobLists(tokenizer).lists(Described(token.token_id, token) for token in choice.logprobs)
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
        "stop_reason": choice.stop_reason,
    }
