"""What a server writes down: one line for each request, with its id; no text of anybody's unless that is asked for."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptwo.server.failures import response_to, shortage
from gptwo.server.sse import ClientGoneError

LOGGER = logging.getLogger("gptwo.server")
CLIENT_GONE = 499  # nginx's status for a client that left before the answer
_GIVEN_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# Asked for every few seconds by whoever watches the server.
_QUIET = frozenset({"/health", "/ready", "/metrics", "/version"})


def configure_logging(level: str, layout: str) -> None:
    """Write this server's and uvicorn's records to standard error. layout: plain or json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines() if layout == "json" else _PlainLines())
    for name, least in ((LOGGER.name, level.upper()), ("uvicorn", "WARNING"), ("uvicorn.error", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(least)


def note(level: int, message: str, **fields: Any) -> None:
    """Write one record with fields of its own."""
    LOGGER.log(level, message, extra={"fields": fields})


def record_of(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    """The fields that a request's line will have; whoever answers it adds to them."""
    state = scope.setdefault("state", {})
    fields: dict[str, Any] = state.setdefault("record", {})
    return fields


class RequestLog:
    """Middleware, the outermost: gives each request an id, writes its line, and turns a defect into a 500.

    The id is the client's own `x-request-id` if it has one that can be written down, and comes back in the answer.
    """

    def __init__(self, app: ASGIApp, *, with_messages: bool = False) -> None:
        """with_messages: write down what exceptions say, which may quote a text."""
        self._app, self._with_messages = app, with_messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given.decode() if _GIVEN_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        began, status = time.perf_counter(), 0
        fields = record_of(scope)
        scope["state"]["request_id"] = request_id

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, tagged)
        except (ClientDisconnect, ClientGoneError):
            pass  # nobody is there to be answered
        except Exception as error:  # noqa: BLE001  # a defect: the client gets an answer, the log the place
            later = shortage(error)
            if later is None:
                self._write_down(request_id, error)
            else:
                fields["error"] = str(later)
            if not status:
                await response_to(later or error)(scope, receive, tagged)
        finally:
            quiet = scope["path"] in _QUIET and status < 500
            line = {
                "request_id": request_id,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status or CLIENT_GONE,
                "milliseconds": round(1000.0 * (time.perf_counter() - began), 1),
            }
            note(logging.DEBUG if quiet else logging.INFO, "request", **line, **fields)

    def _write_down(self, request_id: str, error: Exception) -> None:
        said = f": {error}" if self._with_messages else ""
        where = "".join(traceback.format_tb(error.__traceback__))
        note(logging.ERROR, f"a defect: {type(error).__name__}{said}\n{where}", request_id=request_id)


class _PlainLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One line to read."""
        fields = " ".join(f"{name}={_word(value)}" for name, value in getattr(record, "fields", {}).items())
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line = f"{when} {record.levelname.lower():7} {record.getMessage()} {fields}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"time": when, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _word(value: Any) -> str:
    """A value that stays on the line and in one piece: quoted where it has spaces or controls."""
    text = str(value)
    return text if re.fullmatch(r"[\x21\x23-\x7e]+", text) else json.dumps(text)
