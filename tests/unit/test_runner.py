"""The engine's thread: answers that are those of the engine alone, cancellation, the queue, draining, defects."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tiny_models import TOKENIZER, ToyDecoder, answer, tiny_config

from gptwo.engine import Completion, Engine, Failure, Piece
from gptwo.errors import (
    DecoderError,
    DrainingError,
    GptwoError,
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
)
from gptwo.loading import OpenModel
from gptwo.sampling import BeamParams, SamplingParams
from gptwo.server import runner as runner_module
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

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 120))

    run.__name__ = test.__name__
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


async def runner_empties(runner: Runner) -> bool:
    """Whether all requests of a runner end, without another being taken."""
    await asyncio.wait_for(runner._empty.wait(), 60)
    return True


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


# ---- the queue


@in_loop
async def test_the_queue_counts_those_who_wait_and_takes_a_batch_whole_or_not_at_all() -> None:
    decoder, recorder = GatedDecoder(), Recorder()
    async with running(decoder, max_sequences=2, max_queue=3, observer=recorder) as runner:
        batch = [runner.prepare([n], SHORT) for n in range(6)]
        with pytest.raises(InvalidRequestError, match="6 prompts at a time are more than this server takes") as never:
            runner.submit(batch)
        assert never.value.param == "prompt"
        tickets = runner.submit(batch[:3])  # two of them run
        with pytest.raises(QueueFullError, match="3 requests may wait") as refused:
            runner.submit([runner.prepare([n], SHORT) for n in range(3)])
        assert refused.value.http_status == 429
        assert 1 <= refused.value.retry_after <= 60
        tickets += runner.submit([runner.prepare([n], SHORT) for n in range(2)])
        assert len(recorder.of("refused")) == 6 + 3
        with pytest.raises(QueueFullError):
            ask(runner, [1])
        await decoder.step_begins()
        decoder.let()
        await decoder.step_begins()
        await asyncio.sleep(0)
        assert (runner.running, runner.waiting) == (2, 3)
        decoder.let_all()
        await asyncio.gather(*(ticket.completion() for ticket in tickets))
        assert (runner.running, runner.waiting) == (0, 0)
        await ask(runner, [1]).completion()


@in_loop
async def test_a_wide_request_takes_the_room_of_its_texts() -> None:
    decoder = GatedDecoder()
    async with running(decoder, max_sequences=4, max_queue=0) as runner:
        tickets = [ask(runner, [1], SamplingParams(n=3, max_tokens=3)), ask(runner, [1])]
        with pytest.raises(QueueFullError):
            ask(runner, [2])
        decoder.let_all()
        for ticket in tickets:
            await ticket.completion()
        wider_than_all = ask(runner, [1], SamplingParams(n=9, max_tokens=3, seed=1))
        with pytest.raises(QueueFullError):
            ask(runner, [2])
        assert len((await wider_than_all.completion()).choices) == 9


@pytest.mark.parametrize("max_wait", [0.0, 5.0])
def test_a_request_that_waits_too_long_fails_and_one_with_room_never_does(
    max_wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(runner_module, "monotonic", lambda: now[0])

    async def test() -> None:
        decoder = GatedDecoder()
        async with running(decoder, max_sequences=1, max_wait=max_wait) as runner:
            first = ask(runner, [1], LONG)
            await decoder.step_begins()
            second = ask(runner, [2])
            now[0] += max_wait
            third = ask(runner, [3])
            decoder.let()
            await decoder.step_begins()
            now[0] += 1.0 if max_wait else 0.5
            decoder.let()
            await decoder.step_begins()
            with pytest.raises(QueueTimeoutError, match=r"waited for [\d.]+ seconds and was not begun") as caught:
                await second.completion()
            assert caught.value.http_status == 503
            assert 1 <= caught.value.retry_after <= 60
            if max_wait == 0.0:
                with pytest.raises(QueueTimeoutError):
                    await third.completion()
            decoder.let_all()
            await first.completion()
            if max_wait:
                assert await third.completion() == alone([3], SHORT)

    in_loop(test)()


@in_loop
async def test_a_long_prompt_holds_up_running_texts_for_a_chunk_a_step_and_all_are_begun_in_order() -> None:
    decoder, recorder = GatedDecoder(tiny_config(n_positions=1000)), Recorder()
    begun: list[int] = []
    recorder.begun = lambda tokens, waited: begun.append(tokens)  # type: ignore[attr-defined]
    async with running(decoder, chunk_tokens=16, max_sequences=4, observer=recorder) as runner:
        talker = ask(runner, [1], LONG)
        await decoder.step_begins()
        lengths = [900, 3, 700, 5, 2, 800, 4]
        tickets = [ask(runner, [n + 1] * length) for n, length in enumerate(lengths)]
        decoder.let_all()
        talk, _ = await read(talker)
        for ticket in tickets:
            await ticket.completion()
    assert len(talk) == 50
    assert begun == [1, *lengths]
    # While it talked it had a token in every step, and no step had more than a chunk of others' prompts.
    while_talking = decoder.batches[:50]
    assert all(any(sequence == 1 for sequence, _, _ in batch) for batch in while_talking)
    assert all(sum(tokens for _, _, tokens in batch if tokens > 1) <= 16 for batch in decoder.batches)


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
    thread = kept[0]._thread
    thread.join(60)
    assert not thread.is_alive()
    assert decoder.held == {}
    assert not kept[0].alive
    assert len(decoder.batches) == 1


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


def test_a_failure_keeps_its_type() -> None:
    # The HTTP status of an answer is that of its error's class.
    async def test() -> None:
        decoder = ToyDecoder()
        decoder.forks_left = 0
        async with running(decoder) as runner:
            with pytest.raises(DecoderError, match="no memory is left for a fork"):
                await ask(runner, [1], SamplingParams(n=2)).completion()
            decoder.forks_left = None

    in_loop(test)()
    assert Failure(1, DecoderError("")).error.http_status == 500
