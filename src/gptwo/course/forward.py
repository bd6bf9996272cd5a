"""GPT-2's forward pass once more, spelled out, and able to make every mistake that the checks know.

Without flags it is right. B batch, T new positions, S cached + new ones, C width, H heads, D = C / H, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]
"""Tensors by the checkpoint's names, matrices as (in, out)."""
Past = tuple[Tensor, Tensor]
"""Keys and values of one layer, each (B, H, S, D)."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda x: F.gelu(x, approximate="tanh"),
    "erf": F.gelu,
    "sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": F.silu,
    "relu": F.relu,
    "none": lambda x: x,
}


def part(weights: Weights, name: str) -> Weights:
    """The weights below `name`: of {"attn.c_attn.weight": w} those below "attn" are {"c_attn.weight": w}."""
    return {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}


def linear(x: Tensor, weights: Weights, bias: bool = True) -> Tensor:
    """x (..., in) -> (..., out)."""
    y = x @ weights["weight"]
    return y + weights["bias"] if bias else y


def layer_norm(x: Tensor, weights: Weights) -> Tensor:
    """x (..., C) -> (..., C)."""
    return F.layer_norm(x, x.shape[-1:], weights["weight"], weights["bias"], 1e-5)


def attention(
    x: Tensor,
    weights: Weights,
    heads: int,
    past: Past | None = None,
    *,
    order: str = "qkv",
    split: str = "heads",
    merge: str = "heads",
    scale: str = "head",
    mask: str = "causal",
    axis: str = "keys",
    cache: str = "append",
    bias: bool = True,
    project: bool = True,
    project_bias: bool = True,
    add_input: bool = False,
) -> tuple[Tensor, Past]:
    """x (B, T, C) -> (B, T, C), and keys and values for the next call."""
    batch, new, width = x.shape
    fused = linear(x, {"weight": weights["c_attn.weight"], "bias": weights["c_attn.bias"]}, bias)  # (B, T, 3C)
    if split == "per head":  # q, k and v of one head side by side
        parts = [t.transpose(1, 2) for t in fused.view(batch, new, heads, -1).chunk(3, dim=3)]
    else:
        parts = [split_heads(t, heads, split) for t in fused.chunk(3, dim=2)]
    named = dict(zip(order, parts, strict=True))
    q, k, v = (named[letter] for letter in "qkv")  # 3 x (B, H, T, D)
    old = None if cache == "ignored" else past
    if old is not None:
        joined = [(n, o) if cache == "in front" else (o, n) for o, n in zip(old, (k, v), strict=True)]
        keys, values = (torch.cat(pair, dim=2) for pair in joined)
    else:
        keys, values = k, v
    kept = (k, v) if cache == "newest only" else (keys, values)
    if cache == "first only" and past is not None:
        kept = past
    size = {"head": q.shape[-1], "true head": width // heads, "width": width, "none": 1, "square": q.shape[-1] ** 2}
    factor = math.sqrt(size["head"]) if scale == "times" else 1 / math.sqrt(size.get(scale, 1))
    scores = q @ keys.transpose(2, 3) * factor  # (B, H, T, S)
    length = scores.shape[3]  # S
    offset = {"strict": -1, "one ahead": 1}.get(mask, 0) + (0 if mask == "from the first" else length - new)
    seen = torch.ones(new, length, dtype=torch.bool).tril(offset)
    if mask == "future":
        seen = torch.ones(new, length, dtype=torch.bool).triu(length - new)
    if mask == "zeros":
        scores = scores * seen
    elif mask not in ("none", "after") and not (mask == "prompt only" and past is not None):
        scores = scores.masked_fill(~seen, -math.inf)
    shares = scores.softmax({"keys": 3, "queries": 2, "heads": 1}[axis])
    if mask == "after":
        shares = shares * seen
    if scale == "after":
        shares = shares / math.sqrt(q.shape[-1])
    y = shares @ values  # (B, H, T, D)
    y = y.reshape(batch, new, width) if merge == "no transpose" else y.transpose(1, 2).reshape(batch, new, width)
    if project:
        y = linear(y, {"weight": weights["c_proj.weight"], "bias": weights["c_proj.bias"]}, project_bias)
    return (x + y if add_input else y), kept


def split_heads(x: Tensor, heads: int, how: str = "heads") -> Tensor:
    """(B, T, C) -> (B, H, T, D)."""
    batch, new, _ = x.shape
    if how == "no transpose":
        return x.reshape(batch, heads, new, -1)
    if how == "interleaved":
        return x.view(batch, new, -1, heads).permute(0, 3, 1, 2)
    if how == "one":
        return x[:, None]
    return x.view(batch, new, heads, -1).transpose(1, 2)


def mlp(x: Tensor, weights: Weights, activation: str = "tanh") -> Tensor:
    """x (B, T, C) -> (B, T, C)."""
    return linear(ACTIVATIONS[activation](linear(x, part(weights, "c_fc"))), part(weights, "c_proj"))


def block(
    x: Tensor,
    weights: Weights,
    heads: int,
    past: Past | None = None,
    *,
    norm: str = "before",
    residual: str = "both",
    layout: str = "one after the other",
    activation: str = "tanh",
    **of_attention: Any,
) -> tuple[Tensor, Past]:
    """x (B, T, C) -> (B, T, C), and keys and values for the next call."""
    ln_1, ln_2 = part(weights, "ln_1"), part(weights, "ln_2")
    kept: list[Past] = []

    def attend(y: Tensor) -> Tensor:
        y, keys_values = attention(y, part(weights, "attn"), heads, past, **of_attention)
        kept.append(keys_values)
        return y

    def think(y: Tensor) -> Tensor:
        return mlp(y, part(weights, "mlp"), activation)

    def around(y: Tensor, inner: Callable[[Tensor], Tensor], first: bool) -> Tensor:
        which = ln_1 if first or norm == "first twice" else ln_2
        skip = residual in ("none", "second only" if first else "first only")
        without = norm == "none" or norm == ("second only" if first else "first only")
        if norm == "after":
            return layer_norm(inner(y) if skip else y + inner(y), which)
        if norm == "after inner":
            return layer_norm(inner(y), which) if skip else y + layer_norm(inner(y), which)
        z = y if without else layer_norm(y, which)
        return inner(z) if skip else (z if residual == "of the norm" else y) + inner(z)

    if layout == "side by side":
        return x + attend(layer_norm(x, ln_1)) + think(layer_norm(x, ln_2)), kept[0]
    if layout == "mlp first":
        x = x + think(layer_norm(x, ln_2))
        return x + attend(layer_norm(x, ln_1)), kept[0]
    if layout == "input again":  # the second residual starts from the block's input
        return x + think(layer_norm(around(x, attend, True), ln_2)), kept[0]
    x = around(x, attend, True)
    return around(x, think, False), kept[0]


def model(
    ids: Tensor,
    weights: Weights,
    heads: int,
    past: Sequence[Past] | None = None,
    *,
    positions: str = "right",
    final_norm: str = "there",
    output: str = "logits",
    embedding_scale: float = 1.0,
    blocks: str = "all",
    layer_cache: str = "own",
    **of_block: Any,
) -> tuple[Tensor, list[Past]]:
    """Ids (B, T) -> logits (B, T, V), and the keys and values of each layer."""
    new, wpe = ids.shape[1], weights["wpe.weight"]
    layers = len({name.split(".")[1] for name in weights if name.startswith("h.")})
    start = past[0][0].shape[2] if past is not None else 0
    start = {"from 1": start + 1, "restart": 0, "late": start + 1 if past is not None else 0}.get(positions, start)
    index = torch.arange(start, start + new)
    index = index.flip(0) if positions == "backwards" else torch.zeros_like(index) if positions == "all 0" else index
    x = weights["wte.weight"][ids] * embedding_scale  # (B, T, C)
    if positions != "none":
        x = x + wpe[index]
    kept = []
    order = {"reversed": range(layers)[::-1], "first only": range(1), "first again": [0] * layers}
    for layer in order.get(blocks, range(layers)):
        before = None if past is None else past[0 if layer_cache == "first" else layer]
        y, keys_values = block(x, part(weights, f"h.{layer}"), heads, before, **of_block)
        x = x if blocks == "thrown away" else y
        kept.append(keys_values)
    if final_norm == "there":
        x = layer_norm(x, part(weights, "ln_f"))
    if output == "hidden":
        return x, kept
    logits = x @ weights["wte.weight"].T  # (B, T, V)
    if output == "probabilities":
        logits = logits.softmax(-1)
    elif output == "log-probabilities":
        logits = logits.log_softmax(-1)
    elif output == "last":
        logits = logits[:, -1]
    elif output == "last kept":
        logits = logits[:, -1:]
    return logits, kept
