"""What the model predicts: the loss by position, and the next token's probabilities as sampling changes them.

P positions of the model, N tokens of a text, V vocabulary, S settings, K tokens shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError
from gptwo.inspection.changes import Floats
from gptwo.inspection.checks import check_inspector
from gptwo.inspection.result import Result
from gptwo.options import integer, shown
from gptwo.sampling import SamplingParams
from gptwo.sampling.processors import apply_vocabulary_size, largest
from gptwo.sampling.sampler import distribution, reshaped
from gptwo.scoring import windows

if TYPE_CHECKING:
    from gptwo.inspection.inspector import Inspector
    from gptwo.loading import Prompt

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


def log_probabilities(logits: Floats) -> Floats:
    """Natural logarithms of the probabilities: float32 (..., V) -> float32 (..., V)."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True, eq=False, repr=False)
class LossByPosition(Result):
    """How well each token of a text is predicted, and whether more text before it helps."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The text of each token."""
    losses: Floats
    """(N,): nats of each token; NaN for the first, which nothing predicts."""
    seen: Integers
    """(N,): how many tokens the model saw before each, 0 to P."""
    mean: Doubles
    """(P,): the mean loss of the tokens before which 1, 2, … P were seen; NaN where there is none."""
    counts: Integers
    """(P,): how many tokens each mean is of."""


def loss_by_position(inspector: Inspector, prompt: Prompt) -> LossByPosition:
    """The loss of every token of a text, which is read in windows of all the model's positions, one after another.

    Raises InvalidRequestError for a text of fewer than two tokens, and what `Inspector.run` does.
    """
    check_inspector(inspector)
    ids = inspector.encode(prompt, endless=True)
    if len(ids) < 2:
        raise InvalidRequestError("the loss needs a text of two tokens or more", param="prompt")
    positions = inspector.config.n_positions
    losses, seen = np.full(len(ids), np.nan, np.float32), np.zeros(len(ids), np.int64)
    for window in windows(len(ids), positions, stride=positions):
        read, predicted = ids[window.start : window.end - 1], np.array(ids[window.start + 1 : window.end])
        logs = log_probabilities(inspector.run(read)["logits"])  # (T, V)
        losses[window.start + 1 : window.end] = -np.take_along_axis(logs, predicted[:, None], axis=1)[:, 0]
        seen[window.start + 1 : window.end] = np.arange(1, len(read) + 1)
    counts = np.bincount(seen[1:], minlength=positions + 1)[1:]
    sums = np.bincount(seen[1:], weights=losses[1:], minlength=positions + 1)[1:]
    mean = np.divide(sums, counts, out=np.full(positions, np.nan), where=counts > 0)
    return LossByPosition(ids, inspector.token_texts(ids), losses, seen, mean, counts)


DEFAULT_SETTINGS = (
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=1.5),
    SamplingParams(top_k=5),
    SamplingParams(top_k=40),
    SamplingParams(top_p=0.5),
    SamplingParams(top_p=0.9),
)


@dataclass(frozen=True, eq=False, repr=False)
class SamplingSpread(Result):
    """The probabilities that the next token is drawn from, under several settings."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The text's tokens."""
    settings: tuple[SamplingParams, ...]
    labels: tuple[str, ...]
    """S names of the settings, such as "temperature 0.5, top-k 40"."""
    top_ids: Integers
    """(K,): the tokens that the model finds likeliest, likeliest first."""
    top_tokens: tuple[str, ...]
    probabilities: Doubles
    """(S, K): of those tokens under each setting; 0 for one that cannot be drawn."""
    kept: Integers
    """(S,): how many tokens are left: all but what top-k, top-p, min-p and typical-p cut; temperature 0 leaves one."""
    entropies: Doubles
    """(S,), in nats."""


def sampling_spread(
    inspector: Inspector,
    prompt: Prompt,
    settings: SamplingParams | Sequence[SamplingParams] | None = None,
    *,
    top: int = 20,
) -> SamplingSpread:
    """How temperature, top-k, top-p and the like spread the probability of the token after a text.

    settings: sampling parameters, one or several, of which those count that shape the distribution; penalties and
    biases, which depend on what was generated, do not. None is DEFAULT_SETTINGS: temperatures 1, 0.5 and 1.5, top-k 5
    and 40, top-p 0.5 and 0.9. top: K. Raises InvalidRequestError, and what `Inspector.run` does.
    """
    check_inspector(inspector)
    if settings is None:
        settings = DEFAULT_SETTINGS
    elif isinstance(settings, SamplingParams):
        settings = (settings,)
    for params in settings if isinstance(settings, Iterable) else (settings,):
        if not isinstance(params, SamplingParams):
            raise InvalidRequestError(f"settings hold {shown(params)}, expected SamplingParams", param="settings")
    run = inspector.run(prompt)
    vocabulary = inspector.config.vocab_size if inspector.tokenizer is None else inspector.tokenizer.vocab_size
    logits = apply_vocabulary_size(run["logits"][-1], vocabulary)
    shown_ids = largest(logits, min(int(integer(1)("top", top) or 0), vocabulary))
    spread = [distribution(logits, params) for params in settings]  # S x (V,)
    left = [int(np.isfinite(reshaped(logits, params)).sum()) for params in settings]
    return SamplingSpread(
        token_ids=run.token_ids,
        tokens=run.tokens,
        settings=tuple(settings),
        labels=tuple(_label(params) for params in settings),
        top_ids=shown_ids,
        top_tokens=inspector.token_texts(shown_ids.tolist()),
        probabilities=np.array([one[shown_ids] for one in spread]).reshape(len(spread), len(shown_ids)),
        kept=np.array(left, np.int64),
        entropies=np.array([-(one[one > 0] * np.log(one[one > 0])).sum() for one in spread], np.float64),
    )


def _label(params: SamplingParams) -> str:
    """The settings that differ from those that change nothing."""
    parts = [
        f"{name} {value:g}"
        for name, value, neutral in (
            ("temperature", params.temperature, 1.0),
            ("top-k", params.top_k, 0),
            ("top-p", params.top_p, 1.0),
            ("min-p", params.min_p, 0.0),
            ("typical-p", params.typical_p, 1.0),
        )
        if value != neutral
    ]
    return ", ".join(parts) or "temperature 1"
