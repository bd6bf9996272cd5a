"""The optimizers' groups, and the learning rate over the steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptwo.config import GPTConfig
from gptwo.errors import InvalidRequestError
from gptwo.model import GPT2
from gptwo.training.config import TrainConfig
from gptwo.training.optimizer import make_optimizers
from gptwo.training.schedule import learning_rate


def model(*, tied: bool = True) -> GPT2:
    shape = GPTConfig(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=tied)
    return GPT2(shape).initialize(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_decay_and_vectors_do_not(tied: bool) -> None:
    network = model(tied=tied)
    (adamw,) = make_optimizers(network, TrainConfig(weight_decay=0.3))
    decaying, still = adamw.param_groups
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decaying_names = {names[id(parameter)] for parameter in decaying["params"]}
    still_names = {names[id(parameter)] for parameter in still["params"]}
    assert decaying_names | still_names == set(names.values())
    assert decaying_names & still_names == set()
    assert all(name.endswith(".bias") or ".ln_" in f".{name}" for name in still_names)
    assert {"wte.weight", "wpe.weight", "h.1.mlp.c_fc.weight"} <= decaying_names
    assert ("lm_head.weight" in decaying_names) is not tied


def test_a_frozen_parameter_is_left_out() -> None:
    network = model()
    network.wpe.weight.requires_grad_(False)
    groups = [group for optimizer in make_optimizers(network, TrainConfig()) for group in optimizer.param_groups]
    assert all(parameter is not network.wpe.weight for group in groups for parameter in group["params"])


def test_the_optimizers_settings_are_the_runs() -> None:
    config = TrainConfig(lr=0.02, beta1=0.8, beta2=0.9)
    (adamw,) = make_optimizers(model(), config)
    for group in adamw.param_groups:
        assert (group["lr"], group["betas"]) == (0.02, (0.8, 0.9))


# ---- the learning rate


def test_the_learning_rate_is_the_one_worked_out_by_hand() -> None:
    config = TrainConfig(lr=1.0, min_lr=0.2, warmup_steps=4, steps=12)
    rates = [learning_rate(step, config) for step in range(13)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]  # a line up
    assert rates[4] == 1.0  # the cosine begins at its top
    assert rates[6] == pytest.approx(0.2 + 0.4 * (1 + math.sqrt(0.5)))  # a quarter of half a turn
    assert rates[8] == pytest.approx(0.6)  # half way
    assert rates[10] == pytest.approx(0.2 + 0.4 * (1 - math.sqrt(0.5)))
    assert rates[12] == pytest.approx(0.2)  # where the next step would be
    assert rates[11] > 0.2


def test_without_warm_up_the_first_rate_is_the_highest() -> None:
    assert learning_rate(0, TrainConfig(lr=0.5, warmup_steps=0, steps=10)) == 0.5


def test_a_run_shorter_than_its_warm_up_only_rises() -> None:
    config = TrainConfig(lr=1.0, warmup_steps=10, steps=5)
    assert [learning_rate(step, config) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_the_last_rate_is_a_tenth_unless_it_is_set() -> None:
    assert TrainConfig(lr=0.5).final_lr == 0.05
    assert TrainConfig(lr=0.5, min_lr=0.0).final_lr == 0.0
    with pytest.raises(InvalidRequestError, match=r"min_lr is 0\.6, expected at most lr"):
        TrainConfig(lr=0.5, min_lr=0.6)


def test_a_linear_schedule_is_the_one_worked_out_by_hand() -> None:
    config = TrainConfig(lr=1.0, min_lr=0.2, warmup_steps=2, steps=6, schedule="linear")
    rates = [learning_rate(step, config) for step in range(7)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2])


def test_warm_up_stable_decay_is_the_one_worked_out_by_hand() -> None:
    config = TrainConfig(lr=1.0, min_lr=0.0, warmup_steps=2, steps=10, schedule="wsd", decay_fraction=0.4)
    rates = [learning_rate(step, config) for step in range(11)]
    assert rates == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])
    longer = TrainConfig(lr=1.0, min_lr=0.0, warmup_steps=2, steps=100, schedule="wsd", decay_fraction=0.4)
    assert [learning_rate(step, longer) for step in range(6)] == rates[:6]  # which does not know how long the run is


def test_a_decay_that_takes_the_whole_run_begins_behind_the_warm_up() -> None:
    wsd = TrainConfig(lr=1.0, warmup_steps=3, steps=9, schedule="wsd", decay_fraction=1.0)
    linear = TrainConfig(lr=1.0, warmup_steps=3, steps=9, schedule="linear")
    assert [learning_rate(step, wsd) for step in range(9)] == [learning_rate(step, linear) for step in range(9)]


def test_a_constant_rate_stays_after_its_warm_up() -> None:
    config = TrainConfig(lr=0.3, warmup_steps=2, steps=5, schedule="constant")
    assert [learning_rate(step, config) for step in range(5)] == pytest.approx([0.15, 0.3, 0.3, 0.3, 0.3])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 100),
    st.integers(0, 130),
    st.floats(1e-6, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from(["cosine", "linear", "wsd", "constant"]),
    st.floats(0.0, 1.0),
)
def test_the_rate_rises_then_falls_and_stays_between_its_ends(
    steps: int, warmup: int, lr: float, share: float, schedule: Any, fraction: float
) -> None:
    config = TrainConfig(
        lr=lr, min_lr=lr * share, warmup_steps=warmup, steps=steps, schedule=schedule, decay_fraction=fraction
    )
    rates = [learning_rate(step, config) for step in range(steps)]
    top = min(warmup, steps)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0.0 < max(rates) <= lr * (1 + 1e-12)
    assert all(rate >= config.final_lr * (1 - 1e-12) for rate in rates[top:])
