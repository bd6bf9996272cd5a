"""Direct logit attribution: what each part of the model adds to the logit of a token.

The head reads a sum: the embeddings, and what each attention head and each MLP added to the residual stream. With the
scale of the final layer norm held at what it was, the way from there to a logit is linear, so the logit is a sum too.

C width, L layers, H heads, D head size, V vocabulary.
Source: Elhage et al. 2021, "A mathematical framework for transformer circuits", section "The residual stream".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError
from gptwo.options import is_integer, shown

if TYPE_CHECKING:
    from gptwo.inspection.inspector import Inspector
    from gptwo.loading import Prompt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LogitAttribution:
    """The parts of a logit difference; all of them add up to it."""

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """The text of each token."""
    position: int
    """Where in the text the next token is predicted."""
    target_id: int
    other_id: int | None
    """The token that the target is compared with; None for the mean of the vocabulary."""
    difference: float
    """logit of the target - that of the other, as the model computes them."""
    token_embedding: float
    position_embedding: float
    heads: Doubles
    """(L, H): what each attention head adds."""
    attention_biases: Doubles
    """(L,): the bias of c_proj, which belongs to no head."""
    mlps: Doubles
    """(L,)"""
    final_bias: float
    """What the bias of the final layer norm adds."""

    @property
    def attentions(self) -> Doubles:
        """(L,): what each layer's attention adds, bias and all."""
        return np.asarray(self.heads.sum(axis=1) + self.attention_biases)

    @property
    def total(self) -> float:
        """The sum of all parts: `difference` up to rounding."""
        parts = self.attentions.sum() + self.mlps.sum()
        return float(parts) + self.token_embedding + self.position_embedding + self.final_bias


def logit_attribution(
    inspector: Inspector,
    prompt: Prompt,
    target: int | str | None = None,
    other: int | str | None = None,
    *,
    position: int = -1,
) -> LogitAttribution:
    """What each part adds to the logit of `target` over that of `other`, as the next token at `position`.

    target, other: tokens by id or text; a target of None is the likeliest, an other of None the mean over the
    vocabulary, for logits themselves are only known up to a constant. position: an index into the text's tokens.
    Raises InvalidRequestError for a text that is not one token, and for a position that is not there; and what
    `Inspector.run` does.
    """
    config = inspector.config
    last = f"h.{config.n_layer - 1}.resid_post"
    run = inspector.run(prompt, keep=["wte", "wpe", "h.*.attn.z", "h.*.mlp.out", last])
    length = len(run.token_ids)
    if not is_integer(position) or not -length <= position < length:
        raise InvalidRequestError(
            f"position is {shown(position)}, expected {-length} to {length - 1}: the text has {length} tokens",
            param="position",
        )
    at = position % length
    logits = inspector.unembed(run[last][at]).astype(np.float64)  # (V,)
    target_id = int(logits.argmax()) if target is None else inspector.token_id(target)
    other_id = None if other is None else inspector.token_id(other)

    weight = inspector.weight("lm_head.weight")  # (V, C)
    direction = weight[target_id].astype(np.float64)
    direction -= weight.mean(axis=0, dtype=np.float64) if other_id is None else weight[other_id]
    final = run[last][at].astype(np.float64)
    scale = np.sqrt(final.var() + config.layer_norm_epsilon)
    read = inspector.weight("ln_f.weight") * direction
    read = (read - read.mean()) / scale  # (C,): the layer norm takes the mean off what it reads; so may its reader

    heads = np.empty((config.n_layer, config.n_head))
    biases, mlps = np.empty(config.n_layer), np.empty(config.n_layer)
    for layer in range(config.n_layer):
        projection = f"h.{layer}.attn.c_proj"
        reads_z = (inspector.weight(f"{projection}.weight") @ read).reshape(config.n_head, -1)  # (H, D)
        heads[layer] = (run[f"h.{layer}.attn.z"][:, at] * reads_z).sum(axis=1)
        biases[layer] = inspector.weight(f"{projection}.bias") @ read
        mlps[layer] = run[f"h.{layer}.mlp.out"][at] @ read
    return LogitAttribution(
        token_ids=run.token_ids,
        tokens=run.tokens,
        position=at,
        target_id=target_id,
        other_id=other_id,
        difference=float(logits[target_id] - (logits.mean() if other_id is None else logits[other_id])),
        token_embedding=float(run["wte"][at] @ read),
        position_embedding=float(run["wpe"][at] @ read),
        heads=heads,
        attention_biases=biases,
        mlps=mlps,
        final_bias=float(inspector.weight("ln_f.bias") @ direction),
    )
