"""From the names that files use to the one set of names that gptwo uses, checked against the configuration.

Files differ in prefixes, mask buffers, tied heads, padded vocabularies and heads of other tasks. All of that ends here:
what comes out has exactly the names and shapes of `expected_shapes`.

C width, I width of the MLP's hidden layer, V vocabulary, P positions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from gptwo.checkpoint.stored import WEIGHT_DTYPES, StoredTensor, shown
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, CheckpointWarning

EMBEDDING: Final = "wte.weight"
HEAD: Final = "lm_head.weight"

LINEAR_WEIGHTS: Final = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""The weights of linear layers, which formats may hold transposed, by the end of their names."""

# Wrappers put their name before the module they wrap, at any depth; models put theirs before the whole.
_WRAPPERS: Final = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_MODELS: Final = frozenset({"model", "transformer"})
_LONGEST_NAME: Final = 300  # no name of ours comes near it, and a hostile one is not worth taking apart

_MASK_BUFFER: Final = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
_OTHER_HEAD: Final = re.compile(r"(score|classifier|multiple_choice_head|qa_outputs|v_head|value_head)\.")
_BLOCK: Final = re.compile(r"h\.(\d{1,12})\.")

_END_OF_TEXT: Final = 50256  # of GPT-2's tokenizer
_PADDING: Final = 128  # trainers pad the vocabulary to a multiple of 64 or 128
_COMPARED_AT_ONCE: Final = 1 << 20  # elements


def expected_shapes(config: GPTConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that a model of this configuration has, in the order of the forward pass, with its shape."""
    width, inner = config.n_embd, config.inner_size
    yield EMBEDDING, (config.vocab_size, width)
    yield "wpe.weight", (config.n_positions, width)
    for layer in range(config.n_layer):
        block = f"h.{layer}."
        yield block + "ln_1.weight", (width,)
        yield block + "ln_1.bias", (width,)
        yield block + "attn.c_attn.weight", (width, 3 * width)
        yield block + "attn.c_attn.bias", (3 * width,)
        yield block + "attn.c_proj.weight", (width, width)
        yield block + "attn.c_proj.bias", (width,)
        yield block + "ln_2.weight", (width,)
        yield block + "ln_2.bias", (width,)
        yield block + "mlp.c_fc.weight", (width, inner)
        yield block + "mlp.c_fc.bias", (inner,)
        yield block + "mlp.c_proj.weight", (inner, width)
        yield block + "mlp.c_proj.bias", (width,)
    yield "ln_f.weight", (width,)
    yield "ln_f.bias", (width,)
    if not config.tie_word_embeddings:
        yield HEAD, (config.vocab_size, width)


def end_of_text_ids(vocab_size: int) -> dict[str, Any]:
    """The ids of a configuration that doesn't name them: GPT-2's, where the vocabulary is as large; else none."""
    end = _END_OF_TEXT if vocab_size > _END_OF_TEXT else None
    return {"bos_token_id": end, "eos_token_id": end}


def canonical_name(name: str) -> str:
    """A tensor's name without the prefixes of wrappers and models.

    Example: "_orig_mod.module.transformer.h.0.attn.c_attn.weight" is "h.0.attn.c_attn.weight".
    """
    if len(name) > _LONGEST_NAME:
        return name
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while parts and parts[0] in _MODELS:
        del parts[0]
    return ".".join(parts)


def canonical_tensors(
    config: GPTConfig, stored: Mapping[str, StoredTensor], path: Path, *, biases_optional: bool = False
) -> tuple[GPTConfig, dict[str, StoredTensor]]:
    """The tensors of the model, by canonical name and in the order of `expected_shapes`, as views of the stored ones.

    stored: the tensors of a file by the names in it, linear weights as (in, out). path: where they come from, for
    messages. biases_optional: a bias that is not there is zeros.

    The configuration comes back too: with `tie_word_embeddings` false, and a CheckpointWarning, if it said true but the
    file holds a head that differs from the embedding. The values are believed, since a trained head is never there by
    accident; transformers 5 does the same. Tensors of other tasks' heads are left out in silence, tensors that no
    GPT-2 has with a CheckpointWarning.

    Raises CheckpointError, naming the tensor, if one is missing, twice there, of another shape or no floats, or belongs
    to a layer that the configuration does not have. Takes time by what is stored, not by what the configuration claims.
    """
    named = _by_canonical_name(stored, path)
    _settle_head(config, named, path)
    tensors = {}
    for name, shape in expected_shapes(config):
        tensor = named.pop(name, None)
        if tensor is None and biases_optional and name.endswith(".bias"):
            tensor = _zeros(name, shape, path)
        if tensor is None:
            raise CheckpointError(f"checkpoint {path}: tensor {name} is missing{_what_is_there(stored)}")
        tensors[name] = _checked(tensor, shape, config.vocab_size)
    if config.tie_word_embeddings and HEAD in named:
        head = _checked(named.pop(HEAD), (config.vocab_size, config.n_embd), config.vocab_size)
        if not same_values(tensors[EMBEDDING], head):
            warnings.warn(
                f"checkpoint {path}: its configuration ties lm_head.weight to wte.weight, but the two differ; "
                "the head of the file is used",
                CheckpointWarning,
                stacklevel=2,
            )
            config = config.replace(tie_word_embeddings=False)
            tensors[HEAD] = head
    _account_for(named, config, path)
    return config, tensors


def _by_canonical_name(stored: Mapping[str, StoredTensor], path: Path) -> dict[str, StoredTensor]:
    """Rename, and leave out what is no part of the language model."""
    named: dict[str, StoredTensor] = {}
    for stored_name, tensor in stored.items():
        name = canonical_name(stored_name)
        if _MASK_BUFFER.fullmatch(name) or _OTHER_HEAD.match(name):
            continue
        if name in named:
            raise CheckpointError(f"checkpoint {path}: tensor {shown(name)} is there twice, under two prefixes")
        named[name] = tensor.renamed(name)
    return named


def _settle_head(config: GPTConfig, named: dict[str, StoredTensor], path: Path) -> None:
    if config.tie_word_embeddings and EMBEDDING not in named and HEAD in named:
        named[EMBEDDING] = named.pop(HEAD).renamed(EMBEDDING)  # of two tied tensors, safetensors files keep either
    if not config.tie_word_embeddings and HEAD not in named and EMBEDDING in named:
        raise CheckpointError(
            f"checkpoint {path}: tensor {HEAD} is missing, and its configuration says tie_word_embeddings is false"
        )


def _checked(tensor: StoredTensor, shape: tuple[int, ...], vocab_size: int) -> StoredTensor:
    if not tensor.is_floats:
        raise CheckpointError(
            f"checkpoint {tensor.file}: tensor {tensor.name} is {tensor.dtype}, expected {', '.join(WEIGHT_DTYPES)}"
        )
    if tensor.name in (EMBEDDING, HEAD) and len(tensor.shape) == 2:
        padded = -(-vocab_size // _PADDING) * _PADDING
        if vocab_size < tensor.shape[0] <= padded:
            tensor = tensor.first_rows(vocab_size)
    if tensor.shape != shape:
        raise CheckpointError(
            f"checkpoint {tensor.file}: tensor {tensor.name} has shape {tensor.shape}, expected {shape}"
        )
    return tensor


def _zeros(name: str, shape: tuple[int, ...], path: Path) -> StoredTensor:
    zeros = np.zeros(shape, np.float32)
    zeros.setflags(write=False)
    return StoredTensor(name, path, "F32", zeros)


def same_values(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors of one shape (rows, columns) hold the same bits as float32, compared a few rows at a time."""
    if one.dtype == other.dtype and one.raw.__array_interface__ == other.raw.__array_interface__:
        return True  # the same memory, as in most pickles
    rows, columns = one.shape
    step = max(1, _COMPARED_AT_ONCE // columns)
    return all(
        np.array_equal(_bits(one, slice(start, start + step)), _bits(other, slice(start, start + step)))
        for start in range(0, rows, step)
    )


def _bits(tensor: StoredTensor, rows: slice) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(replace(tensor, raw=tensor.raw[rows]).float32()).view(np.uint32)


def _account_for(rest: Mapping[str, StoredTensor], config: GPTConfig, path: Path) -> None:
    """Nothing that a file holds is left unused in silence."""
    for name in rest:
        block = _BLOCK.match(name)
        if block and int(block[1]) >= config.n_layer:
            raise CheckpointError(
                f"checkpoint {path}: tensor {shown(name)} is there, but its configuration says n_layer {config.n_layer}"
            )
    if rest:
        names = ", ".join(shown(name) for name in list(rest)[:3])
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        warnings.warn(
            f"checkpoint {path}: not used, since no GPT-2 has them: {names}{more}", CheckpointWarning, stacklevel=2
        )


def _what_is_there(stored: Mapping[str, StoredTensor]) -> str:
    if not stored:
        return "; the file holds no tensors"
    names = ", ".join(shown(name) for name in list(stored)[:3])
    return f"; the file holds {len(stored)}: {names}{', …' if len(stored) > 3 else ''}"
