"""Looking inside a model: what is in its checkpoint, what it computes on the way, and what can be read from that.

`parameters` reads a checkpoint's tensors and needs no PyTorch; everything that runs a model does (the extra `torch`).
Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gptwo.errors import MissingDependencyError

if TYPE_CHECKING:
    from gptwo.inspection.activations import ACTIVATIONS, activation_names, activation_shape
    from gptwo.inspection.attention import AttentionPatterns, InductionScores, attention_patterns, induction_scores
    from gptwo.inspection.attribution import LogitAttribution, logit_attribution, logit_attributions
    from gptwo.inspection.changes import ablate
    from gptwo.inspection.explanation import Explanation, explain
    from gptwo.inspection.inspector import Inspector, Run
    from gptwo.inspection.lens import LogitLens, logit_lens
    from gptwo.inspection.page import page_of
    from gptwo.inspection.plots import (
        draw_all,
        plot_attention,
        plot_attribution,
        plot_induction,
        plot_lens,
        plot_losses,
        plot_spread,
    )
    from gptwo.inspection.prediction import LossByPosition, SamplingSpread, loss_by_position, sampling_spread

_HOMES = {
    "ACTIVATIONS": "activations",
    "AttentionPatterns": "attention",
    "Explanation": "explanation",
    "InductionScores": "attention",
    "Inspector": "inspector",
    "LogitAttribution": "attribution",
    "LogitLens": "lens",
    "LossByPosition": "prediction",
    "Run": "inspector",
    "SamplingSpread": "prediction",
    "ablate": "changes",
    "activation_names": "activations",
    "activation_shape": "activations",
    "attention_patterns": "attention",
    "draw_all": "plots",
    "explain": "explanation",
    "induction_scores": "attention",
    "logit_attribution": "attribution",
    "logit_attributions": "attribution",
    "logit_lens": "lens",
    "loss_by_position": "prediction",
    "page_of": "page",
    "plot_attention": "plots",
    "plot_attribution": "plots",
    "plot_induction": "plots",
    "plot_lens": "plots",
    "plot_losses": "plots",
    "plot_spread": "plots",
    "sampling_spread": "prediction",
}

__all__ = [
    "ACTIVATIONS",
    "AttentionPatterns",
    "Explanation",
    "InductionScores",
    "Inspector",
    "LogitAttribution",
    "LogitLens",
    "LossByPosition",
    "Run",
    "SamplingSpread",
    "ablate",
    "activation_names",
    "activation_shape",
    "attention_patterns",
    "draw_all",
    "explain",
    "induction_scores",
    "logit_attribution",
    "logit_attributions",
    "logit_lens",
    "loss_by_position",
    "page_of",
    "plot_attention",
    "plot_attribution",
    "plot_induction",
    "plot_lens",
    "plot_losses",
    "plot_spread",
    "sampling_spread",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gptwo.inspection' has no attribute {name!r}")
    try:
        value = getattr(importlib.import_module(f"gptwo.inspection.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependencyError(
            "looking into a running model needs PyTorch: pip install '.[torch]' in gptwo's checkout"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
