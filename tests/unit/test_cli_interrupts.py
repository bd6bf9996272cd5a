"""Ctrl-C in a loop that goes on after it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gptwo.cli.interrupts import Interrupts


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def press_twice() -> None:
    try:
        press()
    finally:
        press()  # while the first is on its way out


def test_ctrl_c_raises_only_where_it_is_allowed_and_only_once() -> None:
    with Interrupts() as interrupts:
        press()  # nowhere
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            press_twice()
        press()
        with pytest.raises(KeyboardInterrupt), interrupts.allowed():
            press()


def test_a_stream_ends_between_two_items_and_goes_on_the_next_time() -> None:
    finished = []

    def items() -> Iterator[int]:
        for i in range(5):
            if i == 2:
                press()  # in the middle of the step that makes an item
            finished.append(i)
            yield i

    with Interrupts() as interrupts:
        assert list(interrupts.until_pressed(items())) == [0, 1, 2]
        assert finished == [0, 1, 2]
        assert list(interrupts.until_pressed(iter("abc"))) == ["a", "b", "c"]


def test_a_second_ctrl_c_does_not_wait_for_the_item() -> None:
    def items() -> Iterator[int]:
        yield 0
        press()
        press()
        pytest.fail("the second one was ignored")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        list(interrupts.until_pressed(items()))


def test_the_handler_before_is_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_streams_without_it() -> None:
    def stream() -> list[int]:
        with Interrupts() as interrupts:
            return list(interrupts.until_pressed(iter([1, 2])))

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(stream).result() == [1, 2]
