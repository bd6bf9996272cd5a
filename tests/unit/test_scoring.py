"""The windows in which a text is scored, and perplexity as a number."""

from __future__ import annotations

import math

import pytest

from gptwo.errors import InvalidRequestError
from gptwo.scoring import Window, default_stride, perplexity, windows


def test_windows_overlap_by_what_the_stride_leaves() -> None:
    assert list(windows(8, 4, 2)) == [Window(0, 4, 3), Window(2, 6, 2), Window(4, 8, 2)]
    assert list(windows(8, 4)) == list(windows(8, 4, 2))
    assert list(windows(5, 4, 3)) == [Window(0, 4, 3), Window(3, 5, 1)]
    assert list(windows(3, 4, 1)) == [Window(0, 3, 2)]
    assert list(windows(1, 4)) == []


def test_at_a_stride_of_all_positions_windows_share_the_token_between_them() -> None:
    assert list(windows(9, 4, 4)) == [Window(0, 5, 4), Window(4, 9, 4)]
    assert list(windows(10, 4, 4)) == [Window(0, 5, 4), Window(4, 9, 4), Window(8, 10, 1)]
    assert list(windows(3, 1)) == [Window(0, 2, 1), Window(1, 3, 1)]


@pytest.mark.parametrize("positions", [1, 2, 3, 7, 8])
def test_every_token_but_the_first_is_scored_once_behind_as_many_as_the_stride_leaves(positions: int) -> None:
    for stride in range(1, positions + 1):
        for length in range(1, 40):
            scored = [0] * length
            for start, end, fresh in windows(length, positions, stride):
                assert end - start - 1 <= positions  # the last is not fed
                for place in range(end - fresh, end):
                    scored[place] += 1
                    before = place - start
                    assert before >= 1
                    assert before >= min(place, positions - stride)
            assert scored == [0] + [1] * (length - 1)


@pytest.mark.parametrize("stride", [0, 5, -1, 1.5, True, "2"])
def test_a_stride_that_windows_cannot_have_is_refused(stride: object) -> None:
    with pytest.raises(InvalidRequestError, match="expected an integer from 1 to 4") as caught:
        list(windows(9, 4, stride))  # type: ignore[arg-type]
    assert caught.value.param == "stride"


def test_the_stride_is_half_of_the_positions_unless_given() -> None:
    assert [default_stride(positions) for positions in (1, 2, 3, 1024)] == [1, 1, 1, 512]


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert perplexity(2 * math.log(10.0), 2) == pytest.approx(10.0)
    assert math.isnan(perplexity(0.0, 0))
    assert perplexity(10_000.0, 1) == math.inf
