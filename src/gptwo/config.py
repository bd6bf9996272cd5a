"""The shape of a GPT-2: what `config.json` says, checked.

Field names are those of transformers' `GPT2Config`; so are the defaults, which are the 124M model's.
Source: Radford et al. 2019, table 2, and the released checkpoints.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptwo.errors import ConfigError, one_line
from gptwo.options import shown

ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")

# A hostile file can grow thirtyfold when it is parsed; real ones have a kilobyte or two.
MAX_BYTES = 250_000

# Other names under which the same field occurs in the wild.
ALIASES = {
    "n_ctx": "n_positions",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}


@dataclass(frozen=True)
class PublishedModel:
    """One of the released checkpoints: its size, and the hub name under which it is found."""

    name: str
    repository: str
    parameters: int
    n_embd: int
    n_layer: int
    n_head: int


PUBLISHED_MODELS = (
    PublishedModel("distilgpt2", "distilbert/distilgpt2", 81_912_576, 768, 6, 12),
    PublishedModel("gpt2", "openai-community/gpt2", 124_439_808, 768, 12, 12),
    PublishedModel("gpt2-medium", "openai-community/gpt2-medium", 354_823_168, 1024, 24, 16),
    PublishedModel("gpt2-large", "openai-community/gpt2-large", 774_030_080, 1280, 36, 20),
    PublishedModel("gpt2-xl", "openai-community/gpt2-xl", 1_557_611_200, 1600, 48, 25),
)


@dataclass(frozen=True)
class GPTConfig:
    """The configuration of one GPT-2.

    Raises ConfigError if a value has the wrong type, is out of range, or contradicts another.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    """Width of the MLP's hidden layer; None is 4 * n_embd."""
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    """Divide attention scores by the square root of the head size."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide attention scores of layer i (from 0) by i + 1 as well."""
    reorder_and_upcast_attn: bool = False
    """Compute attention scores and their softmax in float32 whatever the weights' type."""
    tie_word_embeddings: bool = True
    """The output head is the token embedding."""
    bos_token_id: int | None = 50256
    eos_token_id: int | None = 50256
    pad_token_id: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `config.json` that gptwo does not read; written back unchanged."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            _check_integer(name, getattr(self, name), minimum=1)
        if self.n_inner is not None:
            _check_integer("n_inner", self.n_inner, minimum=1)
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            value = _check_number(name, getattr(self, name))
            if not 0.0 <= value < 1.0:
                raise ConfigError(f"{name} is {value}, expected a probability from 0 to below 1")
        if _check_number("layer_norm_epsilon", self.layer_norm_epsilon) <= 0.0:
            raise ConfigError(f"layer_norm_epsilon is {self.layer_norm_epsilon}, expected more than 0")
        if _check_number("initializer_range", self.initializer_range) < 0.0:
            raise ConfigError(f"initializer_range is {self.initializer_range}, expected 0 or more")
        for name in (
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
            "reorder_and_upcast_attn",
            "tie_word_embeddings",
        ):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {shown(getattr(self, name))}, expected true or false")
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), minimum=0)
        if self.activation_function not in ACTIVATIONS:
            raise ConfigError(
                f"activation_function is {shown(self.activation_function)}, expected one of {', '.join(ACTIVATIONS)}"
            )
        if self.n_embd % self.n_head != 0:
            raise ConfigError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    @property
    def head_size(self) -> int:
        """D = n_embd / n_head."""
        return self.n_embd // self.n_head

    @property
    def inner_size(self) -> int:
        """Width of the MLP's hidden layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def attention_scale(self, layer: int) -> float:
        """What the scores q·k of `layer` (from 0) are multiplied by before the softmax."""
        scale = 1.0 / math.sqrt(self.head_size) if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale

    @property
    def parameter_count(self) -> int:
        """Parameters of the model, a tied head counted once."""
        width, inner = self.n_embd, self.inner_size
        attention = width * 3 * width + 3 * width + width * width + width
        mlp = width * inner + inner + inner * width + width
        block = attention + mlp + 4 * width
        head = 0 if self.tie_word_embeddings else self.vocab_size * width
        return (self.vocab_size + self.n_positions) * width + self.n_layer * block + 2 * width + head

    def replace(self, **changes: Any) -> GPTConfig:
        """A copy with some fields changed, checked again."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def published(cls, name: str) -> GPTConfig:
        """The configuration of a released checkpoint: `gpt2`, `gpt2-xl`, …; ConfigError names those that exist."""
        for model in PUBLISHED_MODELS:
            if model.name == name:
                return cls(n_embd=model.n_embd, n_layer=model.n_layer, n_head=model.n_head)
        raise ConfigError(f"no published model is called {name!r}: {', '.join(m.name for m in PUBLISHED_MODELS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GPTConfig:
        """Read what transformers writes into `config.json`.

        Raises ConfigError for another `model_type`, for a wrong value, and for cross-attention, which no GPT-2 on
        its own has.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a configuration is a JSON object, got {type(values).__name__}")
        model_type = values.get("model_type", "gpt2")
        if model_type != "gpt2":
            raise ConfigError(f"model_type is {shown(model_type)}; gptwo reads 'gpt2' only")
        if values.get("add_cross_attention"):
            raise ConfigError("add_cross_attention is true; gptwo reads GPT-2 on its own, without an encoder")
        named = {f.name for f in dataclasses.fields(cls)} - {"extra"}
        known = {key: value for key, value in values.items() if key in named}
        for alias, name in ALIASES.items():
            if alias in values:
                known.setdefault(name, values[alias])
        extra = {key: value for key, value in values.items() if key not in named | ALIASES.keys() | {"model_type"}}
        eos = known.get("eos_token_id")
        if isinstance(eos, list) and len(eos) == 1:
            known["eos_token_id"] = eos[0]
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """What transformers reads from `config.json`."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
        return {"architectures": ["GPT2LMHeadModel"], **self.extra, "model_type": "gpt2", **own}

    @classmethod
    def load(cls, path: Path | str) -> GPTConfig:
        """Read a `config.json`. Raises ConfigError, naming the file, if it is absent, not JSON, or not a GPT-2's."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                # Asking for more than there is would allocate it.
                text = file.read(min(os.fstat(file.fileno()).st_size, MAX_BYTES) + 1)
            if len(text) > MAX_BYTES:
                raise ValueError(f"it has over {MAX_BYTES} bytes")
            values = json.loads(text)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not a JSON file ({one_line(error)})") from error
        try:
            return cls.from_dict(values)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def save(self, path: Path | str) -> None:
        """Write a `config.json`. Raises ConfigError if `extra` is nested too deeply, and OSError as the system does."""
        try:
            text = json.dumps(self.to_dict(), indent=2, sort_keys=True)
        except RecursionError as error:
            raise ConfigError(f"{path}: a value that gptwo does not read is nested too deeply to be written") from error
        Path(path).write_text(text + "\n", encoding="utf-8")


def _check_integer(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} is {shown(value)}, expected an integer")
    if not minimum <= value < 2**31:
        raise ConfigError(f"{name} is {shown(value)}, expected {minimum} to {2**31 - 1}")


def _check_number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{name} is {shown(value)}, expected a number")
    if abs(value) > 1e9 or not math.isfinite(value):
        raise ConfigError(f"{name} is {shown(value)}, expected a finite number")
    return float(value)
