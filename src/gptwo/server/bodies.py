"""Reading the body of a request: counted while it arrives, timed, and JSON without surprises."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptwo.errors import (
    BodyTimeoutError,
    InvalidRequestError,
    MediaTypeError,
    PayloadTooLargeError,
    nearest_name,
    one_line,
)
from gptwo.options import shown

Schema = TypeVar("Schema", bound=BaseModel)

# How much of a body that nobody wants is read away, so that its sender gets to see the answer.
LINGER_BYTES = 64 * 2**20
LINGER_SECONDS = 10.0

MOST_CONTAINERS = 20_000
# What parameters are called by other servers, which is not near what they are called here.
ELSEWHERE = {
    "text": "input",
    "texts": "input",
    "prompt": "input",
    "content": "prompt",
    "inputs": "prompt",
    "ids": "tokens",
    "n_predict": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "repeat_penalty": "repetition_penalty",
}
_STRINGS = re.compile(rb'"(?:[^"\\]+|\\.)*+"', re.DOTALL)


async def read_body(request: Request, *, most: int, timeout: float) -> bytes:
    """The body of a request of JSON. timeout: seconds for all of it.

    Raises PayloadTooLargeError as soon as more than `most` bytes are announced or have come, BodyTimeoutError,
    MediaTypeError for what is not JSON by its headers, and ClientDisconnect.
    """
    check_media_type(request)
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > most:
        raise _too_large(most)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise _too_large(most)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise BodyTimeoutError(f"the request's body did not arrive within {timeout:g} seconds") from error
    return b"".join(parts)


def check_media_type(request: Request) -> None:
    """Raise MediaTypeError unless the body is plain JSON by its headers.

    A form's types are refused, since any page in a browser may send those here without asking.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise MediaTypeError(f"the body has the content type {shown(kind)}, expected application/json")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise MediaTypeError(f"the body is coded as {shown(coding)}, expected it as it is")


def parse(schema: type[Schema], data: bytes) -> Schema:
    """The JSON object in a body. Raises InvalidRequestError, whose `param` names the field that is wrong."""
    _check_structure(data)
    try:
        value = pydantic_core.from_json(data)  # NaN too: whoever checks the field it is in names that
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the body is not JSON: {one_line(error)}") from None
    if not isinstance(value, dict):
        raise InvalidRequestError("the body is not a JSON object")
    unknown = next((name for name in value if name not in schema.model_fields), None)
    if unknown is not None:
        hint = nearest_name(unknown[:100], schema.model_fields, otherwise="; /docs lists those there are")
        if unknown in ELSEWHERE and ELSEWHERE[unknown] in schema.model_fields:
            hint = f"; did you mean {ELSEWHERE[unknown]!r}?"
        raise InvalidRequestError(f"there is no parameter {shown(unknown)}{hint}", param=unknown[:100])
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _explained(error) from None


def _check_structure(data: bytes) -> None:
    """Raise InvalidRequestError for a body of more lists and objects than anybody needs; each would cost time."""
    most = MOST_CONTAINERS
    if data.count(b"[") + data.count(b"{") > most:
        outside = _STRINGS.sub(b"", data)  # a long text may well have so many brackets
        if outside.count(b"[") + outside.count(b"{") > most:
            raise InvalidRequestError(f"the body has more than {most} lists and objects")


def _explained(error: ValidationError) -> InvalidRequestError:
    (first, *_) = error.errors(include_url=False, include_context=False)
    place = first["loc"]
    name = ".".join(str(part) for part in place[:2])
    if first["type"] == "missing":
        return InvalidRequestError(f"{name} is missing", param=name)
    if first["type"] == "extra_forbidden":
        return InvalidRequestError(f"there is no parameter {shown(name)}", param=name)
    expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return InvalidRequestError(f"{name} is {shown(first['input'])}, expected {expected}", param=name)


def _too_large(most: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body has more than {most:,} bytes, which is the most that this server reads")


class Linger:
    """Middleware: an answer that came before the request's body was read ends only when the body has, within limits.

    Otherwise the connection would be closed on a client that is still sending, and it would see that in place of the
    answer. What is read is thrown away.
    """

    def __init__(self, app: ASGIApp) -> None:
        """app: whose answers these are."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name for name, _ in scope["headers"]}
        unread = b"content-length" in headers or b"transfer-encoding" in headers
        waits = b"expect" in headers  # for a sign to send it, which our reading would give

        async def counted() -> Message:
            nonlocal unread, waits
            waits = False
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                unread = False
            return message

        async def held(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or not unread or waits:
                await send(message)
                return
            await send({**message, "more_body": True})
            size = 0
            try:
                async with asyncio.timeout(LINGER_SECONDS):
                    while unread and size < LINGER_BYTES:
                        size += len((await counted()).get("body", b""))
            except TimeoutError:
                pass
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, counted, held)
