"""Hundreds of requests that come and go at random: each is answered as alone, or cancelled, and nothing is left."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from random_model import native, random_arrays, tiny_config
from tiny_models import TOKENIZER, VOCABULARY, ToyDecoder, answer
from tiny_models import tiny_config as toy_config

from gptwo.engine import Completion, Engine
from gptwo.errors import QueueFullError
from gptwo.loading import OpenModel
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.runner import Runner
from gptwo.server.ticket import Ticket

CONFIG = {"vocab_size": VOCABULARY, "n_positions": 256}
BEGINNINGS = [[n * step % 290 for n in range(150)] for step in (3, 7)]


def drawn_request(draw: random.Random) -> tuple[list[int], SamplingParams | BeamParams]:
    prompt = [*draw.choice(BEGINNINGS)[: draw.randint(0, 150)], *(draw.randrange(290) for _ in range(3))]
    if draw.random() < 0.1:
        return prompt, BeamParams(num_beams=draw.randint(1, 3), max_tokens=draw.randint(0, 8))
    return prompt, SamplingParams(
        n=draw.choice([1, 1, 1, 2]),
        max_tokens=draw.randint(0, 20),
        temperature=draw.choice([0.0, 1.0]),
        seed=draw.randrange(1000),
        speculate=draw.choice([0, 4]),
    )


async def client(runner: Runner, draw: random.Random, requests: int, answers: list[Any], ended: asyncio.Event) -> None:
    """Asks one question after another; reads the answer piece by piece or at once, or leaves before its end."""
    for _ in range(requests):
        prompt, params = drawn_request(draw)
        ticket = await submitted(runner, prompt, params, ended)
        kind = draw.choice(["streamed", "streamed", "whole", "whole", "left", "forgotten"])
        if kind == "streamed":
            answers.append((prompt, params, [event async for event in ticket][-1]))
        elif kind == "whole":
            answers.append((prompt, params, await ticket.completion()))
        else:
            for _ in range(draw.randrange(4)):
                await anext(ticket, None)
            if kind == "left":
                ticket.cancel()
            answers.append(None)
        del ticket
        ended.set()


async def submitted(
    runner: Runner, prompt: list[int], params: SamplingParams | BeamParams, ended: asyncio.Event
) -> Ticket:
    """A ticket; one who is refused asks again when another's request has ended."""
    while True:
        try:
            return runner.submit([runner.prepare(prompt, params)])[0]
        except QueueFullError:
            ended.clear()
            await ended.wait()


def serve(decoder: Any, seed: int, *, clients: int, requests: int) -> tuple[list[Any], Runner]:
    """All that was answered, and the runner, which is closed."""
    answers: list[Any] = []
    runner = Runner(
        OpenModel("random", decoder, TOKENIZER), max_sequences=12, chunk_tokens=48, prefix_blocks=6, max_queue=10
    )

    async def run() -> None:
        runner.start()
        ended = asyncio.Event()
        draws = [random.Random(1000 * seed + number) for number in range(clients)]
        await asyncio.gather(*(client(runner, draw, requests, answers, ended) for draw in draws))
        assert await runner.drain(60)
        assert (runner.running, runner.waiting) == (0, 0)
        await runner.close()

    asyncio.run(run())
    return answers, runner


@pytest.mark.parametrize("seed", [1, 2])
def test_of_many_requests_each_is_answered_as_alone_or_left_and_nothing_stays(seed: int) -> None:
    decoder = ToyDecoder(toy_config(**CONFIG))
    answers, runner = serve(decoder, seed, clients=30, requests=10)
    assert len(answers) == 300
    reference = Engine(ToyDecoder(toy_config(**CONFIG)), TOKENIZER)
    for prompt, params, found in filter(None, answers[::5]):
        assert isinstance(found, Completion)
        assert found == answer(reference, reference.add(prompt, params))
    assert not runner.engine.has_work()
    assert runner.engine.prefix_blocks == 0
    assert decoder.held == {}


def test_of_many_requests_to_the_core_each_is_answered_as_alone_and_the_cache_is_empty() -> None:
    config = tiny_config(eos_token_id=VOCABULARY - 1, bos_token_id=VOCABULARY - 1, **CONFIG)
    decoder = native(config, random_arrays(config), threads=1)
    answers, runner = serve(decoder, 3, clients=30, requests=10)
    assert len(answers) == 300
    assert decoder.cache_blocks == 0
    assert not runner.engine.has_work()
    reference = Engine(decoder, TOKENIZER)
    for prompt, params, found in filter(None, answers):
        assert found == answer(reference, reference.add(prompt, params))
    reference.close()
    assert decoder.cache_blocks == 0
