"""An explanation of nothing: made-up arrays of the shapes that a model's have."""

from __future__ import annotations

import numpy as np

from gptwo.inspection.explanation import Explanation

HOSTILE = "</script><img src=x onerror=alert(1)> & <!-- \"'`\n\t\r\0\u2028 é 😀 "


def made_explanation(
    prompt: str = "All the world is a stage", *, layers: int = 3, heads: int = 4, words: list[str] | None = None
) -> Explanation:
    """Arrays drawn with one seed; the tokens are the prompt's words, or those given."""
    draw = np.random.default_rng(5)
    pieces = [piece if i == 0 else " " + piece for i, piece in enumerate(prompt.split(" "))] if words is None else words
    size, vocabulary = len(pieces), 200
    ids = np.arange(size) % vocabulary
    names = {i: f" word{i}" for i in range(vocabulary)} | {int(i): piece for i, piece in zip(ids, pieces, strict=True)}
    scores = draw.normal(0, 2, (layers, heads, size, size)) + np.where(np.tri(size) > 0, 0, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    shares = np.sort(draw.dirichlet(np.full(8, 0.4), (layers + 1, size)), -1)[..., ::-1][..., :5]
    f4 = np.float32
    return Explanation(
        model="made-up",
        parameters=1234567,
        prompt=prompt,
        token_ids=ids,
        names=names,
        lens_ids=draw.integers(0, vocabulary, (layers + 1, size, 5)),
        lens_probabilities=shares.astype(f4),
        lens_following=draw.random((layers + 1, size - 1)).astype(f4),
        attention=(weights / weights.sum(-1, keepdims=True)).astype(f4),
        target_ids=draw.integers(0, vocabulary, size),
        head_attribution=draw.normal(0, 1, (size, layers, heads)).astype(f4),
        mlp_attribution=draw.normal(0, 2, (size, layers)).astype(f4),
        other_attribution={"embeddings": draw.normal(0, 1, size).astype(f4)},
        losses=draw.gamma(2, 1.2, size - 1).astype(f4),
        induction=draw.beta(0.5, 3, (layers, heads)).astype(f4),
        next_logits=draw.normal(0, 3, vocabulary).astype(f4),
    )
