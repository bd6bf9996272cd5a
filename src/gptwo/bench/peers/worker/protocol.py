"""What an engine offers, and the lines in which a worker is told what to do.

A worker answers each line of JSON on its standard input with one on its standard output:

    {"do": "generate", "prompts": [[1, 2], ...], "tokens": 8}
        ->  {"seconds": 0.1, "tokens": [[5, ...], ...], "peak": 1000, "version": "1.0"}; the peak is in bytes
    {"do": "end"}
        ->  nothing; the process ends

What the engine itself prints goes to standard error. An answer {"error": "..."} ends the process.
"""

from __future__ import annotations

from typing import Protocol


class Engine(Protocol):
    """One engine with one model in one format."""

    version: str

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Continue each prompt greedily by exactly `tokens` tokens, all prompts in one batch; the new token ids.

        The prompts are of one length. No token ends a text. Nothing may be kept from one call to the next.
        """
