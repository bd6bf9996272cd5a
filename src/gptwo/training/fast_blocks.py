"""The blocks of `model.py` for training on a CPU: one autograd function each, with its backward pass written out.

Autograd would keep 16 C numbers a position of each block for the backward pass; this keeps 10 C, and makes the two
layer norms, the activation and what is dropped again, which costs little. With bf16 products the residual stream, the
layer norms and all sums stay float32, and every array is cast once. With activation checkpointing it keeps C, and the
backward pass makes all but the block's last product again. Tested equal to the blocks themselves.

B batch, T positions, N = B·T, C width, H heads, D = C / H, F inner width of the MLP.
Source: the chain rule; Ba et al. 2016 for the layer norm, Hendrycks and Gimpel 2016 for GELU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gptwo.model import GPT2, Block, Conv1D, document_mask, document_positions
from gptwo.training.dropout import Dropout
from gptwo.training.gelu import APPROXIMATE, gelu, gelu_and_gradient

aten = torch.ops.aten


def can_run(model: GPT2) -> bool:
    """Whether `fast_body` can stand for the model's body: on a CPU, without LoRA or hooked modules."""
    config = model.config
    return (
        model.wte.weight.device.type == "cpu"
        and config.activation_function in APPROXIMATE
        and not config.reorder_and_upcast_attn
        and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        and all(
            type(layer) is Conv1D
            for block in _blocks(model)
            for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        )
    )


def fast_body(
    model: GPT2,
    token_ids: Tensor,
    *,
    documents: Tensor | None = None,
    head_gradient: list[Tensor] | None = None,
) -> Tensor:
    """The last hidden states (B, T, C), those of `model.body(token_ids, documents=documents)`.

    Matrix products are of autocast's dtype where it is on. What is dropped in training mode follows from PyTorch's
    generator, but is not what the model's own dropout would draw from it. head_gradient:
    where a tied head, used after this, puts its gradient (V, C) in its backward pass; the embedding's few rows are then
    added to that one. Autograd would make a sum of two such arrays, GPT-2's largest.
    """
    batch, length = token_ids.shape
    if length > model.config.n_positions:
        raise ValueError(f"{length} positions, but the model has {model.config.n_positions}")
    weight = model.wte.weight
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else weight.dtype
    if documents is None:
        positions, mask = torch.arange(length), None
    else:
        positions, mask = document_positions(documents), document_mask(documents)
    at_embedding, *at_blocks = _dropouts(model)
    with torch.autocast("cpu", enabled=False):
        x = _Embedding.apply(weight, token_ids, head_gradient)  # type: ignore[no-untyped-call]  # (B, T, C)
        x = at_embedding(x + model.wpe(positions)).flatten(0, 1)  # (N, C)
        for layer, block in enumerate(_blocks(model)):
            how = _How(
                batch=batch,
                heads=block.attn.heads,
                scale=block.attn.scale,
                mask=mask,
                epsilon=model.config.layer_norm_epsilon,
                gelu=APPROXIMATE[model.config.activation_function],
                dtype=dtype,
                dropouts=at_blocks[3 * layer : 3 * layer + 3],
                keep=not model.activation_checkpointing,
            )
            x = _Block.apply(x, how, *_weights(block))  # type: ignore[no-untyped-call]
        return model.ln_f(x).unflatten(0, (batch, length))  # type: ignore[no-any-return]


def _blocks(model: GPT2) -> list[Block]:
    return [block for block in model.h if isinstance(block, Block)]


def _dropouts(model: GPT2) -> list[Dropout]:
    """At the embedding, then in each block: of the attention's weights, its result, and the MLP's result."""
    config = model.config
    probabilities = [config.embd_pdrop, *[config.attn_pdrop, config.resid_pdrop, config.resid_pdrop] * config.n_layer]
    if not model.training or not any(probabilities):
        return [Dropout(0.0, 0) for _ in probabilities]
    seeds = torch.randint(2**63 - 1, (len(probabilities),)).tolist()
    return [Dropout(probability, seed) for probability, seed in zip(probabilities, seeds, strict=True)]


def _weights(block: Block) -> tuple[Tensor, ...]:
    layers = block.ln_1, block.attn.c_attn, block.attn.c_proj, block.ln_2, block.mlp.c_fc, block.mlp.c_proj
    return tuple(parameter for layer in layers for parameter in (layer.weight, layer.bias))


class _Embedding(torch.autograd.Function):
    """Rows of the weight (V, C) by ids (...) -> (..., C)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, head_gradient: list[Tensor] | None) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.head_gradient = len(weight), head_gradient
        return F.embedding(ids, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        if not ctx.head_gradient:
            return aten.embedding_dense_backward(grad, ids, ctx.rows, -1, False), None, None
        # The head's gradient waits for this one to be added to it, and is that of the weight then.
        ctx.head_gradient.pop().index_add_(0, ids.flatten(), grad.flatten(0, -2))
        return None, None, None


@dataclass(frozen=True)
class _How:
    """What a block has to know beside its input and weights."""

    batch: int
    heads: int
    scale: float
    mask: Tensor | None
    epsilon: float
    gelu: str
    dtype: torch.dtype
    """Of matrix products."""
    dropouts: list[Dropout]
    """Of the attention's weights, of its result, of the MLP's result."""
    keep: bool
    """What is inside, for the backward pass, or make it again there."""


class _Block(torch.autograd.Function):
    """x (N, C) -> (N, C): attention, then the MLP, each behind a layer norm and added to the residual stream."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: _How, *weights: Tensor) -> Tensor:
        # The matrices in the dtype of products; layer norms and biases as they are.
        cast = [weight.to(how.dtype) if weight.dim() == 2 else weight for weight in weights]
        inside = _inside(x, how, *cast)
        *_, middle, _, _, u = inside
        out, out_bias = cast[-2:]
        result = how.dropouts[2](torch.addmm(out_bias.to(how.dtype), gelu(u, how.gelu), out))  # (N, C)
        ctx.how = how
        ctx.save_for_backward(x, *cast, *(inside if how.keep else ()))
        return result.add_(middle) if result.dtype == middle.dtype else middle + result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        how: _How = ctx.how
        x, *cast = ctx.saved_tensors[:13]
        inside = ctx.saved_tensors[13:] or _inside(x, how, *cast)
        mean_1, scale_1, qkv, y, normaliser, middle, mean_2, scale_2, u = inside
        ln_1, ln_1_bias, attn, _, proj, _, ln_2, ln_2_bias, fc, _, out, _ = cast
        dtype, width = how.dtype, [x.shape[1]]
        drop_weights, drop_attended, drop_result = how.dropouts
        all_three = [True, True, True]

        # The MLP.
        grad_result = drop_result(grad)
        g = grad_result.to(dtype)  # (N, C)
        grad_u = g @ out.t()  # (N, F), of the activation at first
        activated = gelu_and_gradient(u, grad_u, how.gelu)  # (N, F)
        grad_out, grad_out_bias = activated.t() @ g, grad_result.sum(0)
        del activated, grad_result
        n = _normalised(middle, mean_2, scale_2, ln_2, ln_2_bias).to(dtype)  # (N, C)
        grad_fc, grad_fc_bias = n.t() @ grad_u, grad_u.sum(0, dtype=x.dtype)
        grad_n = (grad_u @ fc.t()).to(x.dtype)  # (N, C)
        del grad_u
        grad_middle, grad_ln_2, grad_ln_2_bias = aten.native_layer_norm_backward(
            grad_n, middle, width, mean_2, scale_2, ln_2, ln_2_bias, all_three
        )
        grad_middle.add_(grad)  # what went around the MLP

        # The attention.
        grad_attended = drop_attended(grad_middle)
        g = grad_attended.to(dtype)  # (N, C)
        grad_proj, grad_proj_bias = _merge_heads(y).t() @ g, grad_attended.sum(0)
        del grad_attended
        grad_y = _split_heads(g @ proj.t(), how.batch, how.heads)  # (B, H, T, D)
        heads_of = _queries_keys_values(qkv, how.batch, how.heads)
        if drop_weights.probability:
            grads = _attend_backward(grad_y, *heads_of, how.mask, how.scale, drop_weights)
        else:
            grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_y, *heads_of, y, normaliser, 0.0, how.mask is None,
                attn_mask=_additive(how.mask, dtype), scale=how.scale,
            )  # fmt: skip
        grad_qkv = torch.cat([_merge_heads(each) for each in grads], dim=1)  # (N, 3 C)
        n = _normalised(x, mean_1, scale_1, ln_1, ln_1_bias).to(dtype)  # (N, C)
        grad_attn, grad_attn_bias = n.t() @ grad_qkv, grad_qkv.sum(0, dtype=x.dtype)
        grad_n = (grad_qkv @ attn.t()).to(x.dtype)  # (N, C)
        grad_x, grad_ln_1, grad_ln_1_bias = aten.native_layer_norm_backward(
            grad_n, x, width, mean_1, scale_1, ln_1, ln_1_bias, all_three
        )
        grad_x.add_(grad_middle)  # what went around the attention

        grad_attn, grad_proj, grad_fc, grad_out = (
            each.to(x.dtype) for each in (grad_attn, grad_proj, grad_fc, grad_out)
        )
        return (
            grad_x, None,
            grad_ln_1, grad_ln_1_bias, grad_attn, grad_attn_bias, grad_proj, grad_proj_bias,
            grad_ln_2, grad_ln_2_bias, grad_fc, grad_fc_bias, grad_out, grad_out_bias,
        )  # fmt: skip


def _inside(x: Tensor, how: _How, *weights: Tensor) -> tuple[Any, ...]:
    """All of a block before the activation, as its backward pass needs it: tensors, and None where there is none.

    Means and inverse deviations of the layer norms are (N, 1), q, k and v side by side (N, 3 C), what attention gives
    (B, H, T, D), its normaliser (B, H, T), the residual stream after it (N, C), the activation's input (N, F).
    """
    ln_1, ln_1_bias, attn, attn_bias, proj, proj_bias, ln_2, ln_2_bias, fc, fc_bias, _, _ = weights
    dtype, width = how.dtype, [x.shape[1]]
    drop_weights, drop_attended, _ = how.dropouts
    n, mean_1, scale_1 = aten.native_layer_norm(x, width, ln_1, ln_1_bias, how.epsilon)
    qkv = torch.addmm(attn_bias.to(dtype), n.to(dtype), attn)  # (N, 3 C)
    heads_of = _queries_keys_values(qkv, how.batch, how.heads)
    if drop_weights.probability:
        y, normaliser = _attend(*heads_of, how.mask, how.scale, drop_weights), None
    else:
        y, normaliser = aten._scaled_dot_product_flash_attention_for_cpu(
            *heads_of, is_causal=how.mask is None, attn_mask=_additive(how.mask, dtype), scale=how.scale
        )  # (B, H, T, D), with T before H in memory
    middle = drop_attended(torch.addmm(proj_bias.to(dtype), _merge_heads(y), proj))  # (N, C)
    middle = middle.add_(x) if middle.dtype == x.dtype else x + middle
    n, mean_2, scale_2 = aten.native_layer_norm(middle, width, ln_2, ln_2_bias, how.epsilon)
    u = torch.addmm(fc_bias.to(dtype), n.to(dtype), fc)  # (N, F)
    return mean_1, scale_1, qkv, y, normaliser, middle, mean_2, scale_2, u


def _split_heads(x: Tensor, batch: int, heads: int) -> Tensor:
    """(N, C) -> a view (B, H, T, D)."""
    return x.view(batch, -1, heads, x.shape[1] // heads).transpose(1, 2)


def _queries_keys_values(qkv: Tensor, batch: int, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3 C) -> three views (B, H, T, D)."""
    q, k, v = (_split_heads(part, batch, heads) for part in qkv.chunk(3, dim=1))
    return q, k, v


def _merge_heads(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (N, C), a view where T lies before H in memory."""
    return x.transpose(1, 2).flatten(2).flatten(0, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, drop_weights: Dropout) -> Tensor:
    """Attention whose weights are dropped, which flash attention for CPUs cannot do: all (B, H, T, D)."""
    seen = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril() if mask is None else mask
    weights = (q @ k.mT * scale).masked_fill_(~seen, float("-inf")).softmax(-1)  # (B, H, T, T)
    return drop_weights(weights) @ v


def _attend_backward(
    grad_y: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, drop_weights: Dropout
) -> tuple[Tensor, ...]:
    """The gradients of q, k and v: (B, H, T, T) numbers are made again here and never kept from layer to layer."""
    with torch.enable_grad():
        q, k, v = (each.detach().requires_grad_() for each in (q, k, v))
        y = _attend(q, k, v, mask, scale, drop_weights)
    return torch.autograd.grad(y, (q, k, v), grad_y)


def _normalised(x: Tensor, mean: Tensor, scale: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """The layer norm's output, again."""
    return torch.addcmul(bias, (x - mean).mul_(scale), gain)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 where a bool mask is true, -inf elsewhere."""
    return None if mask is None else torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))
