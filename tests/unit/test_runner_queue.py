"""Who waits for the engine, for how long, and how many may."""

from __future__ import annotations

import asyncio

import pytest
from tiny_models import tiny_config
from toy_runner import LONG, SHORT, GatedDecoder, Recorder, alone, ask, in_loop, read, running

from gptwo.errors import (
    InvalidRequestError,
    QueueFullError,
    QueueTimeoutError,
)
from gptwo.sampling import SamplingParams
from gptwo.server import engine_thread
from gptwo.server import runner as runner_module


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
        assert runner.full
        await decoder.step_begins()
        decoder.let()
        await decoder.step_begins()
        await asyncio.sleep(0)
        assert (runner.running, runner.waiting) == (2, 3)
        decoder.let_all()
        await asyncio.gather(*(ticket.completion() for ticket in tickets))
        assert (runner.running, runner.waiting) == (0, 0)
        assert not runner.full
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
    for module in (engine_thread, runner_module):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

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
