"""Load on a server: what the clients of `gptwo bench --url` send, read and count."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from gptwo.bench.server.client import Connection
from gptwo.bench.server.load import Load, bodies, lines, percentile, put_load
from gptwo.errors import BenchError

Handler = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(handle: Handler) -> AsyncIterator[str]:
    """A server that hands each request's body to `handle`, on one connection after another."""

    open_connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_connections.add(task)
        with contextlib.suppress(ConnectionError):  # some clients leave
            await serve_all(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def serve_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            length = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if head.startswith(b"GET /v1/models"):
                send(writer, {"object": "list", "data": [{"id": "the-model"}]})
            else:
                await handle(await reader.readexactly(length), reader, writer)
            if writer.is_closing():
                break

    started = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with started:
        yield f"http://127.0.0.1:{started.sockets[0].getsockname()[1]}"
        await asyncio.gather(*open_connections)


def send(writer: asyncio.StreamWriter, value: object, status: str = "200 OK") -> None:
    data = json.dumps(value).encode()
    writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(data), data))


def send_stream(writer: asyncio.StreamWriter, events: list[object], *, tokens: int, end: bool = True) -> None:
    """The events in chunks that cut through them, and comments between."""
    usage = {"choices": [], "usage": {"completion_tokens": tokens}}
    data = b": hello\n\n" + b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in [*events, usage])
    data += b"data: [DONE]\n\n" if end else b""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for at in range(0, len(data), 7):
        part = data[at : at + 7]
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
    writer.write(b"0\r\n\r\n")


def event(text: str, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


async def answer(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    wanted = json.loads(body)
    assert wanted["model"] == "the-model"
    if wanted["stream"]:
        send_stream(writer, [event("a"), event("b", "length")], tokens=wanted["max_tokens"])
    else:
        send(writer, {**event("ab", "length"), "usage": {"completion_tokens": 2}})


def test_the_same_load_is_the_same_requests() -> None:
    load = Load(requests=50, prompt_words=(1, 9), max_tokens=(1, 30), leaving=0.5, seed=3)
    made = bodies(load, "m")
    assert made == bodies(load, "m") != bodies(Load(requests=50, prompt_words=(1, 9), seed=4), "m")
    assert {len(body["prompt"].split()) for body, _ in made} == set(range(1, 10))
    leaving = [(body["max_tokens"], after) for body, after in made if after is not None]
    assert 10 < len(leaving) < 40
    assert all(after <= length // 2 for length, after in leaving)


def test_every_request_is_answered_and_its_tokens_are_those_the_server_counted() -> None:
    async def run(stream: bool) -> None:
        async with server(answer) as url:
            result = await put_load(url, Load(clients=3, requests=20, max_tokens=(5, 5), stream=stream))
        assert len(result.answered) == len(result.exchanges) == 20
        assert not result.failed
        assert {a.text for a in result.answered} == {"ab"}
        assert {a.finish_reason for a in result.answered} == {"length"}
        assert {a.tokens for a in result.answered} == {5 if stream else 2}
        assert [x.body["seed"] for x in result.exchanges] == list(range(20))
        assert len(result.between_tokens) == (20 if stream else 0)
        assert len(result.first_token) == 20
        assert lines(url, [result])[-1].strip() == "20 answers, 0 failed"

    asyncio.run(run(stream=True))
    asyncio.run(run(stream=False))


def test_who_leaves_midway_is_neither_answered_nor_failed() -> None:
    async def run() -> None:
        async with server(answer) as url:
            result = await put_load(url, Load(clients=2, requests=30, max_tokens=(4, 4), leaving=0.5))
        left = [x.answer for x in result.exchanges if x.answer.left]
        assert left
        assert len(left) + len(result.answered) == 30
        assert not result.failed

    asyncio.run(run())


def test_errors_and_streams_that_are_cut_short_are_failures() -> None:
    async def refuse(body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = json.loads(body)["seed"] % 3
        if number == 0:
            send(writer, {"error": {"message": "too busy"}}, "429 Too Many Requests")
        elif number == 1:
            send_stream(writer, [event("a")], tokens=1, end=False)
        else:
            writer.close()

    async def run() -> None:
        async with server(refuse) as url:
            result = await put_load(url, Load(clients=2, requests=9))
        assert not result.answered
        assert len(result.failed) == 9
        assert {a.status for a in result.failed} == {429, 200, 0}
        assert all(a.problem for a in result.failed if a.status == 0)

    asyncio.run(run())


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:port"])
def test_what_is_no_address_is_said_so(url: str) -> None:
    with pytest.raises(BenchError, match="no address of a server"):
        Connection(url)


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(BenchError, match="no server answers there"):
        asyncio.run(put_load("http://127.0.0.1:1", Load()))


def test_percentiles_are_values_that_were_seen() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 3.0, 4.0, 4.0]
    assert percentile([], 0.5) != percentile([], 0.5)
