"""A runner over a decoder that steps when it is let, and what the tests of a server's engine need beside it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from tiny_models import TOKENIZER, ToyDecoder, answer

from gptwo.engine import Completion, Engine, Piece
from gptwo.loading import OpenModel
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.runner import Runner
from gptwo.server.ticket import Ticket

LONG = SamplingParams(max_tokens=50, seed=1, ignore_eos=True)
SHORT = SamplingParams(max_tokens=4, seed=2, ignore_eos=True)


class GatedDecoder(ToyDecoder):
    """Runs so many steps as it is let; those who wait for one to begin are told."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.steps = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.open_gate = False

    def forward(self, *arrays: Any) -> Any:
        self.entered.release()
        if not self.open_gate:
            assert self.steps.acquire(timeout=60)
        return super().forward(*arrays)

    def let(self, steps: int = 1) -> None:
        """Let so many steps run."""
        self.steps.release(steps)

    def let_all(self) -> None:
        """Let all steps run from now on."""
        self.open_gate = True
        self.steps.release()

    async def step_begins(self) -> None:
        """Wait until a step has begun that was not waited for before."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=60)


class Recorder:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.snapshot: Callable[[], Any] = lambda: None

    def watch(self, snapshot: Callable[[], Any]) -> None:
        self.snapshot = snapshot

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.told.append((name, values))

    def of(self, name: str) -> list[Any]:
        return [values for told, values in self.told if told == name]


@asynccontextmanager
async def running(decoder: Any, **options: Any) -> AsyncIterator[Runner]:
    """A runner that is started, and closed at the end; nothing may be left of it."""
    runner = Runner(OpenModel("toy", decoder, TOKENIZER), **options)
    runner.start()
    try:
        yield runner
    finally:
        if isinstance(decoder, GatedDecoder):
            decoder.let_all()
        await runner.close()
    assert decoder.held == {}
    assert not runner.engine.has_work()
    assert not runner.alive
    assert runner.running == runner.waiting == 0


def in_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 120))

    return run


def ask(runner: Runner, prompt: list[int], params: SamplingParams | BeamParams = SHORT) -> Ticket:
    return runner.submit([runner.prepare(prompt, params)])[0]


def alone(prompt: list[int], params: SamplingParams | BeamParams) -> Completion:
    engine = Engine(ToyDecoder(), TOKENIZER)
    return answer(engine, engine.add(prompt, params))


async def read(ticket: Ticket) -> tuple[list[Piece], Completion]:
    """A ticket to its end: the pieces, then the completion and nothing more."""
    said = [event async for event in ticket]
    assert isinstance(said[-1], Completion)
    assert all(isinstance(piece, Piece) for piece in said[:-1])
    return said[:-1], said[-1]  # type: ignore[return-value]


async def runner_empties(runner: Runner) -> bool:
    """Whether all requests of a runner end, without another being taken."""
    await asyncio.wait_for(runner._empty.wait(), 60)
    return True
