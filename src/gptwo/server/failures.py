"""Errors as OpenAI's clients read them: `message`, `type`, `param` and `code`, all four always there."""

from __future__ import annotations

import errno
import math
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gptwo.errors import (
    AuthenticationError,
    ContextLengthError,
    GptwoError,
    InvalidRequestError,
    ModelNotFoundError,
    RetryLaterError,
    TokenizerError,
)
from gptwo.server.json_answers import json_response

# Where the class does not say it already.
_TYPES = {429: "rate_limit_error", 503: "service_unavailable"}
_CODES: tuple[tuple[type[GptwoError], str], ...] = (
    (ContextLengthError, "context_length_exceeded"),
    (AuthenticationError, "invalid_api_key"),
    (ModelNotFoundError, "model_not_found"),
)
_CODES_BY_STATUS = {408: "timeout", 413: "payload_too_large", 415: "unsupported_media_type", 429: "rate_limit_exceeded"}

# What the system lacks for a moment: files, processes, memory for them.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})


def shortage(error: BaseException) -> RetryLaterError | None:
    """What to answer where an exception says that the system has no more files or processes for this one."""
    for cause in (error, error.__cause__):
        if isinstance(cause, OSError) and cause.errno in _SHORTAGES:
            return RetryLaterError(f"the system gives no more for now ({cause.strerror}); ask again in a moment")
    return None


def error_body(message: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """OpenAI's body of an error."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or _CODES_BY_STATUS.get(status)}}


def body_of(error: BaseException) -> dict[str, Any]:
    """The body that says what went wrong. Of a defect it says no more than that there is one."""
    if isinstance(error, HTTPException):
        return error_body(str(error.detail), error.status_code)
    if not isinstance(error, GptwoError):
        return error_body("the server failed to answer this request; its log says why", 500)
    param = error.param if isinstance(error, InvalidRequestError) else None
    if isinstance(error, TokenizerError):
        param = "prompt"
    elif isinstance(error, ModelNotFoundError):
        param = "model"
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    return error_body(str(error), error.http_status, param, code)


def status_of(error: BaseException) -> int:
    """The HTTP status of an error."""
    if isinstance(error, HTTPException):
        return error.status_code
    return error.http_status if isinstance(error, GptwoError) else 500


def response_to(error: BaseException, **more: Any) -> Response:
    """The answer to a request that failed. more: what its body says beside the error."""
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    return json_response({**more, **body_of(error)}, status_of(error), headers)
