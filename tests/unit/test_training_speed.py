"""What a training step is measured against: the operations it must make, and those the machine can make."""

from __future__ import annotations

import pytest
import torch

from gptwo.config import GPTConfig
from gptwo.training.flops import flops_per_token
from gptwo.training.peak import matrix_peak


def test_the_124m_model_takes_the_operations_worked_out_by_hand() -> None:
    matrices = 12 * (768 * 2304 + 768 * 768 + 2 * 768 * 3072) + 50257 * 768
    attention = 12 * 4 * 768 * 512.5
    assert flops_per_token(GPTConfig(), 1024) == 6 * matrices + 3 * attention == 797_870_592
    assert flops_per_token(GPTConfig(), 1024, frozen=True) == 4 * matrices + 3 * attention


def test_most_operations_are_six_for_each_weight() -> None:
    config = GPTConfig()
    assert flops_per_token(config, 1) == pytest.approx(6 * config.parameter_count, rel=0.01)


def test_an_inner_width_of_its_own_counts() -> None:
    wide, narrow = (flops_per_token(GPTConfig(n_inner=inner), 8) for inner in (3072, 1024))
    assert wide - narrow == 6 * 12 * 2 * 768 * 2048


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_peak_is_a_speed_that_a_processor_can_have(dtype: torch.dtype) -> None:
    assert 1e6 < matrix_peak(dtype, seconds=0.01) < 1e16
