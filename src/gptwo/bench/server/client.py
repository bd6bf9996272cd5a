"""A small HTTP client for measuring: it takes little of the processor that the server needs, and can leave midway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from gptwo.errors import BenchError, one_line

LONGEST_LINE = 16 * 2**20


@dataclass
class Answer:
    """What came of one request. Times are those of `time.perf_counter`."""

    started: float
    status: int = 0
    chunks: list[dict[str, Any]] = field(default_factory=list)
    """The stream's events, or the one body."""
    times: list[float] = field(default_factory=list)
    """When each of them came."""
    done: bool = False
    """The stream ended with [DONE], or the body was whole."""
    left: bool = False
    """This client went away before the end."""
    problem: str = ""
    """Why there is no answer, where the connection broke."""

    @property
    def text(self) -> str:
        """The texts of the first choice, one after another."""
        parts = [choice["text"] for chunk in self.chunks for choice in chunk.get("choices", ()) if choice["index"] == 0]
        return "".join(parts)

    @property
    def finish_reason(self) -> str | None:
        """The last that a chunk named."""
        reasons = [choice["finish_reason"] for chunk in self.chunks for choice in chunk.get("choices", ())]
        return next((reason for reason in reversed(reasons) if reason is not None), None)

    @property
    def tokens(self) -> int:
        """New tokens: what the server counted, else the events with text."""
        for chunk in reversed(self.chunks):
            if chunk.get("usage"):
                return int(chunk["usage"]["completion_tokens"])
        return len(self.token_times)

    @property
    def token_times(self) -> list[float]:
        """When the events with a choice came."""
        return [when for when, chunk in zip(self.times, self.chunks, strict=True) if chunk.get("choices")]


class Connection:
    """One client's connection, kept open from request to request."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """url: of the server, such as http://127.0.0.1:8000. key: an API key. Raises BenchError for what is no URL."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BenchError(f"{url!r} is no address of a server; one looks like http://127.0.0.1:8000")
        try:
            self._port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise BenchError(f"{url!r} is no address of a server: {error}") from error
        self._host, self._prefix, self._key = parts.hostname, parts.path.rstrip("/"), key
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> Answer:
        """A GET request, whose answer is JSON."""
        return await self._request("GET", path, None, leave_after=None)

    async def post(self, path: str, body: Mapping[str, Any], *, leave_after: int | None = None) -> Answer:
        """A POST request with JSON, answered by JSON or a stream of it.

        leave_after: close the connection once so many events have come; 0 leaves as soon as the request is sent.
        """
        return await self._request("POST", path, json.dumps(body).encode(), leave_after=leave_after)

    async def close(self) -> None:
        """Close the connection, if it is open."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _request(self, method: str, path: str, body: bytes | None, *, leave_after: int | None) -> Answer:
        answer = Answer(time.perf_counter())
        try:
            reader, writer = await self._open()
            head = [f"{method} {self._prefix}{path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
            if self._key is not None:
                head.append(f"Authorization: Bearer {self._key}")
            if body is not None:
                head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
            writer.write("\r\n".join([*head, "", ""]).encode() + (body or b""))
            await writer.drain()
            if leave_after == 0:
                answer.left = True
                await self.close()
                return answer
            await self._read(reader, answer, leave_after)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            answer.problem = one_line(error) or type(error).__name__
            await self.close()
        return answer

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[1].is_closing() or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls, limit=LONGEST_LINE)
        return self._streams

    async def _read(self, reader: asyncio.StreamReader, answer: Answer, leave_after: int | None) -> None:
        status = (await reader.readline()).split(None, 2)
        if len(status) < 2:
            raise ValueError("the server closed the connection without an answer")
        answer.status = int(status[1])
        headers = {}
        while (line := await reader.readline()) not in (b"\r\n", b"\n", b""):
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip().lower()
        parts = _body(reader, headers)
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            async for event in _events(parts):
                if event == b"[DONE]":
                    answer.done = True
                    continue
                answer.times.append(time.perf_counter())
                answer.chunks.append(json.loads(event))
                if leave_after is not None and len(answer.chunks) >= leave_after:
                    answer.left = True
                    await self.close()
                    return
        else:
            data = b"".join([part async for part in parts])
            answer.times.append(time.perf_counter())
            answer.chunks.append(_object(data))
            answer.done = True
        if headers.get(b"connection") == b"close":
            await self.close()


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data) if data else {}
    return value if isinstance(value, dict) else {"value": value}


async def _body(reader: asyncio.StreamReader, headers: Mapping[bytes, bytes]) -> AsyncIterator[bytes]:
    """The parts of a body as they come, in whichever of HTTP/1.1's three ways it ends."""
    if headers.get(b"transfer-encoding") == b"chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    elif b"content-length" in headers:
        yield await reader.readexactly(int(headers[b"content-length"]))
    else:
        while part := await reader.read(65536):
            yield part


async def _events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of server-sent events; comments and other fields are passed over."""
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
