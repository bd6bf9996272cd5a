"""Exponentials and logarithms whose every bit is defined here, so that a text does not depend on the machine.

The `exp` and `log` of a system's library, and numpy's, may differ in the last bit from one machine to the next, and a
sum of floats differs with its order. Here every step is one rounding that IEEE 754 defines, and what is summed are
whole numbers: a token's mass is e^(logit - largest logit) in units of 2^-40, rounded. A probability is a mass over the
sum of masses; tokens some trillion times less likely than the likeliest have the mass 0. The core (csrc/row.cpp) does
the same.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Masses = npt.NDArray[np.int64]

MASS_BITS: Final = 40
LARGEST_ROW: Final = 2**22
"""So many masses can be summed in 64 bits."""

_F = np.float32
_LOG2_E = _F(1.44269504)
_LN2_HIGH, _LN2_LOW = _F(0.693359375), _F(-2.12194440e-4)
_MAGIC = _F(1.5 * 2**23)  # adding it leaves a float32 without a fraction


def masses(logits: npt.NDArray[np.float32]) -> Masses:
    """e^logit in units of 2^-40, rounded: float32 (V,), none above 0, -> int64 (V,).

    Example: masses of [0, -inf] are [2**40, 0]
    """
    return np.rint(_exp(logits).astype(np.float64) * 2.0**MASS_BITS).astype(np.int64)


def share_of(total: int, share: float) -> int:
    """The smallest whole number that is at least `share` of `total`, from 1 to total.

    Example: share_of(10, 0.25) == 3
    """
    wanted = math.ceil(share * float(total))
    return total if wanted >= float(total) else max(1, wanted)


def log(x: float) -> float:
    """The natural logarithm of a positive number, to about 1 ulp."""
    mantissa, exponent = math.frexp(x)
    if mantissa < 0.70710678118654752:
        mantissa, exponent = mantissa * 2.0, exponent - 1
    # ln m = 2 artanh s, by its series
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = 1.0 / 23
    for odd in range(21, 0, -2):
        series = series * square + 1.0 / odd
    return exponent * 0.693147180369123816490 + (2.0 * s * series + exponent * 1.90821492927058770002e-10)


def _exp(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """e^x for x <= 0, to about 2 ulp; below -64 that of -64. Taylor's series after x = n ln 2 + r, summed in pairs."""
    x = np.maximum(x, _F(-64.0))
    n = (x * _LOG2_E + _MAGIC) - _MAGIC
    r = (x - n * _LN2_HIGH) - n * _LN2_LOW
    r2 = r * r
    low = (r + _F(1.0)) + (r * _F(1.0 / 6) + _F(0.5)) * r2
    high = (r * _F(1.0 / 120) + _F(1.0 / 24)) + (r * _F(1.0 / 5040) + _F(1.0 / 720)) * r2
    return np.asarray(np.ldexp(low + high * (r2 * r2), n.astype(np.int32)))
