"""What an engine has counted since it began."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Statistics:
    """Counters; each only grows."""

    computed_tokens: int = 0
    """Tokens of texts that went through the model, those of a window again each time that it slides."""
    prefix_lookups: int = 0
    """Prompts that were looked up among the blocks that are held."""
    prefix_hits: int = 0
    """Those of which at least one block was there."""
    prefix_tokens: int = 0
    """Prompt tokens that were not computed because they were held."""
    drafted_tokens: int = 0
    """Tokens that were guessed and checked."""
    accepted_tokens: int = 0
    """Those of them that were right."""
