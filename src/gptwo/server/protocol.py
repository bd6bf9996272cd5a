"""HTTP/1.1 on a connection: uvicorn's protocol, with bounds on what a client may hold and how long."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gptwo.server.failures import error_body
from gptwo.server.json_answers import json_bytes

LONGEST_HEAD = 65_536  # bytes of a request's first line and headers, as uvicorn's other parser has it
HEAD_SECONDS = 30.0  # for a head to arrive
STALL_SECONDS = 60.0  # in which a client that has an answer to read reads nothing of it
# Of the files that this process may have open, those that are no connections: what requests need besides.
SPARE_FILES, FEWEST_CONNECTIONS = 32, 4
REFUSED_SECONDS = 1.0  # for the head of a request that there is no room for

_HOP_HEADERS = {b"upgrade", b"http2-settings"}
_UPGRADE_TOKENS = {b"upgrade", b"http2-settings"}


def most_connections() -> int:
    """How many connections leave files for all else."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return sys.maxsize
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(FEWEST_CONNECTIONS, files - SPARE_FILES)


class Protocol(HttpToolsProtocol):
    """One connection.

    An offer to go on in another protocol, such as Java's HTTP/2 client makes with its first request, is passed over,
    and the request answered as it is. Trailers are no headers. What is no HTTP is answered with JSON, unless it stands
    behind a request whose answer is under way.
    """

    _timer: asyncio.TimerHandle | None = None
    """Until when the head has to be there."""
    _stall: asyncio.TimerHandle | None = None
    """When to see whether the client reads."""
    _head_bytes = 0
    _in_head = False
    _in_body = False
    _fault: tuple[int, str] | None = None
    _is_refused = False
    """Whether there was no room for it when it came."""

    # ---- what comes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._is_refused = len(self.connections) > most_connections()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        for timer in (self._timer, self._stall):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._unset_keepalive_if_required()
        goes_on = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._pass_over(data[offer.args[0] :])
            return
        except httptools.HttpParserError:
            self.send_400_response("the request is not HTTP/1.1")
            return
        if self._in_head and goes_on:  # httptools keeps a header to itself until it has all of it
            self._head_bytes += len(data)
            if self._head_bytes > LONGEST_HEAD:
                self._fault = self._too_long()
                self.send_400_response("")
                return
        self._expect_head()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self._head_bytes, self._in_head, self._in_body = 0, True, False

    def on_url(self, url: bytes) -> None:
        """See httptools."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._count(len(name) + len(value))
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._in_head, self._in_body = False, True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_refused:
            self._fault = 503, "the server has as many connections as it may have; ask again in a moment"
            raise ValueError  # as in `_count`
        if not self._has_offer():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See httptools."""
        if not self._has_offer():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """See httptools."""
        if not self._has_offer():
            super().on_message_complete()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > LONGEST_HEAD:
            self._fault = self._too_long()
            raise ValueError  # the parser stops, and says so

    @staticmethod
    def _too_long() -> tuple[int, str]:
        return 431, f"the request's headers have more than {LONGEST_HEAD:,} bytes"

    # ---- offers of other protocols

    def _has_offer(self) -> bool:
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _pass_over(self, rest: bytes) -> None:
        """Read the request again as if there were no offer in it. The parser would leave its body to the other side."""
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/1.1"]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.split(b","))
                value = b", ".join(token for token in tokens if token.lower() not in _UPGRADE_TOKENS)
            if name not in _HOP_HEADERS and not (name == b"connection" and not value):
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._in_head = False
        self.data_received(b"\r\n".join([*lines, b"", b""]) + rest)

    # ---- what goes

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, or none that is read, and close the connection: behind the answers under way."""
        if not self._is_free() and not self.cycle.more_body:
            self.cycle.keep_alive = False  # the newest request is whole
            return
        if self._is_free() or not (self.cycle.response_started or self.pipeline):
            status, message = self._fault or (400, msg)
            content = json_bytes(error_body(message, status))
            later = b"retry-after: 1\r\n" if status == 503 else b""
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + later + head + content)
        self._close()

    def on_response_complete(self) -> None:
        """See uvicorn."""
        unread = not self.pipeline and self.cycle.more_body
        super().on_response_complete()
        if unread:  # what is left of the body would be read for as long as it comes
            self._close()
        self._watch_reader()

    def timeout_keep_alive_handler(self) -> None:
        """See uvicorn."""
        self._close()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._watch_reader()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_reader()

    # ---- time

    def _is_free(self) -> bool:
        """Whether no answer is under way."""
        return self.cycle is None or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._timer is None and self._is_free() and not self.transport.is_closing():
            self._timer = self.loop.call_later(
                REFUSED_SECONDS if self._is_refused else HEAD_SECONDS, self._head_is_late
            )

    def _head_is_late(self) -> None:
        self._timer = None
        if self._in_head:
            self._fault = 408, f"the request's headers did not arrive within {HEAD_SECONDS:g} seconds"
            self.send_400_response("")
        else:
            self._close()

    def _watch_reader(self) -> None:
        left = self._unsent()
        if left and self._stall is None:
            self._stall = self.loop.call_later(STALL_SECONDS, self._see_reader, left)

    def _see_reader(self, before: int) -> None:
        """Leave a client that has read nothing for so long: what it holds would be held for ever."""
        self._stall = None
        if self._unsent() < before:
            self._watch_reader()
        else:
            self.transport.abort()

    def _unsent(self) -> int:
        transport: Any = self.transport
        return int(transport.get_write_buffer_size())
