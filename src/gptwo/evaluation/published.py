"""Figures that others published, to stand beside ours where model, data and measure are the same."""

from __future__ import annotations

from dataclasses import dataclass

_PAPER = "GPT-2 paper, its own preparation of the text"
_SIZES = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


@dataclass(frozen=True)
class Published:
    """One figure. Shares are from 0 to 1, as ours are."""

    model: str
    """The name of a published size."""
    task: str
    measure: str
    value: float
    source: str
    stride: int | None = None
    """That it was measured with, where it depends on one."""


PUBLISHED = (
    Published("gpt2", "lambada", "last_token_accuracy", 0.4667, "reproduced by others"),
    Published("gpt2", "lambada", "accuracy", 0.3256, "lm-eval, lambada_openai"),
    Published("gpt2", "lambada", "perplexity", 40.06, "lm-eval, lambada_openai"),
    *(
        Published(model, "lambada", "last_token_accuracy", accuracy, _PAPER)
        for model, accuracy in zip(_SIZES, (0.4599, 0.5548, 0.6012, 0.6324), strict=True)
    ),
    *(
        Published(model, "lambada", "perplexity", perplexity, _PAPER)
        for model, perplexity in zip(_SIZES, (35.13, 15.60, 10.87, 8.63), strict=True)
    ),
    Published("gpt2", "hellaswag", "accuracy_norm", 0.3114, "lm-eval"),
    Published("gpt2-xl", "hellaswag", "accuracy_norm", 0.5089, "lm-eval"),
    Published("gpt2", "cbt-cn", "accuracy", 0.8765, _PAPER),
    Published("gpt2-xl", "cbt-cn", "accuracy", 0.9330, _PAPER),
    Published("gpt2", "cbt-ne", "accuracy", 0.834, _PAPER),
    Published("gpt2-xl", "cbt-ne", "accuracy", 0.8905, _PAPER),
    Published("gpt2-large", "wikitext2", "perplexity", 16.44, "transformers' guide to perplexity", stride=512),
    Published(
        "gpt2-large",
        "wikitext2",
        "perplexity",
        19.44,
        "transformers' guide to perplexity, without the first token of each window",
        stride=1024,
    ),
)


def published(model: str | None, task: str, measure: str, stride: int | None = None) -> list[Published]:
    """The figures for a published size, a task on its released data, and a measure. stride: that was used, if any."""
    return [
        figure
        for figure in PUBLISHED
        if (figure.model, figure.task, figure.measure) == (model, task, measure) and figure.stride in (None, stride)
    ]
