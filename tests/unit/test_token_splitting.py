"""Split tokens spell the same text, in all ways that the vocabulary knows, as often as asked, always the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_trainer
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from test_loader import data_of
from tiny_run import make_data, metrics_of
from tiny_trainer import StopError, assert_same_run, run, stop_at

from gptwo.errors import TrainingError
from gptwo.training.batch import IGNORED
from gptwo.training.config import TrainConfig
from gptwo.training.loader import BatchLoader
from gptwo.training.schedule import split_share
from gptwo.training.shards import NOT_LEARNED, Shard, ShardHeader
from gptwo.training.token_data import TokenData
from gptwo.training.token_splitting import TokenSplitter

surroundings, data, whole = tiny_trainer.surroundings, tiny_trainer.data, tiny_trainer.whole

TOKENS = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"x", b"<|endoftext|>", b"ca", b"caabc"]
END = 7
SPLITTER = TokenSplitter([*TOKENS, b"<|", b"endoftext|>"], whole=[END])


def spelled(ids: np.ndarray) -> bytes:
    return b"".join(TOKENS[i] for i in ids)


@given(st.lists(st.integers(0, 9), max_size=60), st.floats(0.0, 1.0), st.integers(0, 2**32))
def test_the_text_stays_and_each_part_knows_its_token(tokens: list[int], share: float, seed: int) -> None:
    ids = np.array(tokens, dtype=np.int64)
    split, source = SPLITTER.split(ids, share, np.random.default_rng(seed))
    assert spelled(split) == spelled(ids)
    assert [spelled(split[source == i]) for i in range(len(ids))] == [TOKENS[i] for i in tokens]
    assert (split == END).sum() == tokens.count(END)  # is not spelled by what happens to have its bytes
    assert_array_equal(ids, tokens)  # what was given is as it was
    again, _ = SPLITTER.split(ids, share, np.random.default_rng(seed))
    assert_array_equal(again, split)


def test_a_share_of_nothing_splits_nothing_and_of_all_everything() -> None:
    ids = np.array([5, 0, 9, 7], dtype=np.int64)
    assert_array_equal(SPLITTER.split(ids, 0.0, np.random.default_rng(0))[0], ids)
    assert_array_equal(SPLITTER.split(ids, 1.0, np.random.default_rng(0))[0], [0, 1, 2, 0, 2, 0, 0, 1, 2, 7])


def test_tokens_are_split_as_often_as_asked_and_all_ways_are_equally_frequent() -> None:
    ids = np.full(20_000, 5, dtype=np.int64)  # abc: a|bc or ab|c
    split, source = SPLITTER.split(ids, 0.25, np.random.default_rng(1))
    parts = np.bincount(source)
    assert (parts > 1).mean() == pytest.approx(0.25, abs=0.01)
    assert (parts > 2).mean() == pytest.approx(0.25 * 0.25, abs=0.01)  # the longer part is split again
    first = split[np.flatnonzero(np.diff(source, prepend=-1))]
    whole_half = [(first == token).mean() for token in (5, 3)]
    assert whole_half == pytest.approx([0.75, 0.125 * 0.75], abs=0.01)


def test_a_vocabulary_of_characters_has_no_way_to_split() -> None:
    assert not TokenSplitter([b"a", b"b", b"ab"], whole=[2]).ways.any()
    assert TokenSplitter([b"a", b"b", b"ab"]).ways.tolist() == [0, 0, 1]


# ---- in batches


def loader(learned: bool = True) -> BatchLoader:
    ids = np.tile(np.array([5, 9, 6, 7], dtype=np.uint32), 40)
    ids[2::4] |= 0 if learned else np.uint32(NOT_LEARNED)
    header = ShardHeader("uint32", len(ids), len(ids), 12, "", "", masked=True)
    data = TokenData((Shard(Path("x.bin"), header, ids),))
    return BatchLoader(
        data, block_size=12, batch_size=4, seed=3, splitter=SPLITTER, split_share=lambda k: 0.5 if k < 9 else 0.0
    )


def test_a_window_holds_its_text_in_more_tokens_and_as_many_as_ever() -> None:
    plain = BatchLoader(loader().data, block_size=12, batch_size=4, seed=3)
    for number in range(9):
        batch, before = loader().batch(number), plain.batch(number)
        assert batch.inputs.shape == before.inputs.shape == (4, 12)
        assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        for row, old in zip(batch.inputs, before.inputs, strict=True):
            assert spelled(old).startswith(spelled(row))
            assert len(spelled(row)) < len(spelled(old))
    assert_array_equal(loader().batch(9).inputs, plain.batch(9).inputs)


def test_what_is_not_to_be_learned_is_not_when_it_is_split() -> None:
    batch = loader(learned=False).batch(0)
    assert (batch.targets == IGNORED).any()
    assert (batch.inputs == 6).any()
    assert not (batch.targets == 6).any()


def test_a_batch_does_not_depend_on_those_before_it() -> None:
    one = loader()
    for number in (5, 0, 5):
        assert_array_equal(one.batch(number).inputs, loader().batch(number).inputs)
    assert (one.batch(0).inputs != one.batch(len(one.data) // 12 // 4).inputs).any()


# ---- in a run


def test_the_share_falls_with_the_learning_rate_to_nothing() -> None:
    config = TrainConfig(split_tokens=0.2, steps=10, warmup_steps=2, schedule="linear", lr=1.0, min_lr=0.5)
    shares = [split_share(step, config) for step in range(11)]
    assert shares == pytest.approx([0.2, 0.2, 0.2, 0.175, 0.15, 0.125, 0.1, 0.075, 0.05, 0.025, 0.0])
    for schedule in ("constant", "cosine"):
        same = TrainConfig(split_tokens=0.2, steps=10, warmup_steps=0, schedule=schedule, lr=1.0, min_lr=1.0)
        assert {split_share(step, same) for step in range(10)} == {0.2}


def test_a_run_with_split_tokens_is_another_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    words = make_data(tmp_path / "words", tokenizer="bpe:280")
    run(words, tmp_path / "plain")
    run(words, tmp_path / "whole", split_tokens=0.5)
    with pytest.raises(StopError):
        run(words, tmp_path / "run", stop_at(7), split_tokens=0.5)
    run(words, tmp_path / "run", split_tokens=0.5)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert metrics_of(tmp_path / "run")[0]["loss"] != metrics_of(tmp_path / "plain")[0]["loss"]


def test_a_tokenizer_of_characters_is_refused(tmp_path: Path) -> None:
    characters = make_data(tmp_path / "characters", tokenizer="char")
    with pytest.raises(TrainingError, match="split_tokens is for tokens of several characters"):
        run(characters, tmp_path / "run", split_tokens=0.1)


def test_without_a_splitter_no_share_is_asked_for() -> None:
    def share(number: int) -> float:
        raise AssertionError(number)

    one = BatchLoader(data_of(50), block_size=4, batch_size=1, seed=0, split_share=share)
    assert one.batch(0).inputs.shape == (1, 4)
