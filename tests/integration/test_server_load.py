"""A server under load: 64 clients, some of whom leave midway; nobody is lost, nothing is wrong and nothing remains."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest
from server_process import Server, running_server

import gptwo
from gptwo.bench.server.client import Connection
from gptwo.bench.server.load import Load, Result, percentile, put_load

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Lengths from a word to most of the context of 256, so that long prompts come between short ones.
MIXED = Load(
    clients=64,
    requests=2000,
    prompt_words=(1, 40),
    max_tokens=(1, 40),
    leaving=0.1,
    temperature=0.9,
    extra=(("top_k", 50),),
)


@pytest.fixture
def server() -> Iterator[Server]:
    with running_server("shakespeare", "--max-queue", "1000", "--prefix-blocks", "100", GPTWO_THREADS="2") as started:
        yield started


def assert_right(result: Result) -> None:
    """Every answer is what its request gives alone."""
    with gptwo.load("shakespeare", threads=1) as lm:
        for exchange in result.exchanges:
            if exchange.answer.left:
                continue
            body = exchange.body
            params = gptwo.SamplingParams(
                max_tokens=body["max_tokens"], temperature=body["temperature"], top_k=body["top_k"], seed=body["seed"]
            )
            alone = lm.generate(body["prompt"], params)
            assert exchange.answer.text == alone.text, body
            assert exchange.answer.finish_reason == alone.finish_reason
            assert exchange.answer.tokens == len(alone.token_ids)


def report(name: str, result: Result) -> None:
    first, between = result.first_token, result.between_tokens
    print(
        f"\n{name}: {len(result.answered)} answers in {result.seconds:.1f} s, {result.tokens_per_second:.0f} tokens/s; "
        f"first token p50 {1e3 * percentile(first, 0.5):.0f} p99 {1e3 * percentile(first, 0.99):.0f} ms; "
        f"between tokens p50 {1e3 * percentile(between, 0.5):.1f} p99 {1e3 * percentile(between, 0.99):.1f} ms"
    )


@pytest.mark.parametrize("stream", [True, False])
def test_every_answer_is_the_one_made_alone_and_nothing_remains(server: Server, stream: bool) -> None:
    load = Load(**{**vars(MIXED), "stream": stream})
    asyncio.run(put_load(server.url, Load(**{**vars(load), "requests": 400, "seed": 1})))
    before = server.resident()
    result = asyncio.run(put_load(server.url, load))
    report("stream" if stream else "whole", result)
    assert len(result.exchanges) == 2000
    assert [(answer.status, answer.problem) for answer in result.failed] == []
    assert len(result.answered) > 1700
    assert_right(result)
    server.wait_for("gptwo_num_requests_running", 0)  # those who left last are about to be let go
    assert server.metric("gptwo_kv_cache_blocks") == server.metric("gptwo_prefix_cache_blocks")
    assert server.resident() < before + 30e6
    assert server.end() == 0
    assert "Traceback" not in server.log


def test_when_it_is_told_to_end_under_load_every_connection_ends_properly(server: Server) -> None:
    async def run() -> Result:
        loading = asyncio.create_task(put_load(server.url, Load(**{**vars(MIXED), "leaving": 0.0})))
        watch = Connection(server.url)
        while (await watch.get("/v1/models")).status == 200 and server.metric("gptwo_generation_tokens_total") < 3000:
            await asyncio.sleep(0.05)
        os.kill(server.process.pid, signal.SIGTERM)
        await watch.close()
        return await loading

    result = asyncio.run(run())
    assert server.process.wait(timeout=60) == 0
    answers = [exchange.answer for exchange in result.exchanges]
    assert len(answers) == 2000
    assert len(result.answered) > 64
    refused = [answer for answer in answers if answer.status == 503]
    gone = [answer for answer in answers if answer.status == 0]  # nobody listens any more
    assert all(answer.chunks[0]["error"]["message"] for answer in refused)
    assert len(result.answered) + len(refused) + len(gone) == 2000
    assert all("Connect" in answer.problem or "closed" in answer.problem for answer in gone), {a.problem for a in gone}
    assert_right(Result(result.seconds, [x for x in result.exchanges if x.answer.done and x.answer.status == 200]))
