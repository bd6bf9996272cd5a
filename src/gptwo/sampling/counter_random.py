"""Random numbers that depend on where they are used and on nothing else.

A counter-based generator has no state: the number for (seed, sequence, position) is a function of those three, so
neither the batch a request is served in, nor the order in which its tokens are drawn, nor a restart can change it.

The generator is Philox4x32 with 10 rounds: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011, section 4.3. It needs only 32-bit words and two 32 x 32 -> 64 bit products a round, so that any
language repeats it exactly.
"""

from __future__ import annotations

Block = tuple[int, int, int, int]

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio, and the square root of 3 less 1, as 32-bit fractions


def philox(counter: Block, key: tuple[int, int]) -> Block:
    """Four random 32-bit words out of a counter of four and a key of two.

    Example: philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    """
    a, b, c, d = counter
    first, second = key
    for _ in range(_ROUNDS):
        low, high = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b, c, d = (high >> 32) ^ b ^ first, high & _WORD, (low >> 32) ^ d ^ second, low & _WORD
        first, second = (first + _KEY_STEPS[0]) & _WORD, (second + _KEY_STEPS[1]) & _WORD
    return a, b, c, d


def uniform(seed: int, sequence: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits.

    seed: 64 bits; a negative one is read as two's complement, so -1 is 2**64 - 1. sequence: which of the sequences that
    share the seed, and position: which token of it; both 0 to 2**64 - 1.

    The key is the seed, low word first; the counter is position (low, high) and then sequence (low, high). The first
    two words that come out, the second above the first, give their upper 53 bits.
    """
    key = (seed & _WORD, (seed >> 32) & _WORD)
    counter = (position & _WORD, (position >> 32) & _WORD, sequence & _WORD, (sequence >> 32) & _WORD)
    low, high, _, _ = philox(counter, key)
    return float(((high << 32 | low) >> 11) * 2.0**-53)
