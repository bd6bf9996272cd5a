"""gptwo: the GPT-2 family, whole.

>>> import gptwo
>>> lm = gptwo.load("shakespeare")
>>> lm.generate("ROMEO:", gptwo.SamplingParams(max_tokens=40, temperature=0.8, seed=1)).text

Names are imported when they are first used, so that `import gptwo` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gptwo.version import __version__

if TYPE_CHECKING:
    from gptwo.config import GPTConfig
    from gptwo.engine import Choice, Completion, Piece
    from gptwo.errors import GptwoError
    from gptwo.language_model import LanguageModel, load
    from gptwo.sampling import BeamParams, SamplingParams, StructuredOutputs
    from gptwo.scoring import Score
    from gptwo.tokenizer import Tokenizer

_HOMES = {
    "BeamParams": "gptwo.sampling",
    "Choice": "gptwo.engine",
    "Completion": "gptwo.engine",
    "GPTConfig": "gptwo.config",
    "GptwoError": "gptwo.errors",
    "LanguageModel": "gptwo.language_model",
    "Piece": "gptwo.engine",
    "SamplingParams": "gptwo.sampling",
    "Score": "gptwo.scoring",
    "StructuredOutputs": "gptwo.sampling",
    "Tokenizer": "gptwo.tokenizer",
    "load": "gptwo.language_model",
}

__all__ = [
    "BeamParams",
    "Choice",
    "Completion",
    "GPTConfig",
    "GptwoError",
    "LanguageModel",
    "Piece",
    "SamplingParams",
    "Score",
    "StructuredOutputs",
    "Tokenizer",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptwo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
