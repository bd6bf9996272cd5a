"""Direct logit attribution: what each part of the model adds to the logit of a token.

The head reads a sum: the embeddings, and what each attention head and each MLP added to the residual stream. With the
scale of the final layer norm held at what it was, the way from there to a logit is linear, so the logit is a sum too.

C width, L layers, H heads, D head size, V vocabulary.
Source: Elhage et al. 2021, "A mathematical framework for transformer circuits", section "The residual stream".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptwo.errors import InvalidRequestError
from gptwo.inspection.checks import check_inspector
from gptwo.inspection.lens import ROWS_AT_ONCE
from gptwo.inspection.result import Result
from gptwo.options import is_integer, shown

if TYPE_CHECKING:
    from gptwo.inspection.inspector import Inspector, Run
    from gptwo.loading import Prompt

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class LogitAttribution(Result):
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
    run = _run(inspector, prompt)
    length = len(run.token_ids)
    if not is_integer(position) or not -length <= position < length:
        raise InvalidRequestError(
            f"position is {shown(position)}, expected {-length} to {length - 1}: the text has {length} tokens",
            param="position",
        )
    target_id = None if target is None else inspector.token_id(target)
    other_id = None if other is None else inspector.token_id(other)
    (attribution,) = _attributions(inspector, run, [position % length], target_id, other_id)
    return attribution


def logit_attributions(inspector: Inspector, prompt: Prompt) -> tuple[LogitAttribution, ...]:
    """`logit_attribution` at every position of a text, of the token that is likeliest there, from one run."""
    run = _run(inspector, prompt)
    return tuple(_attributions(inspector, run, range(len(run.token_ids)), None, None))


def _run(inspector: Inspector, prompt: Prompt) -> Run:
    check_inspector(inspector)
    return inspector.run(prompt, keep=["wte", "wpe", "h.*.attn.z", "h.*.mlp.out", _last(inspector)])


def _last(inspector: Inspector) -> str:
    return f"h.{inspector.config.n_layer - 1}.resid_post"


def _attributions(
    inspector: Inspector, run: Run, positions: Sequence[int], target_id: int | None, other_id: int | None
) -> Iterator[LogitAttribution]:
    """P positions at a time, so that each weight is read once."""
    config, at = inspector.config, np.array(positions)
    final = run[_last(inspector)][at]  # (P, C)
    target_ids: list[int] = []
    differences: list[float] = []
    for start in range(0, len(at), ROWS_AT_ONCE):
        for row in inspector.unembed(final[start : start + ROWS_AT_ONCE]).astype(np.float64):  # (V,)
            target_ids.append(int(row.argmax()) if target_id is None else target_id)
            differences.append(float(row[target_ids[-1]] - (row.mean() if other_id is None else row[other_id])))

    weight = inspector.weight("lm_head.weight")  # (V, C)
    base = weight.mean(axis=0, dtype=np.float64) if other_id is None else weight[other_id]
    directions = weight[target_ids].astype(np.float64) - base  # (P, C)
    scales = np.sqrt(final.astype(np.float64).var(axis=1) + config.layer_norm_epsilon)
    reads = inspector.weight("ln_f.weight") * directions
    # The layer norm takes the mean off what it reads; so may its reader.
    reads = (reads - reads.mean(axis=1, keepdims=True)) / scales[:, None]  # (P, C)

    heads = np.empty((len(at), config.n_layer, config.n_head))
    biases, mlps = np.empty((2, len(at), config.n_layer))
    for layer in range(config.n_layer):
        projection = f"h.{layer}.attn.c_proj"
        reads_z = reads @ inspector.weight(f"{projection}.weight").T  # (P, C)
        z = run[f"h.{layer}.attn.z"][:, at]  # (H, P, D)
        heads[:, layer] = np.einsum("phd,hpd->ph", reads_z.reshape(len(at), config.n_head, -1), z)
        biases[:, layer] = reads @ inspector.weight(f"{projection}.bias")
        mlps[:, layer] = (run[f"h.{layer}.mlp.out"][at] * reads).sum(axis=1)
    token, place = ((run[name][at] * reads).sum(axis=1) for name in ("wte", "wpe"))
    final_bias = directions @ inspector.weight("ln_f.bias")
    for i, difference in enumerate(differences):
        yield LogitAttribution(
            token_ids=run.token_ids,
            tokens=run.tokens,
            position=int(at[i]),
            target_id=target_ids[i],
            other_id=other_id,
            difference=difference,
            token_embedding=float(token[i]),
            position_embedding=float(place[i]),
            heads=heads[i],
            attention_biases=biases[i],
            mlps=mlps[i],
            final_bias=float(final_bias[i]),
        )
