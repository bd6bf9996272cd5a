"""After requests of every kind the cache is empty and the memory is where it was."""

from __future__ import annotations

import gc
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from random_model import native, random_arrays, tiny_config
from tiny_models import TOKENIZER, VOCABULARY

from gptwo.engine import Engine
from gptwo.sampling import BeamParams, SamplingParams

CONFIG = tiny_config(
    vocab_size=VOCABULARY,
    n_positions=256,
    n_embd=96,
    eos_token_id=VOCABULARY - 1,
    bos_token_id=VOCABULARY - 1,
)
BEGINNINGS = [[n * step % 290 for n in range(200)] for step in (3, 7)]


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def drawn_request(draw: random.Random) -> tuple[list[int], SamplingParams | BeamParams]:
    beginning = draw.choice(BEGINNINGS)[: draw.randint(0, 200)]
    prompt = [*beginning, *(draw.randrange(290) for _ in range(draw.randint(1, 20)))]
    if draw.random() < 0.15:
        return prompt, BeamParams(num_beams=draw.randint(1, 4), max_tokens=draw.randint(0, 12))
    return prompt, SamplingParams(
        n=draw.choice([1, 1, 1, 2, 4]),
        max_tokens=draw.randint(0, 30),
        temperature=draw.choice([0.0, 1.0]),
        seed=draw.randrange(1000),
        speculate=draw.choice([0, 4]),
        overflow=draw.choice(["error", "error", "slide"]),
    )


def serve(engine: Engine, draw: random.Random, requests: int) -> None:
    """Requests that come and go at random, a tenth of them cancelled, until nothing is left."""
    asked: list[int] = []
    while len(asked) < requests or engine.has_work():
        for _ in range(draw.choice([0, 0, 1, 3])):
            if len(asked) < requests and engine.waiting < 20:
                asked.append(engine.add(*drawn_request(draw)))
        if asked and draw.random() < 0.03:
            engine.cancel(draw.choice(asked[-20:]))
        engine.step()


def assert_nothing_is_left(requests: int, **options: Any) -> None:
    decoder = native(CONFIG, random_arrays(CONFIG), threads=1)
    engine = Engine(decoder, TOKENIZER, max_sequences=16, chunk_tokens=64, **options)
    # The first round brings buffers and pools to their size.
    serve(engine, random.Random(0), requests // 3)
    engine.clear_prefixes()
    gc.collect()
    before = resident_bytes()
    serve(engine, random.Random(1), requests)
    assert decoder.cache_blocks == engine.prefix_blocks
    statistics = engine.statistics
    assert statistics.prefix_hits > requests // 10
    assert statistics.accepted_tokens > 0
    engine.clear_prefixes()
    assert decoder.cache_blocks == 0
    gc.collect()
    # The allocator keeps a little; a block lost for each tenth of a thousand requests would be more.
    assert resident_bytes() - before < 8 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_requests_that_come_and_go_leave_the_cache_empty_and_the_memory_where_it_was() -> None:
    assert_nothing_is_left(150, prefix_blocks=8)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_a_thousand_requests_leave_the_cache_empty_and_the_memory_where_it_was() -> None:
    assert_nothing_is_left(1000, prefix_blocks=64)
