"""How fast this machine multiplies matrices: what a training step's operations per second are measured against."""

from __future__ import annotations

import time

import torch

SECONDS = 1.0
LARGEST = 8192


def matrix_peak(dtype: torch.dtype, device: str = "cpu", *, seconds: float = SECONDS) -> float:
    """Floating-point operations per second of the fastest square matrix product seen in about `seconds`.

    Squares double from 256 on as long as one product takes less than a tenth of the time: a graphics card needs large
    ones, a processor that has no bf16 of its own must not be given them. Uses torch's threads.
    """
    size, best = 128, 0.0
    took, started = 0.0, time.perf_counter()
    while size < LARGEST and 8 * took < seconds / 10:
        size *= 2
        one, other = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(one)
        took = min(_timed_product(one, other, out) for _ in range(3))
        best = max(best, 2.0 * size**3 / took)
    while time.perf_counter() - started < seconds:
        best = max(best, 2.0 * size**3 / _timed_product(one, other, out))
    return best


def _timed_product(one: torch.Tensor, other: torch.Tensor, out: torch.Tensor) -> float:
    started = time.perf_counter()
    torch.mm(one, other, out=out)
    if out.device.type == "cuda":
        torch.cuda.synchronize(out.device)
    elif out.device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - started
