"""The engine's thread: answers that are those of the engine alone, cancellation, what observers are told."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import pytest
from tiny_models import ToyDecoder
from toy_runner import LONG, SHORT, GatedDecoder, Recorder, alone, ask, in_loop, read, runner_empties, running

from gptwo.engine import Completion, Piece
from gptwo.errors import (
    DecoderError,
    GptwoError,
    InvalidRequestError,
    QueueFullError,
)
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server.ticket import Ticket

# ---- answers


@in_loop
async def test_an_answer_is_that_of_the_engine_alone_streamed_or_whole() -> None:
    jobs: list[tuple[list[int], SamplingParams | BeamParams]] = [
        ([n, n + 1], SamplingParams(max_tokens=5 + n, seed=n, n=1 + n % 3, logprobs=2)) for n in range(12)
    ]
    jobs.append(([1, 2, 3], BeamParams(num_beams=3, num_return_sequences=2, max_tokens=6)))
    jobs.append(([], SamplingParams(max_tokens=3, n=1, best_of=3, seed=4)))
    async with running(ToyDecoder(), max_sequences=7) as runner:
        tickets = [ask(runner, prompt, params) for prompt, params in jobs]
        readers = [read(t) if i % 2 else t.completion() for i, t in enumerate(tickets)]
        answers = await asyncio.gather(*readers)
    for (prompt, params), found in zip(jobs, answers, strict=True):
        expected = alone(prompt, params)
        if isinstance(found, Completion):
            assert found == expected
            continue
        pieces, completion = found
        assert completion == expected
        for choice in expected.choices:
            own = [piece for piece in pieces if piece.index == choice.index]
            assert "".join(piece.text for piece in own) == choice.text
            assert sum((piece.token_ids for piece in own), ()) == choice.token_ids


@in_loop
async def test_requests_may_be_prepared_by_several_threads_at_once() -> None:
    async with running(ToyDecoder()) as runner:
        prepared = await asyncio.gather(
            *(asyncio.to_thread(runner.prepare, [n], SamplingParams(max_tokens=3, seed=n)) for n in range(40))
        )
        tickets = runner.submit(prepared)
        answers = await asyncio.gather(*(ticket.completion() for ticket in tickets))
    assert [a.prompt_token_ids for a in answers] == [(n,) for n in range(40)]
    assert len({ticket.request.id for ticket in tickets}) == 40


@in_loop
async def test_a_wrong_request_is_refused_when_it_is_prepared() -> None:
    async with running(ToyDecoder()) as runner:
        for prompt, params in (([300], SHORT), ([1] * 20, LONG), ([1], SamplingParams(logit_bias={300: 1}))):
            with pytest.raises(InvalidRequestError):
                runner.prepare(prompt, params)
        assert runner.submit([]) == []
        await ask(runner, [1]).completion()


@in_loop
async def test_an_error_of_one_request_is_raised_behind_its_pieces_and_disturbs_no_other() -> None:
    nothing_left = SamplingParams(allowed_token_ids=[5, 6], no_repeat_ngram_size=1, max_tokens=6, ignore_eos=True)
    async with running(ToyDecoder()) as runner:
        wrong, streamed, right = ask(runner, [1], nothing_left), ask(runner, [1], nothing_left), ask(runner, [2])
        with pytest.raises(InvalidRequestError, match="no token is left"):
            await wrong.completion()
        assert [type(await anext(streamed)) for _ in range(2)] == [Piece, Piece]
        with pytest.raises(InvalidRequestError, match="no token is left"):
            await anext(streamed)
        assert await right.completion() == alone([2], SHORT)


@in_loop
async def test_a_request_that_the_engine_cannot_begin_fails_alone() -> None:
    async with running(ToyDecoder()) as runner:
        submit = runner.engine.submit

        def failing(request: Any) -> None:
            if request.prompt_ids == (7,):
                raise MemoryError("no room for its sampler")
            submit(request)

        runner.engine.submit = failing  # type: ignore[method-assign]
        wrong, right = runner.submit([runner.prepare([7], SHORT), runner.prepare([8], SHORT)])
        with pytest.raises(GptwoError, match="MemoryError: no room for its sampler"):
            await wrong.completion()
        assert (await right.completion()).prompt_token_ids == (8,)


@in_loop
async def test_a_completion_may_be_asked_for_again_and_a_ticket_read_behind_its_end() -> None:
    async with running(ToyDecoder()) as runner:
        ticket = ask(runner, [1])
        assert await ticket.completion() == await ticket.completion() == alone([1], SHORT)
        assert await read(ticket) == ([], alone([1], SHORT))
        assert [event async for event in ticket] == []
        ticket.cancel()


# ---- cancellation


@in_loop
async def test_a_ticket_that_is_left_is_freed_within_a_step_however_it_is_left() -> None:
    decoder = GatedDecoder()
    async with running(decoder) as runner:
        for leave in ("cancel", "close", "forget", "cancel the task", "break off"):
            ticket: Ticket | None = ask(runner, [1], LONG)
            await decoder.step_begins()
            assert ticket is not None
            if leave == "cancel the task":
                task = asyncio.create_task(ticket.completion())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                del task
            elif leave == "break off":
                decoder.let()
                async for _ in ticket:
                    break
                await decoder.step_begins()
                ticket.cancel()
            elif leave == "cancel":
                ticket.cancel()
                ticket.cancel()
            elif leave == "close":
                await ticket.aclose()
            ticket = None
            gc.collect()
            steps = len(decoder.batches)
            decoder.let()  # the step that had begun
            assert await runner_empties(runner)
            assert len(decoder.batches) == steps + 1
            assert decoder.held == {}


@in_loop
async def test_a_ticket_may_be_forgotten_by_the_engines_own_thread_in_the_middle_of_a_step() -> None:
    # As the garbage collector does it: in whatever thread, at whatever moment.
    decoder = ToyDecoder()
    async with running(decoder) as runner:
        forgotten = [ask(runner, [1], LONG)]
        await anext(forgotten[0])
        logits, threads = decoder.logits, []

        def collecting(ids: list[int]) -> Any:
            if forgotten:
                threads.append(threading.current_thread().name)
                forgotten.clear()
            return logits(ids)

        decoder.logits = collecting
        assert await ask(runner, [2]).completion() == alone([2], SHORT)
        assert await runner_empties(runner)
        assert threads == ["gptwo engine"]


@in_loop
async def test_a_cancelled_ticket_ends_at_once_for_whoever_reads_it() -> None:
    decoder = GatedDecoder()
    async with running(decoder) as runner:
        ticket = ask(runner, [1], LONG)
        reader = asyncio.create_task(anext(ticket))
        waiter = asyncio.create_task(ticket.completion())
        await decoder.step_begins()
        ticket.cancel()
        with pytest.raises(StopAsyncIteration):
            await reader
        with pytest.raises(GptwoError, match="cancelled before its answer was complete"):
            await waiter
        assert [event async for event in ticket] == []


@in_loop
async def test_one_that_waits_is_cancelled_too_and_its_place_in_the_queue_is_free() -> None:
    decoder = GatedDecoder()
    async with running(decoder, max_sequences=1, max_queue=1) as runner:
        first, second = ask(runner, [1], LONG), ask(runner, [2])
        await decoder.step_begins()
        with pytest.raises(QueueFullError):
            ask(runner, [3])
        second.cancel()
        third = ask(runner, [3])
        first.cancel()
        decoder.let_all()
        assert await third.completion() == alone([3], SHORT)
    assert not any(position == 0 and tokens != 1 for batch in decoder.batches for _, position, tokens in batch)
    assert decoder.opened == 2  # the second never ran


# ---- what the observer is told


@in_loop
async def test_an_observer_is_told_what_happens() -> None:
    decoder, recorder = GatedDecoder(), Recorder()
    async with running(decoder, max_sequences=2, observer=recorder) as runner:
        two_texts = SamplingParams(n=2, max_tokens=3, seed=1, ignore_eos=True)
        answered, cancelled = ask(runner, [1, 2, 3], two_texts), ask(runner, [4])
        assert (recorder.snapshot().running, recorder.snapshot().waiting) == (0, 2)
        await decoder.step_begins()
        cancelled.cancel()
        decoder.let_all()
        completion = await answered.completion()
        assert await runner_empties(runner)
        now = recorder.snapshot()
        assert (now.running, now.waiting, now.cache_blocks, now.prefix_blocks) == (0, 0, None, 0)
        assert now.statistics.computed_tokens == 3 + 2 * 2
    assert [tokens for tokens, _ in recorder.of("begun")] == [3]
    assert sum(count for (count,) in recorder.of("tokens")) == 6
    assert len(recorder.of("first_token")) == 2
    assert len(recorder.of("next_token")) == 4
    assert all(seconds >= 0 for name in ("first_token", "next_token") for (seconds,) in recorder.of(name))
    assert [outcome for outcome, _ in recorder.of("ended")] == [None, completion]


@in_loop
async def test_pieces_that_nobody_reads_hold_up_nobody_and_are_as_many_as_tokens() -> None:
    async with running(ToyDecoder()) as runner:
        unread, whole = ask(runner, [1], LONG), ask(runner, [2], LONG)
        await whole.completion()
        assert await runner_empties(runner)
        assert len(unread._answer.pieces) == 50
        assert len(whole._answer.pieces) == 0
        pieces, completion = await read(unread)
        assert len(pieces) == 50
        assert completion == alone([1], LONG)


@in_loop
async def test_an_error_of_the_engine_keeps_its_type() -> None:
    decoder = ToyDecoder()
    decoder.forks_left = 0
    async with running(decoder) as runner:
        with pytest.raises(DecoderError, match="no memory is left for a fork"):
            await ask(runner, [1], SamplingParams(n=2)).completion()
        decoder.forks_left = None
