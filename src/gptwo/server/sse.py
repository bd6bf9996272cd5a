"""Server-sent events, and what happens when the client leaves: the work for it ends, whoever was about to wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gptwo.errors import GptwoError
from gptwo.server.failures import body_of
from gptwo.server.json_answers import json_bytes

Result = TypeVar("Result")

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the latter asks nginx not to collect


class ClientGoneError(Exception):
    """The client closed its connection; nobody reads an answer."""


def event(value: Mapping[str, Any]) -> bytes:
    """One event with JSON in it."""
    return b"data: " + json_bytes(value) + b"\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled, and ClientGoneError raised, when the client leaves before it is there.

    receive: ASGI's, after the request's body was read.
    """
    task, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        await _end(task, leaving)


class EventStream(Response):
    """A stream of events, of which the first decides whether it is one: what fails before it gets its own status.

    Between events that take long a comment is sent, so that nothing on the way takes the connection for dead. An error
    in the middle becomes an event `{"error": …}`, the last one; `[DONE]` says that all went well.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes], *, keep_alive: float, on_error: Callable[[GptwoError], None]
    ) -> None:
        """keep_alive: seconds of silence before a comment. on_error: told what ended the stream in its middle."""
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events, self._keep_alive, self._on_error = events, keep_alive, on_error
        self._last = 0.0  # when something was sent, in the loop's time; 0 before the beginning

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; ends early, and quietly, if the client leaves. Raises what fails before its beginning."""
        with contextlib.suppress(ClientGoneError):
            await unless_gone(receive, self._stream(send))

    async def _stream(self, send: Send) -> None:
        keeper = asyncio.ensure_future(self._keep_open(send))
        last, defect = DONE, None
        try:
            async with contextlib.aclosing(self._events) as events:
                async for data in events:
                    await self._send(send, data)
        except Exception as error:
            if not self._last:
                raise
            last = event(body_of(error))
            if isinstance(error, GptwoError):
                self._on_error(error)
            else:
                defect = error
        finally:
            await _end(keeper)
        await self._send(send, last)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        if defect is not None:
            raise defect

    async def _send(self, send: Send, data: bytes) -> None:
        begun, self._last = self._last, asyncio.get_running_loop().time()
        if not begun:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _keep_open(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            await asyncio.sleep(max(self._last, begun) + self._keep_alive - loop.time())
            if loop.time() >= max(self._last, begun) + self._keep_alive:
                await self._send(send, COMMENT)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
