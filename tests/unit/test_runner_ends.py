"""A runner ends: it is drained, closed, left without a loop, or broken by a defect."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tiny_models import TOKENIZER, ToyDecoder, tiny_config
from toy_runner import LONG, GatedDecoder, Recorder, alone, ask, in_loop, read, running

from gptwo.engine import Piece
from gptwo.errors import (
    DrainingError,
    GptwoError,
    InvalidRequestError,
)
from gptwo.loading import OpenModel
from gptwo.sampling import SamplingParams
from gptwo.server.runner import Runner

# ---- draining and closing


@in_loop
async def test_draining_answers_what_was_asked_and_takes_nothing_new() -> None:
    decoder = GatedDecoder()
    async with running(decoder, max_sequences=2) as runner:
        tickets = [ask(runner, [n], SamplingParams(max_tokens=6, seed=n)) for n in range(5)]
        await decoder.step_begins()
        assert runner.alive
        assert not runner.draining
        drained = [asyncio.create_task(runner.drain(60)) for _ in range(2)]  # SIGTERM may come twice
        await asyncio.sleep(0)
        assert runner.draining
        with pytest.raises(DrainingError) as caught:
            ask(runner, [1])
        assert caught.value.http_status == 503
        assert caught.value.retry_after > 0
        decoder.let_all()
        assert await asyncio.gather(*drained) == [True, True]
        for n, ticket in enumerate(tickets):
            assert await ticket.completion() == alone([n], SamplingParams(max_tokens=6, seed=n))
        assert await runner.drain(0) is True


@in_loop
async def test_what_is_left_when_the_time_to_drain_is_over_fails_with_an_error() -> None:
    decoder = GatedDecoder()
    async with running(decoder, max_sequences=1) as runner:
        tickets = [ask(runner, [n], LONG) for n in range(3)]
        decoder.let()
        assert isinstance(await anext(tickets[0]), Piece)
        await decoder.step_begins()
        assert await runner.drain(0) is False
        for ticket in tickets:
            with pytest.raises(DrainingError, match="ended before this answer was complete"):
                await read(ticket)
        assert (runner.running, runner.waiting) == (0, 0)


@in_loop
async def test_closing_ends_every_ticket_and_frees_what_the_engine_holds() -> None:
    decoder = ToyDecoder(tiny_config(n_positions=200))
    async with running(decoder) as runner:
        await ask(runner, list(range(150))).completion()
        assert len(decoder.held) == 2  # blocks for prompts to come
        ticket = ask(runner, [1], LONG)
        await anext(ticket)
        await runner.close()
        with pytest.raises(DrainingError):
            await ticket.completion()
        with pytest.raises(DrainingError):
            ask(runner, [1])
        assert decoder.held == {}
        await runner.close()


def test_a_runner_that_was_never_started_can_be_closed() -> None:
    asyncio.run(Runner(OpenModel("toy", ToyDecoder(), TOKENIZER)).close())


@pytest.mark.parametrize("options", [{"max_queue": -1}, {"max_wait": -1}, {"max_wait": "5"}, {"max_sequences": 0}])
def test_a_number_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Runner(OpenModel("toy", ToyDecoder(), TOKENIZER), **options)
    assert caught.value.param in options


# ---- defects


def test_a_loop_that_is_closed_in_the_middle_ends_the_thread_and_frees_everything() -> None:
    decoder = GatedDecoder()
    kept: list[Any] = []

    async def leave() -> None:
        runner = Runner(OpenModel("toy", decoder, TOKENIZER))
        runner.start()
        kept.extend([runner, ask(runner, [1], LONG), ask(runner, [2], LONG)])
        await decoder.step_begins()

    asyncio.run(leave())
    decoder.let_all()
    kept[0]._thread.join()
    assert decoder.held == {}
    assert not kept[0].alive
    assert len(decoder.batches) == 1


def test_a_loop_that_is_closed_before_the_last_answer_ends_the_thread_too() -> None:
    decoder = GatedDecoder()
    kept: list[Any] = []

    async def leave() -> None:
        runner = Runner(OpenModel("toy", decoder, TOKENIZER))
        runner.start()
        kept.extend([runner, ask(runner, [1], SamplingParams(max_tokens=1))])
        await decoder.step_begins()

    asyncio.run(leave())
    decoder.let_all()
    kept[0]._thread.join()
    assert decoder.held == {}


@pytest.mark.parametrize("defect", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_raises_fails_every_ticket_and_those_to_come(
    defect: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        decoder = GatedDecoder()
        async with running(decoder, max_sequences=2) as runner:
            tickets = [ask(runner, [n], LONG) for n in range(4)]
            await decoder.step_begins()
            decoder.let()
            assert isinstance(await anext(tickets[0]), Piece)
            await decoder.step_begins()

            def broken(*_: Any) -> Any:
                raise defect("out of order")

            decoder.logits = broken
            decoder.let()
            for ticket in tickets:
                with pytest.raises(
                    GptwoError, match=f"a defect of gptwo ended the engine: {defect.__name__}: out of order"
                ):
                    await ticket.completion()
            assert not runner.alive
            with pytest.raises(GptwoError, match="a defect of gptwo ended the engine"):
                ask(runner, [1])
            assert await runner.drain(60) is True

    in_loop(test)()
    assert "a defect of gptwo ended the engine" in caplog.text


def test_an_observer_that_fails_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def tokens(self, count: int) -> None:
            raise ZeroDivisionError("in an observer")

        def ended(self, *_: Any) -> None:
            raise ZeroDivisionError("in an observer")

    async def test() -> None:
        async with running(ToyDecoder(), observer=Broken()) as runner:
            for ticket in (ask(runner, [1], LONG), ask(runner, [2], LONG)):
                with pytest.raises(GptwoError, match="in an observer"):
                    await ticket.completion()
            assert not runner.alive

    in_loop(test)()
    assert "in an observer" in caplog.text
