"""Load on a server: so many clients, each with one request after another, and what they saw."""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gptwo.bench.server.client import Answer, Connection
from gptwo.errors import BenchError

# Words that every GPT-2 vocabulary has whole, and of which no two prompts begin with the same few.
_TEXT: Final = (
    "the house river stone night bread winter letter garden music number window summer captain forest morning silver "
    "bridge market ocean teacher silent yellow engine mountain story paper battle village kitchen doctor station"
)
WORDS: Final = _TEXT.split()


@dataclass(frozen=True)
class Load:
    """What is asked of a server."""

    clients: int = 32
    requests: int = 64
    """In all."""
    prompt_words: tuple[int, int] = (16, 16)
    """The fewest and the most words of a prompt."""
    max_tokens: tuple[int, int] = (128, 128)
    """The fewest and the most tokens of an answer."""
    leaving: float = 0.0
    """The share of requests whose client goes away midway."""
    temperature: float = 0.0
    stream: bool = True
    seed: int = 0
    extra: tuple[tuple[str, Any], ...] = ()
    """Further fields of each body."""


@dataclass(frozen=True)
class Exchange:
    """A request and what came of it."""

    body: Mapping[str, Any]
    answer: Answer


@dataclass(frozen=True)
class Result:
    """One round of load. Times in seconds."""

    seconds: float
    exchanges: Sequence[Exchange]

    @property
    def answered(self) -> list[Answer]:
        """The answers that were whole."""
        return [x.answer for x in self.exchanges if x.answer.status == 200 and x.answer.done]

    @property
    def failed(self) -> list[Answer]:
        """Those that were not, though their client stayed."""
        return [
            x.answer for x in self.exchanges if not (x.answer.status == 200 and x.answer.done) and not x.answer.left
        ]

    @property
    def tokens_per_second(self) -> float:
        """New tokens of whole answers, over all of the time."""
        return sum(answer.tokens for answer in self.answered) / self.seconds

    @property
    def first_token(self) -> list[float]:
        """From request to first token, for each whole answer, shortest first."""
        return sorted(a.token_times[0] - a.started for a in self.answered if a.token_times)

    @property
    def between_tokens(self) -> list[float]:
        """From each event with text to the next of its stream, shortest first."""
        gaps = []
        for answer in self.answered:
            times = answer.token_times
            gaps += [after - before for before, after in itertools.pairwise(times)]
        return sorted(gaps)


def bodies(load: Load, model: str) -> list[tuple[dict[str, Any], int | None]]:
    """The requests, and after how many events each client leaves; the same for the same load."""
    draw = random.Random(load.seed)
    made = []
    for number in range(load.requests):
        count, length = draw.randint(*load.prompt_words), draw.randint(*load.max_tokens)
        words = [draw.choice(WORDS) for _ in range(count)]
        body: dict[str, Any] = {
            "model": model,
            "prompt": " ".join(words),
            "max_tokens": length,
            "temperature": load.temperature,
            "seed": number,
            "stream": load.stream,
            **dict(load.extra),
        }
        if load.stream:
            body["stream_options"] = {"include_usage": True}
        leaves = draw.random() < load.leaving
        midway = draw.randint(0, length // 2) if load.stream else 0  # nothing comes before the whole
        made.append((body, midway if leaves else None))
    return made


async def put_load(url: str, load: Load, *, model: str | None = None, key: str | None = None) -> Result:
    """Run the load once. model: None asks the server for its first. Raises BenchError if there is no server."""
    if model is None:
        model = await served_model(url, key)
    waiting = list(reversed(list(enumerate(bodies(load, model)))))
    exchanges: list[Exchange | None] = [None] * len(waiting)

    async def client() -> None:
        connection = Connection(url, key)
        try:
            while waiting:
                number, (body, leave_after) = waiting.pop()
                answer = await connection.post("/v1/completions", body, leave_after=leave_after)
                exchanges[number] = Exchange(body, answer)
        finally:
            await connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(min(load.clients, load.requests))))
    return Result(time.perf_counter() - started, [exchange for exchange in exchanges if exchange is not None])


async def served_model(url: str, key: str | None = None) -> str:
    """The first model that a server lists."""
    connection = Connection(url, key)
    answer = await connection.get("/v1/models")
    await connection.close()
    if answer.problem or answer.status != 200:
        raise BenchError(f"{url}: no server answers there ({answer.problem or f'status {answer.status}'})")
    data = answer.chunks[0].get("data")
    if not data:
        raise BenchError(f"{url}: the server there lists no models")
    return str(data[0]["id"])


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; NaN of none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def lines(url: str, rounds: Sequence[Result]) -> list[str]:
    """What several rounds on one server came to, one line each thing."""
    speeds = [result.tokens_per_second for result in rounds]
    first = sorted(value for result in rounds for value in result.first_token)
    between = sorted(value for result in rounds for value in result.between_tokens)
    failed = sum(len(result.failed) for result in rounds)
    return [
        f"{url}  {max(speeds):.1f} tokens/s  median {statistics.median(speeds):.1f}",
        f"  first token    p50 {1e3 * percentile(first, 0.5):.0f} ms  p99 {1e3 * percentile(first, 0.99):.0f} ms",
        f"  between tokens p50 {1e3 * percentile(between, 0.5):.1f} ms  p99 {1e3 * percentile(between, 0.99):.1f} ms",
        f"  {sum(len(result.answered) for result in rounds)} answers, {failed} failed",
    ]
