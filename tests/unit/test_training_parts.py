"""Small parts of a training step: GELU in pieces, clipping, and memory that is kept."""

from __future__ import annotations

import ctypes
import math
import subprocess
import sys

import pytest
import torch

from gptwo.training.clipping import clip_gradients
from gptwo.training.gelu import APPROXIMATE, gelu, gelu_and_gradient

ROWS = 150  # two whole pieces and a part of one


@pytest.mark.parametrize("approximate", sorted(set(APPROXIMATE.values())))
def test_gelu_and_its_gradient_are_pytorchs(approximate: str) -> None:
    u = torch.linspace(-30, 30, ROWS * 7, dtype=torch.float64).view(ROWS, 7).requires_grad_()
    expected = torch.nn.functional.gelu(u, approximate=approximate)
    gradient = torch.linspace(-1, 2, ROWS * 7, dtype=torch.float64).view(ROWS, 7)
    (expected_gradient,) = torch.autograd.grad(expected, u, gradient)
    torch.testing.assert_close(gelu(u.detach(), approximate), expected.detach())
    torch.testing.assert_close(gelu_and_gradient(u.detach(), gradient, approximate), expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gelu_is_right_to_the_last_digits_where_numbers_are_large_or_few(dtype: torch.dtype) -> None:
    u = torch.tensor([[-1e4, -20.0, -1e-8, 0.0, 1e-8, 20.0, 1e4]], dtype=dtype)
    for approximate in set(APPROXIMATE.values()):
        expected = torch.nn.functional.gelu(u.double(), approximate=approximate).to(dtype)
        torch.testing.assert_close(gelu(u, approximate), expected)
        gradient = torch.ones_like(u)
        assert gelu_and_gradient(u, gradient, approximate).dtype == dtype
        assert torch.isfinite(gradient).all()
        assert gradient[0, -1] == 1.0
        assert gradient[0, 0] == 0.0


def gradients() -> list[torch.nn.Parameter]:
    """Three parameters, one of them without a gradient, whose gradients have the norm 13."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[2].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 12.0])
    return parameters


@pytest.mark.parametrize("limit", [0.0, 1.0, 13.0, 14.0])
def test_gradients_are_clipped_as_pytorch_clips_them(limit: float) -> None:
    ours, theirs = gradients(), gradients()
    norm = clip_gradients(ours, limit)
    assert norm.item() == torch.nn.utils.clip_grad_norm_(theirs, limit or math.inf).item() == 13.0
    for one, other in zip(ours, theirs, strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None and other.grad is not None:
            assert torch.equal(one.grad, other.grad)


def test_a_gradient_that_is_not_a_number_is_found() -> None:
    parameters = gradients()
    assert parameters[0].grad is not None
    parameters[0].grad[0] = math.nan
    assert math.isnan(clip_gradients(parameters, 1.0).item())


KEEPING = """
import torch
from gptwo.training.memory import kept_memory

def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096

size = 1 << 28
before = resident()
with kept_memory():
    torch.ones(size // 4)
    kept = resident() - before
print(kept > size // 2, resident() - before < size // 2)
"""


def test_memory_is_kept_within_and_given_back_after() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("the C library is not glibc")
    # In a process of its own: what else this one has freed would serve as well.
    done = subprocess.run([sys.executable, "-c", KEEPING], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
