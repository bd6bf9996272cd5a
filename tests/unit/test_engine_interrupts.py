"""An exception at any point of a step, Ctrl-C above all, costs one request at most, and no other notices."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny_models import TOKENIZER, ToyDecoder, finish

from gptwo.engine import Completion, Engine, Failure, Piece
from gptwo.engine import sampling_run as sampling_module
from gptwo.errors import DecoderError, GptwoError, OutOfMemoryError
from gptwo.language_model import LanguageModel
from gptwo.sampling import BeamParams, SamplingParams

PARAMS = [
    SamplingParams(max_tokens=1, seed=1, ignore_eos=True),
    SamplingParams(max_tokens=4, n=2, seed=2, ignore_eos=True),
    BeamParams(num_beams=3, max_tokens=3, ignore_eos=True),
    SamplingParams(max_tokens=3, seed=3, ignore_eos=True),
]
PROMPTS = [[1, 2], [1, 2, 3], [4, 5], [6]]


def raises_once(method: Callable[..., Any], error: BaseException, moment: str, call: int = 1) -> Callable[..., Any]:
    """The method, but that call number `call` raises, before or after the work."""
    calls = 0

    def patched(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and moment == "before":
            raise error
        result = method(*arguments, **named)
        if calls == call:
            raise error
        return result

    return patched


def begun() -> tuple[Engine, ToyDecoder, list[int]]:
    decoder = ToyDecoder()
    engine = Engine(decoder, TOKENIZER)
    return engine, decoder, [engine.add(prompt, params) for prompt, params in zip(PROMPTS, PARAMS, strict=True)]


def said(engine: Engine, error: type[BaseException] | None = None) -> dict[int, list[Any]]:
    """What an engine says of each request to its end; with `error`, that came out of exactly one step."""
    events: list[Any] = []
    if error is not None:
        with pytest.raises(error):
            finish(engine, events)
    finish(engine, events)
    return {n: [event for event in events if event.request_id == n] for n in {event.request_id for event in events}}


EXPECTED = said(begun()[0])


# ---- while a request takes its logits


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("victim", "call"), [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)])
def test_an_interruption_while_tokens_are_chosen_ends_that_request_only(victim: int, call: int, moment: str) -> None:
    engine, decoder, requests = begun()
    run = engine._waiting[victim]
    run.accept = raises_once(run.accept, KeyboardInterrupt(), moment, call)
    found = said(engine, KeyboardInterrupt)
    end = found.pop(requests[victim])[-1]
    assert isinstance(end, Failure)
    assert isinstance(end.error, DecoderError)
    assert "interrupted" in str(end.error)
    assert found == {request: events for request, events in EXPECTED.items() if request != requests[victim]}
    assert decoder.held == {}


@pytest.mark.parametrize(
    ("error", "reported"),
    [(MemoryError, OutOfMemoryError), (KeyError, GptwoError), (DecoderError, DecoderError)],
)
@pytest.mark.parametrize("method", ["accept", "feeds"])
@pytest.mark.parametrize("victim", range(4))
def test_any_other_exception_of_a_request_is_its_failure(
    victim: int, method: str, error: type[Exception], reported: type[GptwoError]
) -> None:
    engine, decoder, requests = begun()
    run = engine._waiting[victim]
    setattr(run, method, raises_once(getattr(run, method), error("x"), "after"))
    found = said(engine)
    (end,) = found.pop(requests[victim])
    assert isinstance(end, Failure)
    assert type(end.error) is reported
    assert found == {request: events for request, events in EXPECTED.items() if request != requests[victim]}
    assert decoder.held == {}


def test_a_defect_is_told_in_one_sentence_with_its_cause() -> None:
    engine, _, requests = begun()
    error = KeyError("x")
    engine._waiting[0].accept = raises_once(engine._waiting[0].accept, error, "before")
    (end,) = said(engine)[requests[0]]
    assert str(end.error) == "a defect of gptwo ended this request: KeyError: 'x'"
    assert end.error.__cause__ is error


def test_a_second_interruption_while_the_first_is_cleaned_up_after_loses_nothing_either() -> None:
    engine, decoder, requests = begun()
    run = engine._waiting[1]
    run.accept = raises_once(run.accept, KeyboardInterrupt(), "after")
    run.release = raises_once(run.release, KeyboardInterrupt(), "after")
    found = said(engine, KeyboardInterrupt)
    assert isinstance(found.pop(requests[1])[-1], Failure)
    assert found == {request: events for request, events in EXPECTED.items() if request != requests[1]}
    assert decoder.held == {}


@pytest.mark.parametrize("close", range(1, 6))
def test_closing_a_sequence_can_be_interrupted_and_done_again(close: int) -> None:
    engine, decoder, requests = begun()
    decoder.close = raises_once(decoder.close, KeyboardInterrupt(), "after", close)  # type: ignore[method-assign]
    found = said(engine, KeyboardInterrupt)
    assert found.keys() == set(requests)
    assert sum(events != EXPECTED[request] for request, events in found.items()) <= 1
    assert decoder.held == {}


def test_what_an_interrupted_step_said_comes_next_and_without_a_forward_pass() -> None:
    engine, decoder, requests = begun()
    run = engine._waiting[1]
    run.accept = raises_once(run.accept, KeyboardInterrupt(), "before")
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    assert engine.has_work()
    assert engine.knows(requests[0])  # done, but not said
    passes = len(decoder.batches)
    events = engine.step()
    assert [type(event) for event in events] == [Piece, Completion, Failure]
    assert len(decoder.batches) == passes
    assert not engine.knows(requests[0])
    assert engine.knows(requests[2])


def test_nothing_more_is_said_of_a_request_that_is_cancelled_after_the_interruption() -> None:
    engine, decoder, requests = begun()
    run = engine._waiting[1]
    run.accept = raises_once(run.accept, KeyboardInterrupt(), "before")
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    for request in requests[:2]:
        engine.cancel(request)
    assert said(engine) == {request: EXPECTED[request] for request in requests[2:]}
    assert decoder.held == {}


@pytest.mark.parametrize("taken", range(1, 5))
def test_no_request_is_lost_on_its_way_from_those_that_wait(taken: int) -> None:
    class Interrupted(deque[Any]):
        left = taken

        def popleft(self) -> Any:
            item = super().popleft()
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return item

    engine, decoder, _ = begun()
    engine._waiting = Interrupted(engine._waiting)
    assert said(engine, KeyboardInterrupt) == EXPECTED
    assert decoder.held == {}


# ---- memory


def test_logits_that_memory_does_not_hold_fail_the_request_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMemory:
        float32 = np.float32

        @staticmethod
        def empty(*_: Any, **__: Any) -> Any:
            raise MemoryError

    engine, decoder, requests = begun()
    greedy = engine.add([1, 2, 3], SamplingParams(max_tokens=0), keep_logits="all")
    monkeypatch.setattr(sampling_module, "np", NoMemory)
    found = said(engine)
    (end,) = found.pop(greedy)
    assert isinstance(end.error, OutOfMemoryError)
    assert str(end.error) == "there is not enough memory for the logits of 3 tokens"
    assert found == EXPECTED
    assert found.keys() == set(requests)
    assert decoder.held == {}


# ---- a model that threads share


class InterruptedLock:
    """A lock whose owner is interrupted, once, as soon as it has it: as by a signal before `acquire` gives its result.

    The signal itself cannot be timed, but this is where Python handles it: behind the call.
    """

    def __init__(self, lock: Any, call: int) -> None:
        self._lock, self._left = lock, call

    def acquire(self, *arguments: Any, **named: Any) -> bool:
        taken = self._lock.acquire(*arguments, **named)
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        return bool(taken)

    def release(self) -> None:
        self._lock.release()


def in_another_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(60)
    assert results, "the other thread waits for ever, or failed"
    return results[0]


@pytest.mark.parametrize("call", range(1, 8))
def test_who_is_interrupted_while_taking_the_lock_does_not_keep_it(call: int) -> None:
    decoder = ToyDecoder()
    lm = LanguageModel(decoder, TOKENIZER)
    expected = lm.generate("Speak", PARAMS[3])
    lm._shared._lock = InterruptedLock(lm._shared._lock, call)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        [lm.generate("Speak", PARAMS[3]) for _ in range(4)]
    assert in_another_thread(lambda: lm.generate("Speak", PARAMS[3])) == expected
    assert lm._shared._inbox == {}
    assert not lm._shared.engine.has_work()
    assert decoder.held == {}


def test_another_thread_has_all_its_pieces_though_the_one_that_ran_the_step_was_interrupted() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    expected = list(lm.stream("Speak", PARAMS[3]))
    stream = lm.stream("Speak", PARAMS[3])
    mine = lm._add_all(["All"], [PARAMS[3]])
    run = lm._shared.engine._waiting[-1]
    run.accept = raises_once(run.accept, KeyboardInterrupt(), "before", 2)
    with pytest.raises(KeyboardInterrupt):
        lm._complete(mine)
    pieces = in_another_thread(lambda: list(stream))
    assert [(piece.text, piece.token_ids) for piece in pieces] == [(one.text, one.token_ids) for one in expected]


@pytest.mark.parametrize("taken", range(1, 4))
def test_an_event_reaches_its_inbox_once_though_its_delivery_was_interrupted(taken: int) -> None:
    class Interrupted(deque[Any]):
        left = taken

        def popleft(self) -> Any:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return super().popleft()

    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    expected = list(lm.stream("Speak", PARAMS[3]))
    stream = lm.stream("Speak", PARAMS[3])
    lm._shared._arrived = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        lm.generate("All", PARAMS[3])
    assert [piece.token_ids for piece in stream] == [piece.token_ids for piece in expected]


def test_a_request_that_nobody_has_the_number_of_is_dropped() -> None:
    decoder = ToyDecoder()
    lm = LanguageModel(decoder, TOKENIZER)
    add = lm._shared.engine.add
    lm._shared.engine.add = raises_once(add, KeyboardInterrupt(), "after")  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        lm.generate("Speak", SamplingParams(max_tokens=50, ignore_eos=True))
    lm.generate("All", SamplingParams(max_tokens=2, ignore_eos=True))
    assert not lm._shared.engine.has_work()
    assert decoder.held == {}


def test_who_waits_for_a_request_that_the_engine_does_not_know_is_told() -> None:
    lm = LanguageModel(ToyDecoder(), TOKENIZER)
    stream = lm.stream("Speak", PARAMS[3])
    lm._shared.engine.cancel(*lm._shared._inbox)  # what only a defect could do
    with pytest.raises(DecoderError, match="lost this request"):
        list(stream)


def test_a_model_that_is_called_from_within_its_own_step_says_so() -> None:
    decoder = ToyDecoder()
    lm = LanguageModel(decoder, TOKENIZER)
    errors = []

    def handler() -> None:
        with pytest.raises(DecoderError, match="from within its own work") as caught:
            lm.generate("All", PARAMS[3])
        errors.append(caught.value)

    forward = decoder.forward

    def interrupted(*arrays: Any) -> Any:
        handler()
        return forward(*arrays)

    expected = lm.generate("Speak", PARAMS[3])
    decoder.forward = interrupted  # type: ignore[method-assign]
    assert lm.generate("Speak", PARAMS[3]) == expected
    assert len(errors) == 3
