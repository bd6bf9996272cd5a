"""Which documents, or which part of one, are kept for validation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.training.records import Document
from gptwo.training.split import Split, end_of, plan_split

SHARES = st.floats(0.0, 1.0, exclude_max=True) | st.sampled_from([0.1, 0.5, 0.0005, 0.9, 1e-9])


def documents(lengths: list[int], prompt: str | None = None) -> Iterator[Document]:
    for number, length in enumerate(lengths):
        yield Document(number, ["x" * (length // 2), "x" * (length - length // 2)], prompt)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.floats(0.0, 1.0, exclude_max=True))
def test_of_few_documents_the_last_share_of_the_characters_is_for_validation(lengths: list[int], share: float) -> None:
    number, characters = end_of(lengths, share)
    total = sum(lengths)
    train = sum(lengths[:number]) + characters
    assert train == total - min(int(total * share), total - 1)
    assert number == len(lengths) or characters < lengths[number]


def test_a_text_is_split_at_a_character() -> None:
    assert end_of([4, 4], 0.25) == (1, 2)
    assert end_of([4, 4], 0.5) == (1, 0)
    assert end_of([4, 4], 0.75) == (0, 2)
    assert end_of([4, 4], 0.0) == (2, 0)
    split = plan_split(documents([4, 4]), 0.25)
    assert [split.training_characters(number) for number in range(2)] == [None, 2]
    split = plan_split(documents([4, 4]), 0.75 - 1e-9)
    assert split.end is None  # two documents are enough for one to be three quarters of them


@settings(max_examples=200, deadline=None)
@given(SHARES, st.integers(0, 2**63 - 1), st.integers(0, 3000))
def test_of_many_documents_the_share_is_met_by_whole_ones(share: float, seed: int, count: int) -> None:
    split = Split(share, seed)
    kept = [split.training_characters(number) for number in range(count)]
    assert set(kept) <= {None, 0}
    assert math.floor(count * share) - 1 <= kept.count(0) <= math.ceil(count * share) + 1


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-3, 1.0, exclude_max=True), st.integers(0, 2**63 - 1))
def test_documents_enough_for_one_of_them_to_be_the_share_give_one(share: float, seed: int) -> None:
    count = math.ceil(1 / Fraction(str(share)))
    split = plan_split(documents([1] * count), share, seed)
    kept = [split.training_characters(number) for number in range(count)]
    if split.end is None:
        assert kept.count(0) >= 1
    assert count == 1 or None in kept or share > 0.5


def test_a_documents_part_hangs_on_the_seed_and_its_number_alone() -> None:
    def kept(seed: int) -> list[int]:
        split = Split(0.01, seed)
        return [number for number in range(5000) if split.training_characters(number) == 0]

    assert kept(3) == kept(3)
    assert kept(3) != kept(4)
    assert len(kept(3)) == 50
    assert len({number % 100 for number in kept(3)}) > 25  # not every hundredth


def test_no_more_documents_are_looked_at_than_it_takes() -> None:
    taken = 0

    def endless() -> Iterator[Document]:
        nonlocal taken
        while True:
            taken += 1
            yield Document(taken, ["text"])

    assert plan_split(endless(), 0.1).end is None
    assert taken == 10
    assert plan_split(endless(), 0.0).training_characters(5) is None
    assert taken == 10


@pytest.mark.parametrize(
    ("lengths", "share", "end"), [([9], 0.5, (1, 0)), ([9, 9, 9], 0.1, (2, 0)), ([1, 1, 99], 0.3, (2, 0))]
)
def test_a_completion_is_never_cut_from_its_prompt(lengths: list[int], share: float, end: tuple[int, int]) -> None:
    assert plan_split(documents(lengths, prompt="?"), share).end == end
