"""Bodies of requests: their limits while they arrive, JSON that is none, and streams of events."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from gptwo.errors import (
    BodyTimeoutError,
    GptwoError,
    InvalidRequestError,
    MediaTypeError,
    PayloadTooLargeError,
    QueueFullError,
)
from gptwo.server.bodies import Linger, parse, read_body
from gptwo.server.schemas import CompletionRequest
from gptwo.server.sse import COMMENT, DONE, ClientGoneError, EventStream, unless_gone

JSON = {"content-type": "application/json"}


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def within_a_minute() -> Any:
        async with asyncio.timeout(60):
            return await work

    return asyncio.run(within_a_minute())


class Wire:
    """An ASGI connection: what is to be received, and what was sent."""

    def __init__(self, *parts: bytes, headers: dict[str, str] | None = None, ends: bool = True) -> None:
        self.messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        if ends and self.messages:
            self.messages[-1]["more_body"] = False
        self.read = 0
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        pairs = (JSON if headers is None else headers).items()
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": [(name.encode(), value.encode()) for name, value in pairs],
        }

    async def receive(self) -> dict[str, Any]:
        if self.read < len(self.messages):
            self.read += 1
            return self.messages[self.read - 1]
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(dict(message))

    @property
    def status(self) -> int:
        return next(int(message["status"]) for message in self.sent if message["type"] == "http.response.start")

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent if message["type"] == "http.response.body")

    async def read_body(self, most: int = 100, timeout: float = 60.0) -> bytes:
        return await read_body(Request(self.scope, self.receive), most=most, timeout=timeout)


# ---- reading


def test_a_body_is_put_together() -> None:
    assert run(Wire(b"ab", b"", b"c").read_body()) == b"abc"


def test_a_body_that_is_announced_as_too_large_is_not_read() -> None:
    async def work() -> None:
        wire = Wire(b"x" * 101, headers={**JSON, "content-length": "101"})
        with pytest.raises(PayloadTooLargeError, match="100 bytes"):
            await wire.read_body()
        assert wire.read == 0

    run(work())


def test_a_body_that_grows_too_large_is_left_at_that_point() -> None:
    async def work() -> None:
        wire = Wire(*[b"x" * 40] * 10)
        with pytest.raises(PayloadTooLargeError):
            await wire.read_body()
        assert wire.read == 3
        assert await Wire(b"x" * 100).read_body() == b"x" * 100

    run(work())


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def work() -> None:
        with pytest.raises(BodyTimeoutError, match=r"0\.01 seconds"):
            await Wire(b"{", ends=False).read_body(timeout=0.01)

    run(work())


def test_a_client_that_leaves_in_its_own_words_is_noticed() -> None:
    async def work() -> None:
        wire = Wire(b"{", ends=False)
        wire.left.set()
        with pytest.raises(ClientDisconnect):
            await wire.read_body()

    run(work())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {**JSON, "content-encoding": "gzip"},
    ],
    ids=str,
)
def test_what_a_form_in_a_browser_could_send_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(MediaTypeError):
        run(Wire(b"{}", headers=headers).read_body())


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"])
def test_json_has_several_names(kind: str) -> None:
    assert run(Wire(b"{}", headers={"content-type": kind}).read_body()) == b"{}"


# ---- JSON


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b'{"prompt": "a",}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "a\x00"}',
        b"\xef\xbb\xbf{}",
        b'{"prompt":' + b"[" * 100_000,
        b'{"prompt":' + b'{"a":' * 500 + b"1" + b"}" * 501,
        b'{"prompt":[' + b"[]," * 30_000 + b"[]]}",
        b'{"seed":' + b"9" * 10_000 + b"}",
        b"{'prompt': 'a'}",
        '{"prompt": "a"}'.encode("utf-16"),
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_no_json_object_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(CompletionRequest, data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_text_may_be_full_of_brackets() -> None:
    text = '["{' * 30_000
    assert parse(CompletionRequest, json.dumps({"prompt": text}).encode()).prompt == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(sorted(CompletionRequest.model_fields)) | st.text(max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_any_object_is_read_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert parse(CompletionRequest, json.dumps(body).encode()).prompt == body["prompt"]


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):  # by chance alone no bytes are a request
        parse(CompletionRequest, data)


# ---- answers that come before the body was read


async def _refuse(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": []})
    await send({"type": "http.response.body", "body": b"too large", "more_body": False})


def test_an_early_answer_ends_when_the_body_does() -> None:
    async def work() -> None:
        wire = Wire(*[b"x" * 1000] * 5, headers={**JSON, "content-length": "5000"})
        await Linger(_refuse)(wire.scope, wire.receive, wire.send)
        assert wire.read == 5
        assert wire.body == b"too large"
        assert [message.get("more_body") for message in wire.sent] == [None, True, False]

    run(work())


def test_a_client_that_waits_for_a_sign_is_answered_without_one() -> None:
    async def work() -> None:
        wire = Wire(b"x", headers={**JSON, "content-length": "1", "expect": "100-continue"})
        await Linger(_refuse)(wire.scope, wire.receive, wire.send)
        assert wire.read == 0
        assert wire.sent[-1]["more_body"] is False

    run(work())


def test_a_request_without_a_body_is_answered_at_once() -> None:
    async def work() -> None:
        wire = Wire(headers={})
        await Linger(_refuse)(wire.scope, wire.receive, wire.send)
        assert wire.body == b"too large"

    run(work())


# ---- streams of events


def stream(events: AsyncGenerator[bytes], wire: Wire, *, keep_alive: float = 60.0) -> tuple[Any, list[GptwoError]]:
    errors: list[GptwoError] = []
    response = EventStream(events, keep_alive=keep_alive, on_error=errors.append)
    return response(wire.scope, wire.receive, wire.send), errors


async def _two() -> AsyncGenerator[bytes]:
    yield b"data: 1\n\n"
    yield b"data: 2\n\n"


def test_a_stream_ends_with_done() -> None:
    async def work() -> None:
        wire = Wire()
        answer, _ = stream(_two(), wire)
        await answer
        assert wire.status == 200
        assert wire.body == b"data: 1\n\ndata: 2\n\n" + DONE
        assert dict(wire.sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")

    run(work())


def test_silence_is_broken_by_comments() -> None:
    async def work() -> None:
        wire, heard = Wire(), asyncio.Event()

        async def slow() -> AsyncGenerator[bytes]:
            await heard.wait()
            yield b"data: 1\n\n"

        answer, _ = stream(slow(), wire, keep_alive=0.01)
        task = asyncio.ensure_future(answer)
        while wire.body.count(COMMENT) < 2:
            await asyncio.sleep(0.001)
        heard.set()
        await task
        assert wire.status == 200
        assert wire.body.endswith(b"data: 1\n\n" + DONE)

    run(work())


def test_an_error_before_the_first_event_is_raised() -> None:
    async def work() -> None:
        async def refused() -> AsyncGenerator[bytes]:
            raise QueueFullError("too much")
            yield b""

        wire = Wire()
        answer, _ = stream(refused(), wire)
        with pytest.raises(QueueFullError):
            await answer
        assert wire.sent == []

    run(work())


@pytest.mark.parametrize("error", [GptwoError("it broke"), ValueError("a secret")])
def test_an_error_in_the_middle_is_the_last_event(error: Exception) -> None:
    async def work() -> None:
        async def broken() -> AsyncGenerator[bytes]:
            yield b"data: 1\n\n"
            raise error

        wire = Wire()
        answer, errors = stream(broken(), wire)
        if isinstance(error, GptwoError):
            await answer
            assert errors == [error]
        else:
            with pytest.raises(ValueError):  # for the log
                await answer
        first, last, rest = wire.body.split(b"\n\n")
        assert (first, rest) == (b"data: 1", b"")
        said = json.loads(last.removeprefix(b"data: "))["error"]
        assert set(said) == {"message", "type", "param", "code"}
        assert "secret" not in said["message"]
        assert wire.sent[-1]["more_body"] is False

    run(work())


def test_a_client_that_leaves_ends_the_work_at_once() -> None:
    async def work() -> None:
        wire, ended = Wire(), asyncio.Event()

        async def endless() -> AsyncGenerator[bytes]:
            try:
                yield b"data: 1\n\n"
                await asyncio.Event().wait()
            finally:
                ended.set()

        answer, _ = stream(endless(), wire)
        task = asyncio.ensure_future(answer)
        while not wire.sent:
            await asyncio.sleep(0)
        wire.left.set()
        await task
        assert ended.is_set()
        assert DONE not in wire.body

    run(work())


def test_work_for_one_answer_ends_when_the_client_leaves() -> None:
    async def work() -> None:
        wire, ended = Wire(), asyncio.Event()

        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        wire.left.set()
        with pytest.raises(ClientGoneError):
            await unless_gone(wire.receive, endless())
        assert ended.is_set()

        async def quick() -> int:
            return 5

        assert await unless_gone(Wire().receive, quick()) == 5

    run(work())
