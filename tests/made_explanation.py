"""An explanation of nothing: made-up arrays of the shapes that a model's have."""

from __future__ import annotations

import numpy as np

from gptwo.inspection.attention import AttentionPatterns, InductionScores
from gptwo.inspection.attribution import LogitAttribution
from gptwo.inspection.explanation import Explanation
from gptwo.inspection.lens import LogitLens
from gptwo.inspection.prediction import LossByPosition, SamplingSpread
from gptwo.sampling import SamplingParams

HOSTILE = "</script><img src=x onerror=alert(1)> & <!-- \"'`\n\t\r\0\u2028 é 😀 $data ${x}"
VOCABULARY = 200


def made_explanation(prompt: str = "All the world is a stage", *, layers: int = 3, heads: int = 4) -> Explanation:
    """Arrays drawn with one seed; the tokens are the prompt's words."""
    draw = np.random.default_rng(5)
    tokens = tuple(piece if i == 0 else " " + piece for i, piece in enumerate(prompt.split(" ")))
    size = len(tokens)
    ids = tuple(i % VOCABULARY for i in range(size))
    names = {i: f" word{i}" for i in range(VOCABULARY)} | dict(zip(ids, tokens, strict=True))
    scores = draw.normal(0, 2, (layers, heads, size, size)) + np.where(np.tri(size) > 0, 0, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    shares = np.sort(draw.dirichlet(np.full(8, 0.4), (layers + 1, size)), -1)[..., ::-1][..., :5]
    losses = np.concatenate([[np.nan], draw.gamma(2, 1.2, size - 1)]).astype(np.float32)
    logits = draw.normal(0, 3, VOCABULARY).astype(np.float32)
    return Explanation(
        model="made-up",
        parameters=1234567,
        prompt=prompt,
        names=names,
        lens=LogitLens(
            token_ids=ids,
            tokens=tokens,
            layers=("embeddings", *(f"h.{layer}" for layer in range(layers))),
            positions=np.arange(size),
            top_ids=draw.integers(0, VOCABULARY, (layers + 1, size, 5)),
            top_probabilities=shares.astype(np.float32),
            target_ids=np.array([*ids[1:], 0]),
            target_probabilities=draw.random((layers + 1, size)).astype(np.float32),
            target_ranks=np.ones((layers + 1, size), np.int64),
            entropies=np.ones((layers + 1, size), np.float32),
        ),
        attention=AttentionPatterns(ids, tokens, (weights / weights.sum(-1, keepdims=True)).astype(np.float32)),
        attributions=tuple(
            LogitAttribution(
                token_ids=ids,
                tokens=tokens,
                position=position,
                target_id=int(draw.integers(VOCABULARY)),
                other_id=None,
                difference=0.0,
                token_embedding=float(draw.normal()),
                position_embedding=float(draw.normal()),
                heads=draw.normal(0, 1, (layers, heads)),
                attention_biases=draw.normal(0, 0.2, layers),
                mlps=draw.normal(0, 2, layers),
                final_bias=0.3,
            )
            for position in range(size)
        ),
        losses=LossByPosition(ids, tokens, losses, np.arange(size), losses[1:].astype(float), np.ones(size - 1, int))
        if size > 1
        else None,
        induction=InductionScores(*(draw.beta(0.5, 3, (layers, heads)) for _ in range(3)), 6.9, 2.1),
        spread=SamplingSpread(
            ids,
            tokens,
            (SamplingParams(temperature=1.0),),
            ("temperature 1",),
            np.argsort(-logits)[:20],
            tuple(f" word{i}" for i in np.argsort(-logits)[:20]),
            np.full((1, 20), 0.05),
            np.array([VOCABULARY]),
            np.array([3.0]),
        ),
        next_logits=logits,
    )
