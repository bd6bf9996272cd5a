"""The activations that a run of a model can keep and change: their names, shapes and order.

T tokens, C width, H heads, D = C / H head size, F inner width of the MLP, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

from gptwo.config import GPTConfig
from gptwo.errors import InvalidRequestError, nearest_name
from gptwo.options import shown


class Activation(NamedTuple):
    """A row of the table. In a name `N` stands for each layer, from 0."""

    name: str
    shape: tuple[str, ...]
    """Of the letters above."""
    meaning: str


ACTIVATIONS: Final = (
    Activation("wte", ("T", "C"), "token embeddings"),
    Activation("wpe", ("T", "C"), "position embeddings"),
    Activation("h.N.resid_pre", ("T", "C"), "the residual stream before the block; for layer 0 wte + wpe"),
    Activation("h.N.ln_1", ("T", "C"), "what the attention reads"),
    Activation("h.N.attn.q", ("H", "T", "D"), "queries"),
    Activation("h.N.attn.k", ("H", "T", "D"), "keys"),
    Activation("h.N.attn.v", ("H", "T", "D"), "values"),
    Activation("h.N.attn.scores", ("H", "T", "T"), "q·k times the scale; -inf where the key comes after the query"),
    Activation("h.N.attn.pattern", ("H", "T", "T"), "softmax of the scores: row i says where position i looks"),
    Activation("h.N.attn.z", ("H", "T", "D"), "the values, weighted by the pattern"),
    Activation(
        "h.N.attn.heads", ("H", "T", "C"), "what each head adds to the residual stream; their sum lacks the bias"
    ),
    Activation("h.N.attn.out", ("T", "C"), "what the attention adds: all heads and the bias of c_proj"),
    Activation("h.N.resid_mid", ("T", "C"), "the residual stream between attention and MLP"),
    Activation("h.N.ln_2", ("T", "C"), "what the MLP reads"),
    Activation("h.N.mlp.pre", ("T", "F"), "hidden layer before its activation function"),
    Activation("h.N.mlp.post", ("T", "F"), "hidden layer after it"),
    Activation("h.N.mlp.out", ("T", "C"), "what the MLP adds to the residual stream"),
    Activation("h.N.resid_post", ("T", "C"), "the residual stream after the block"),
    Activation("ln_f", ("T", "C"), "what the head reads"),
    Activation("logits", ("T", "V"), "of the next token at each position"),
)
"""In the order in which a pass computes them."""


def activation_names(config: GPTConfig) -> list[str]:
    """The names of all activations of a model, in the order in which a pass computes them."""
    before = [row.name for row in ACTIVATIONS if row.name in ("wte", "wpe")]
    of_block = [row.name for row in ACTIVATIONS if ".N." in row.name]
    after = [row.name for row in ACTIVATIONS if row.name in ("ln_f", "logits")]
    return [
        *before,
        *(name.replace(".N.", f".{layer}.") for layer in range(config.n_layer) for name in of_block),
        *after,
    ]


def activation_shape(name: str, config: GPTConfig, tokens: int) -> tuple[int, ...]:
    """The shape of an activation in a run of so many tokens. Raises InvalidRequestError for an unknown name."""
    if name not in activation_names(config):
        raise _unknown(name, config, param="name")
    first, _, rest = name.partition(".")
    general = f"h.N.{rest.partition('.')[2]}" if first == "h" else name
    sizes = {
        "T": tokens,
        "C": config.n_embd,
        "H": config.n_head,
        "D": config.head_size,
        "F": config.inner_size,
        "V": config.vocab_size,
    }
    letters = next(row.shape for row in ACTIVATIONS if row.name == general)
    return tuple(sizes[letter] for letter in letters)


def matching_names(patterns: Iterable[str], config: GPTConfig, *, param: str) -> list[str]:
    """The names that match any of the patterns, in the order of a pass; `*` stands for anything.

    Raises InvalidRequestError, naming the nearest, for a pattern that matches nothing.
    Example: "h.*.attn.pattern" matches that of every layer.
    """
    names = activation_names(config)
    matched = set()
    if not isinstance(patterns, Iterable):
        raise InvalidRequestError(f"{param} is {shown(patterns)}, expected names of activations", param=param)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InvalidRequestError(f"{param} holds {shown(pattern)}, expected names of activations", param=param)
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise _unknown(pattern, config, param=param)
        matched.update(found)
    return [name for name in names if name in matched]


def _unknown(name: str, config: GPTConfig, *, param: str) -> InvalidRequestError:
    """The error that names the nearest, or, where none is near, the table: all layers' names would be hundreds."""
    layers = f" of a model with {config.n_layer} layers" if str(name).startswith("h.") else ""
    table = f"; known names: {', '.join(row.name for row in ACTIVATIONS)}"
    hint = nearest_name(str(name), activation_names(config), otherwise=table)
    return InvalidRequestError(f"no activation{layers} is called {shown(name)}{hint}", param=param)
