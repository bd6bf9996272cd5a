"""The cross-entropy of a language model without its logits: some rows at a time, gradients on the way.

The logits of all positions over GPT-2's 50,257 tokens are by far the largest array of a plain training step, and its
softmax and their gradient are two more. Here a chunk of rows goes from hidden states to logits, to probabilities and
to gradients in one buffer, and the next chunk takes its place.

N positions (B·T), C width, V vocabulary, R rows of a chunk.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gptwo.model import GPT2
from gptwo.training.fast_blocks import can_run, fast_body

IGNORED = -100
"""The target of a position from which nothing is to be learned."""

CHUNK_ROWS = 512
"""Each chunk reads and writes the head's gradient once: fewer are faster, and each row takes V numbers of memory."""


def chunked_cross_entropy(
    hidden: Tensor,
    head_weight: Tensor,
    targets: Tensor,
    *,
    chunk_rows: int = CHUNK_ROWS,
    divisor: float = 1.0,
    head_gradient: list[Tensor] | None = None,
) -> Tensor:
    """The cross-entropy in nats, summed over the targets that are not IGNORED; exact, as its gradients are.

    hidden: (N, C). head_weight: (V, C). targets: int64 (N,). Returns a float32 scalar (float64 for float64). Matrix
    products are those of `hidden`'s dtype, or of autocast's where it is on; softmax and sums are float32.
    divisor: the sum and its gradients are divided by it. To divide here is free; to divide the result is another pass
    over the gradient (V, C). head_gradient: see `fast_body`.

    With p the softmax of a row of logits, loss = -log p[target] and its gradient with respect to the logits is
    p - onehot(target). Source: Goodfellow et al. 2016, section 6.2.2.3.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        scale = (targets != IGNORED).to(torch.promote_types(dtype, torch.float32)) / divisor  # (N,)
        if not torch.is_grad_enabled():
            hidden, head_weight = hidden.detach(), head_weight.detach()
        arguments = hidden.to(dtype), head_weight, targets.clamp(min=0), scale, chunk_rows, head_gradient
        loss: Tensor = _ChunkedCrossEntropy.apply(*arguments)  # type: ignore[no-untyped-call]
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one go; `backward` has only to hand them over."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head_weight: Tensor,
        targets: Tensor,
        scale: Tensor,
        chunk_rows: int,
        head_gradient: list[Tensor] | None,
    ) -> Tensor:
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        ctx.head_gradient = head_gradient
        weight = head_weight.to(hidden.dtype)
        vocabulary, columns = len(weight), _columns(len(weight), hidden.element_size())
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_weight: Tensor | None = None
        loss = scale.new_zeros(())
        logits = hidden.new_empty(min(chunk_rows, len(hidden)), columns)
        # A second buffer only where products are of half precision.
        exact = logits.dtype == scale.dtype
        probabilities = logits if exact else torch.empty_like(logits, dtype=scale.dtype)
        for first in range(0, len(hidden), chunk_rows):
            chunk = slice(first, first + chunk_rows)
            x, target, scale_of_row = hidden[chunk], targets[chunk, None], scale[chunk]  # (R, C), (R, 1), (R,)
            z, p = logits[: len(x)], probabilities[: len(x)]  # (R, V and a few columns that nobody may see)
            torch.mm(x, weight.t(), out=z[:, :vocabulary])
            z[:, vocabulary:] = -math.inf
            if not exact:
                p.copy_(z)
            largest, said = p.amax(dim=1), p.gather(1, target)[:, 0]  # (R,), (R,)
            torch.softmax(p, dim=1, out=p)
            # The likeliest token's probability is never too small for its logarithm, as the target's may be.
            normaliser = largest - p.amax(dim=1).log()
            loss += torch.dot(normaliser - said, scale_of_row)
            if not (for_hidden or for_weight):
                continue
            p.scatter_add_(1, target, p.new_full(target.shape, -1.0))  # the logits' gradient, but for `scale`
            if not exact:
                z.copy_(p)
            z = z[:, :vocabulary]
            if grad_hidden is not None:
                torch.mm(z, weight, out=grad_hidden[chunk]).mul_(scale_of_row[:, None])
            if for_weight:
                scaled = x * scale_of_row[:, None].to(x.dtype)
                if grad_weight is None:
                    grad_weight = z.t() @ scaled  # (V, C)
                elif exact:
                    grad_weight.addmm_(z.t(), scaled)
                else:  # sums of half precision would lose what is small
                    grad_weight = grad_weight.to(scale.dtype).add_(z.t() @ scaled)
        ctx.gradients = grad_hidden, None if grad_weight is None else grad_weight.to(head_weight.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of chunked_cross_entropy are handed over once; compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None
        if grad.device.type != "cpu" or grad.item() != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad)
        if ctx.head_gradient is not None and gradients[1] is not None:
            ctx.head_gradient.append(gradients[1])
        return (*gradients, None, None, None, None)


def _columns(vocabulary: int, size: int) -> int:
    """How many numbers of `size` bytes a row of logits gets: V rounded up to an odd number of 64-byte cache lines.

    Rows that begin anywhere make the products with GPT-2's 50,257 columns up to 1.5 times as slow, and rows that lie
    a multiple of a power of two apart share a few sets of the cache.
    Example: 50,257 numbers of 4 bytes get 50,288, which are 3,143 lines.
    """
    lines = -(-vocabulary * size // 64)
    return (lines | 1) * 64 // size


class Objective(nn.Module):
    """A model and its loss as one module, for whatever wraps modules (DDP, FSDP).

    On a CPU the blocks take their fast path (`fast_blocks`) where it knows the model. compiled: the model's body goes
    through torch.compile instead; the loss has nothing to gain from it.
    """

    def __init__(self, model: GPT2, *, compiled: bool = False, chunk_rows: int = CHUNK_ROWS) -> None:
        super().__init__()
        self.model, self.chunk_rows = model, chunk_rows
        self._compiled = torch.compile(model.body) if compiled else None

    def forward(self, inputs: Tensor, targets: Tensor, documents: Tensor | None = None, divisor: float = 1.0) -> Tensor:
        """The cross-entropy in nats, summed over the targets that are not IGNORED and divided by `divisor`.

        inputs, targets: int64 (B, T). documents: int (B, T), see `GPT2.body`. Returns a scalar.
        """
        head_gradient: list[Tensor] | None = None
        if self._compiled is None and can_run(self.model):
            head_gradient = [] if self.model.config.tie_word_embeddings else None
            hidden = fast_body(self.model, inputs, documents=documents, head_gradient=head_gradient)  # (B, T, C)
        else:
            hidden = (self._compiled or self.model.body)(inputs, documents=documents)[0]  # (B, T, C)
        rows, head = hidden.flatten(0, 1), self.model.head_weight
        return chunked_cross_entropy(
            rows, head, targets.flatten(), chunk_rows=self.chunk_rows, divisor=divisor, head_gradient=head_gradient
        )
