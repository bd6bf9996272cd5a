"""Hooks on the modules of `model.py` that see each activation as it is computed, and may put another in its place.

One pass of one text: B is 1, and visitors see arrays without it. T tokens, C width, H heads, D = C / H, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gptwo.errors import InvalidRequestError
from gptwo.model import GPT2, Block, Conv1D, Embedding


class Visitor(Protocol):
    """Called with a name and the activation without B; what each method returns, in the same shape, takes its place."""

    def change(self, name: str, value: Tensor) -> Tensor:
        """The activation, or another."""

    def keep(self, name: str, value: Tensor) -> Tensor:
        """The activation as it goes on."""


def visit(visitor: Visitor, name: str, value: Tensor) -> Tensor:
    """Have an activation changed, then kept."""
    return visitor.keep(name, visitor.change(name, value))


@contextmanager
def hooked(model: GPT2, names: Collection[str], visitor: Visitor) -> Iterator[None]:
    """Have `visitor` called for each of these activations in every pass within the block; then the hooks are gone.

    What returns unchanged changes no bit of what comes after it. `logits` belong to no module: whoever calls the model
    visits those.
    """
    handles: list[RemovableHandle] = []
    try:
        for name, module in (("wte", model.wte), ("wpe", model.wpe), ("ln_f", model.ln_f)):
            if name in names:
                handles.append(module.register_forward_hook(_output_hook(name, visitor)))
        for layer, block in enumerate(model.h):
            assert isinstance(block, Block)
            prefix = f"h.{layer}."
            inner = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
            if inner:
                _BlockHooks(prefix, block, inner, visitor).register(handles)
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_plain(module: nn.Module, name: str) -> None:
    """Raise InvalidRequestError if a module is none of `model.py`: its weight is then not all that it multiplies by."""
    if type(module) not in (Conv1D, Embedding, nn.LayerNorm):
        raise InvalidRequestError(
            f"{name} belongs to a {type(module).__name__}, so it is not the whole matrix; merge LoRA first"
        )


def _output_hook(name: str, visitor: Visitor) -> Callable[[Any, Any, Tensor], Tensor]:
    def hook(module: Any, arguments: Any, output: Tensor) -> Tensor:
        if output.dim() == 2:  # position embeddings, which all rows of a batch share
            return visit(visitor, name, output)
        return visit(visitor, name, output[0])[None]

    return hook


class _BlockHooks:
    """The hooks of one block, and what a later one of them needs of an earlier one in the same pass."""

    def __init__(self, prefix: str, block: Block, names: set[str], visitor: Visitor) -> None:
        self.prefix, self.block, self.names, self.visitor = prefix, block, names, visitor
        self.qkv: tuple[Tensor, Tensor, Tensor]  # 3 x (H, T, D)
        self.z: Tensor  # (H, T, D)
        self.resid_mid: Tensor  # (1, T, C)
        self.mlp_out: Tensor  # (1, T, C)

    def register(self, handles: list[RemovableHandle]) -> None:
        """Put the hooks that the names need on the block's modules."""
        block, attn, mlp = self.block, self.block.attn, self.block.mlp
        explicit = {"attn.scores", "attn.pattern"}
        hooks: list[tuple[set[str], Callable[..., RemovableHandle], Callable[..., Any]]] = [
            ({"resid_pre"}, block.register_forward_pre_hook, self._before_block),
            ({"ln_1"}, block.ln_1.register_forward_hook, self._after("ln_1")),
            ({"attn.q", "attn.k", "attn.v"} | explicit, attn.c_attn.register_forward_hook, self._after_c_attn),
            ({"attn.z", "attn.heads"} | explicit, attn.c_proj.register_forward_pre_hook, self._before_c_proj),
            ({"attn.heads", "attn.out"}, attn.register_forward_hook, self._after_attention),
            ({"resid_mid"}, block.ln_2.register_forward_pre_hook, self._before_ln_2),
            ({"ln_2"}, block.ln_2.register_forward_hook, self._after("ln_2")),
            ({"mlp.pre"}, mlp.c_fc.register_forward_hook, self._after("mlp.pre")),
            ({"mlp.post"}, mlp.c_proj.register_forward_pre_hook, self._before_mlp_c_proj),
            ({"mlp.out", "resid_mid"}, mlp.register_forward_hook, self._after_mlp),
            ({"resid_mid", "resid_post"}, block.register_forward_hook, self._after_block),
        ]
        for names, register, hook in hooks:
            if self.names & names:
                handles.append(register(hook))

    def _after(self, name: str) -> Callable[[Any, Any, Tensor], Tensor]:
        return _output_hook(self.prefix + name, self.visitor)

    def visit(self, name: str, value: Tensor) -> Tensor:
        """The activation as it goes on, whether anyone asked for it or not."""
        return visit(self.visitor, self.prefix + name, value) if name in self.names else value

    def _before_block(self, module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.visit("resid_pre", arguments[0][0])[None], *arguments[1:]

    def _after_c_attn(self, module: Any, arguments: Any, output: Tensor) -> Tensor | None:
        attn = self.block.attn
        heads = [attn.split_heads(part)[0] for part in output.chunk(3, dim=2)]  # 3 x (H, T, D)
        q, k, v = (self.visit(f"attn.{name}", part) for name, part in zip("qkv", heads, strict=True))
        self.qkv = q, k, v
        if self.names & {"attn.q", "attn.k", "attn.v"}:
            return torch.cat([_merged(part) for part in self.qkv], dim=2)  # (1, T, 3C)
        return None

    def _before_c_proj(self, module: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
        z = self.block.attn.split_heads(arguments[0])[0]  # (H, T, D)
        if self.names & {"attn.scores", "attn.pattern"}:
            z = self._through_pattern(z)
        self.z = self.visit("attn.z", z)
        return (_merged(self.z),)

    def _through_pattern(self, z: Tensor) -> Tensor:
        """z (H, T, D), or, if scores or pattern were changed, what they make of the values."""
        q, k, v = (part.float() for part in self.qkv)
        future = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)  # (T, T)
        scores = (q @ k.transpose(1, 2) * self.block.attn.scale).masked_fill(future, -torch.inf)  # (H, T, T)
        new_scores = scores
        if "attn.scores" in self.names:
            new_scores = self.visitor.change(self.prefix + "attn.scores", scores).masked_fill(future, -torch.inf)
            new_scores = self.visitor.keep(self.prefix + "attn.scores", new_scores)
        pattern = new_scores.softmax(dim=-1)
        new_pattern = self.visit("attn.pattern", pattern)
        same = torch.equal(new_scores, scores) and torch.equal(new_pattern, pattern)
        return _instead((new_pattern @ v).to(z.dtype), z, same=same)

    def _after_attention(self, module: Any, arguments: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        out = output[0]  # (1, T, C)
        if "attn.heads" in self.names:
            weight, bias = self._projection()  # (H, D, C), (C,)
            heads = self.z @ weight  # (H, T, C)
            new_heads = self.visit("attn.heads", heads)
            out = _instead((new_heads.sum(dim=0) + bias)[None], out, same=torch.equal(new_heads, heads))
        return self.visit("attn.out", out[0])[None], *output[1:]

    def _projection(self) -> tuple[Tensor, Tensor]:
        c_proj = self.block.attn.c_proj
        check_plain(c_proj, f"{self.prefix}attn.c_proj.weight")
        return c_proj.weight.view(self.block.attn.heads, -1, self.block.attn.width), c_proj.bias

    def _before_ln_2(self, module: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
        self.resid_mid = self.visit("resid_mid", arguments[0][0])[None]
        return (self.resid_mid,)

    def _before_mlp_c_proj(self, module: Any, arguments: tuple[Tensor]) -> tuple[Tensor]:
        return (self.visit("mlp.post", arguments[0][0])[None],)

    def _after_mlp(self, module: Any, arguments: Any, output: Tensor) -> Tensor:
        self.mlp_out = self.visit("mlp.out", output[0])[None]
        return self.mlp_out

    def _after_block(self, module: Any, arguments: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        x = output[0]
        if "resid_mid" in self.names:
            x = self.resid_mid + self.mlp_out  # as the block adds them, but what was put in place of the former
        return self.visit("resid_post", x[0])[None], *output[1:]


def _merged(heads: Tensor) -> Tensor:
    """(H, T, D) -> (1, T, C)."""
    return heads.transpose(0, 1).flatten(1)[None]


def _instead(explicit: Tensor, plain: Tensor, *, same: bool) -> Tensor:
    """The explicit computation where something in it was changed.

    Where nothing was, the plain one, which differs from it by rounding, with the gradient of the explicit one.
    """
    if not same:
        return explicit
    return plain.detach() + (explicit - explicit.detach()) if explicit.requires_grad else plain
