"""GPT-2 in PyTorch, from token ids to logits, in one file.

This is the reference: every faster path is tested against it, and training runs on it. Parameter names and the
orientation of the weights are those of the released checkpoint, so a state dict of this module is a checkpoint.

B batch, T new positions, S cached + new positions, C width, H heads, D = C / H head size, F inner width of the MLP,
V vocabulary, L layers.
Source: Radford et al. 2019, section 2.3, and the released checkpoints.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gptwo.config import GPTConfig
from gptwo.errors import InvalidRequestError, one_line
from gptwo.options import shown

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class KeysValues(NamedTuple):
    """What one layer remembers of the positions it has seen."""

    keys: Tensor  # (B, H, S, D)
    values: Tensor  # (B, H, S, D)

    def append(self, keys: Tensor, values: Tensor) -> KeysValues:
        """Both (B, H, T, D), joined on at the end."""
        return KeysValues(torch.cat((self.keys, keys), dim=2), torch.cat((self.values, values), dim=2))

    def truncate(self, length: int) -> KeysValues:
        """The first `length` positions."""
        return KeysValues(self.keys[:, :, :length], self.values[:, :, :length])


@dataclass
class GPT2Output:
    """What a forward pass gives; the last two only when asked for."""

    logits: Tensor
    """(B, T, V), or (B, R, V) for R chosen rows."""
    hidden_states: tuple[Tensor, ...] | None = None
    """L + 1 tensors (B, T, C): the embeddings, then each block's output, the last one after the final layer norm."""
    past: tuple[KeysValues, ...] | None = None
    """The keys and values of each layer, for the next call."""


class Embedding(nn.Module):
    """A row of C numbers for each token or position; PyTorch's own would draw them when it is made."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (...) -> (..., C)."""
        return F.embedding(ids, self.weight)


class Conv1D(nn.Module):
    """A linear layer whose weight lies as (in, out), the released checkpoint's orientation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        return F.linear(x, self.weight.t(), self.bias)


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and to the positions before it, in H heads."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.width = config.n_head, config.n_embd
        self.scale = config.attention_scale(layer)
        self.upcast = config.reorder_and_upcast_attn
        self.attn_pdrop = config.attn_pdrop
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, past: KeysValues | None, mask: Tensor | None) -> tuple[Tensor, KeysValues]:
        """x (B, T, C), mask bool (B or 1, 1, T, S) or None for plain causal -> (B, T, C), and all S keys and values."""
        q, k, v = (self.split_heads(t) for t in self.c_attn(x).split(self.width, dim=2))  # 3 x (B, H, T, D)
        kept = KeysValues(k, v) if past is None else past.append(k, v)  # (B, H, S, D)
        if self.upcast:  # scores of half precision can overflow where the rest of the model does not
            with torch.autocast(x.device.type, enabled=False):
                y = self.attend(q.float(), kept.keys.float(), kept.values.float(), mask)
        else:
            y = self.attend(q, *kept, mask)  # (B, H, T, D)
        y = y.to(x.dtype).transpose(1, 2).flatten(2)  # (B, T, C)
        return self.resid_dropout(self.c_proj(y)), kept

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ · scale + mask) v in each head: q (B, H, T, D), k and v (B, H, S, D) -> (B, H, T, D).

        `scale` is 1 / sqrt(D) in the released models (GPTConfig.attention_scale). Source: Vaswani et al. 2017,
        equation 1.
        """
        return F.scaled_dot_product_attention(
            q,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.attn_pdrop if self.training else 0.0,
            is_causal=mask is None and q.shape[2] > 1,  # a single new position sees all that came before
            scale=self.scale,
        )

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers with an activation between them, position by position."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, config.inner_size)
        self.c_proj = Conv1D(config.inner_size, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = self.activation(self.c_fc(x))  # (B, T, F)
        return self.dropout(self.c_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then the MLP, each behind a layer norm and added to the residual stream."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: KeysValues | None, mask: Tensor | None) -> tuple[Tensor, KeysValues]:
        """x (B, T, C) -> (B, T, C), and this layer's keys and values."""
        attended, kept = self.attn(self.ln_1(x), past, mask)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), kept


class GPT2(nn.Module):
    """The whole model. A tied head has no parameter of its own: `wte` serves twice.

    The weights of a new one mean nothing before `initialize`, or `load_state_dict`; `from_arrays` makes one with
    weights.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.lm_head = Embedding(config.vocab_size, config.n_embd)  # read the other way round, as if it were tied
        self.activation_checkpointing = False  # in training: less memory, and each block is computed twice

    @classmethod
    def from_arrays(cls, config: GPTConfig, arrays: Mapping[str, npt.NDArray[np.float32]]) -> GPT2:
        """A model in evaluation mode with these weights, under the checkpoint's names; the arrays are copied."""
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()}, assign=True)
        return model.eval()

    def move_to(self, device: str, dtype: torch.dtype | None = None) -> GPT2:
        """Move the weights, in place. Raises InvalidRequestError for a device that PyTorch does not have here."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what PyTorch warns of, it refuses next
                if torch.device(device).type == "meta":
                    raise RuntimeError("it holds no numbers")
                return self.to(device=device, dtype=dtype)
        except (RuntimeError, AssertionError, ImportError, TypeError) as error:
            reason = one_line(str(error).split("\n")[0])
            if "Expected one of" in reason or "Invalid device string" in reason:  # with a list of all there ever were
                reason = "PyTorch knows none of this name; there are cpu, cuda, cuda:1, mps and others"
            raise InvalidRequestError(f"device {shown(device)} cannot be used: {reason}", param="device") from error

    def to_arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """The weights as float32 arrays under the checkpoint's names."""
        return {name: tensor.detach().float().cpu().numpy() for name, tensor in self.state_dict().items()}

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> GPT2:
        """Draw new weights as GPT-2's were drawn, in place.

        Normal with deviation `initializer_range`, biases zero, layer norms one; the two projections that write into
        the residual stream get that deviation divided by sqrt(2 L), for the 2 L of them add up (section 2.3).
        """
        deviation = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
            elif ".ln_" in f".{name}":
                parameter.fill_(1.0)
            elif name.endswith("c_proj.weight"):
                parameter.normal_(0.0, deviation / math.sqrt(2 * self.config.n_layer), generator=generator)
            else:
                parameter.normal_(0.0, deviation, generator=generator)
        return self

    @property
    def head_weight(self) -> Tensor:
        """(V, C): what turns hidden states into logits."""
        return self.wte.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def forward(
        self,
        token_ids: Tensor,
        *,
        past: Sequence[KeysValues] | None = None,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        return_hidden_states: bool = False,
        return_past: bool = False,
    ) -> GPT2Output:
        """Logits of the next token at each position.

        token_ids: int64 (B, T). past: the keys and values of S - T earlier positions.
        mask: bool (B, S), false where a position is padding; positions then count the true ones only, so that a
        padded row says what it says alone. rows: int64 (R,), indices into T of the rows whose logits are wanted.
        """
        hidden, hidden_states, kept = self.body(
            token_ids, past=past, mask=mask, return_hidden_states=return_hidden_states, return_past=return_past
        )
        if rows is not None:
            hidden = hidden[:, rows]  # (B, R, C)
        return GPT2Output(
            logits=F.linear(hidden, self.head_weight),  # (B, T or R, V)
            hidden_states=hidden_states if return_hidden_states else None,
            past=kept if return_past else None,
        )

    def body(
        self,
        token_ids: Tensor,
        *,
        past: Sequence[KeysValues] | None = None,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        return_hidden_states: bool = False,
        return_past: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[KeysValues, ...]]:
        """Everything before the head: the last hidden states (B, T, C); all of them, and keys and values, if asked.

        documents: int (B, T), which text of its row each token belongs to; each then reads as if it stood alone.
        """
        new = token_ids.shape[1]
        cached = past[0].keys.shape[2] if past is not None else 0
        if cached + new > self.config.n_positions:
            raise ValueError(f"{cached + new} positions, but the model has {self.config.n_positions}")
        if documents is not None and (past is not None or mask is not None):
            raise ValueError("documents go with neither past nor mask")
        positions = self.positions(new, cached, mask) if documents is None else document_positions(documents)
        seen = self.attention_mask(new, cached, mask) if documents is None else document_mask(documents)
        x = self.drop(self.wte(token_ids) + self.wpe(positions))  # (B, T, C)
        hidden_states = [x] if return_hidden_states else []
        kept = []
        for layer, block in enumerate(self.h):
            arguments = x, past[layer] if past is not None else None, seen
            if self.activation_checkpointing and torch.is_grad_enabled():
                x, keys_values = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, keys_values = block(*arguments)
            if return_past:
                kept.append(keys_values)
            if return_hidden_states and layer < len(self.h) - 1:
                hidden_states.append(x)
        x = self.ln_f(x)
        if return_hidden_states:
            hidden_states.append(x)
        return x, tuple(hidden_states), tuple(kept)

    def positions(self, new: int, cached: int, mask: Tensor | None) -> Tensor:
        """int64 (T,), or (B, T) with a mask: which row of `wpe` each new token takes.

        Example: mask [[0, 0, 1, 1, 1]] gives positions [[0, 0, 0, 1, 2]].
        """
        if mask is None:
            return torch.arange(cached, cached + new, device=self.wpe.weight.device)
        return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, cached:]

    def attention_mask(self, new: int, cached: int, mask: Tensor | None) -> Tensor | None:
        """bool (B or 1, 1, T, S), true where a new position may look; None where plain causal attention says it all."""
        if mask is None and (new == 1 or cached == 0):
            return None
        seen = torch.ones(new, cached + new, dtype=torch.bool, device=self.wpe.weight.device)
        seen = seen.tril(cached)[None, None]  # (1, 1, T, S)
        if mask is None:
            return seen
        # A padding position still sees itself: a row of nothing would be NaN, and NaN times zero weight is NaN.
        itself = seen & ~seen.tril(-1 + cached)  # (1, 1, T, S), true where key and query are the same position
        return (seen & mask[:, None, None, :].bool()) | itself


def document_positions(documents: Tensor) -> Tensor:
    """int64 (B, T): the position of each token in its own document, of those that lie one after another in a row.

    Example: documents [[0, 0, 1, 1, 1]] gives positions [[0, 1, 0, 1, 2]].
    """
    index = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)  # (B, T)
    begins = F.pad(documents[:, 1:] != documents[:, :-1], (1, 0), value=True)
    return index - torch.where(begins, index, 0).cummax(dim=1).values


def document_mask(documents: Tensor) -> Tensor:
    """bool (B, 1, T, T), true where key and query are of one document, and the key is not after the query."""
    return (documents[:, :, None] == documents[:, None, :]).tril()[:, None]
