"""The format "gguf": the one file of llama.cpp, with configuration, tensors and tokenizer.

Linear weights are (out, in). Vectors and the table of positions stay float32 in every type; in Q4_0 the embedding and
an untied head are Q8_0, since four bits cost most there. The activation is GELU by tanh. Reading is our own
(gguf_file.py); the `gguf` library writes, and reads the types of blocks (all that it can dequantize).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from gptwo.checkpoint.canonical import EMBEDDING, HEAD, LINEAR_WEIGHTS, canonical_tensors, expected_shapes, same_values
from gptwo.checkpoint.safetensors_file import encode_all
from gptwo.checkpoint.stored import STORED_AS, Array, Checkpoint, Floats, StoredTensor, shown
from gptwo.checkpoint.target import GELU_BY_TANH, HasVocabulary, Take, Target
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, ConfigError, MissingDependencyError, TokenizerError
from gptwo.gguf_file import GGUFFile, GGUFTensor
from gptwo.vocabulary_files import Vocabulary

SUFFIX: Final = ".gguf"
LOOKS_LIKE: Final = f"a file in {SUFFIX}"
DTYPES: Final = ("F32", "F16", "BF16", "Q8_0", "Q4_0")

_PLAIN: Final = {0: "F32", 1: "F16", 28: "F64", 30: "BF16"}  # ggml's numbers
_FILE_TYPES: Final = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}
_PEAK: Final = 8 * 65504.0  # beyond it, the scale of a block of Q4_0 is no float16
_QUANTIZATION_VERSION: Final = 2
_NORMAL, _CONTROL, _UNUSED = 1, 3, 5  # types of tokens

_BLOCK_NAME: Final = re.compile(r"blk\.\d{1,9}", re.ASCII)
_POSITIONS: Final = "wpe.weight"
_NAMES: Final = {
    "token_embd": "wte",
    "position_embd": "wpe",
    "output_norm": "ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_THEIRS: Final = {ours: theirs for theirs, ours in _NAMES.items()}
_KEYS: Final = {
    "n_positions": "gpt2.context_length",
    "n_embd": "gpt2.embedding_length",
    "n_layer": "gpt2.block_count",
    "n_head": "gpt2.attention.head_count",
    "n_inner": "gpt2.feed_forward_length",
    "layer_norm_epsilon": "gpt2.attention.layer_norm_epsilon",
}


@dataclass(frozen=True, eq=False)
class BlockTensor(StoredTensor):
    """A tensor in blocks that share a scale; `raw` has their bytes, uint8 (…, bytes of a row)."""

    columns: int
    kind: int
    """ggml's number of the type."""
    flipped: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        shape = (*self.raw.shape[:-1], self.columns)
        return shape[::-1] if self.flipped else shape

    @property
    def is_floats(self) -> bool:
        """True: each block is made of floats again."""
        return True

    def float32(self) -> Floats:
        """The values, in memory of their own."""
        from gguf import GGMLQuantizationType, dequantize

        with np.errstate(all="ignore"):  # a damaged scale makes values that are not finite, which the decoders refuse
            values: Floats = dequantize(np.ascontiguousarray(self.raw), GGMLQuantizationType(self.kind))
        return values.T if self.flipped else values

    def transposed(self) -> StoredTensor:
        """The tensor with its axes reversed."""
        return replace(self, flipped=not self.flipped)


def detect(path: Path) -> bool:
    """Whether a file is named .gguf."""
    return path.name.endswith(SUFFIX) and path.is_file()


def read(path: Path) -> Checkpoint:
    """Map a file; no element is read.

    Raises CheckpointError naming file and tensor, ConfigError, and MissingDependencyError for blocks without the
    library.
    """
    file = GGUFFile(path)
    if file.values.get("general.architecture") != "gpt2":
        said = file.values.get("general.architecture")
        raise file.broken(f"its architecture is {shown(str(said))}; gptwo reads gpt2")
    stored = _stored(file)
    config = _config(file, stored)
    if HEAD in stored and EMBEDDING in stored and not config.tie_word_embeddings:
        head, embedding = stored[HEAD], stored[EMBEDDING]
        if head.shape == embedding.shape and len(head.shape) == 2 and same_values(head, embedding):
            del stored[HEAD]  # some writers hold a tied head twice
            config = config.replace(tie_word_embeddings=True)
    config, tensors = canonical_tensors(config, stored, path)
    has_tokenizer = file.values.get("tokenizer.ggml.model", "no_vocab") not in ("no_vocab", "none")
    return Checkpoint(config, tensors, path, "gguf", path if has_tokenizer else None)


def _config(file: GGUFFile, stored: Mapping[str, StoredTensor]) -> GPTConfig:
    values = {name: file.values[key] for name, key in _KEYS.items() if key in file.values}
    missing = [_KEYS[name] for name in ("n_positions", "n_embd", "n_layer", "n_head") if name not in values]
    if missing:
        raise file.broken(f"it lacks {', '.join(missing)}")
    if isinstance(values.get("layer_norm_epsilon"), float):
        with np.errstate(over="ignore"):
            values["layer_norm_epsilon"] = float(str(np.float32(values["layer_norm_epsilon"])))  # 1e-05, as was meant
    for name in ("bos", "eos"):
        values[f"{name}_token_id"] = file.values.get(f"tokenizer.ggml.{name}_token_id")
    if isinstance(values["n_embd"], int) and values.get("n_inner") == 4 * values["n_embd"]:
        del values["n_inner"]
    embedding = stored.get(EMBEDDING)
    if embedding is None or len(embedding.shape) != 2:
        raise file.broken("tensor token_embd.weight is missing, or no matrix")
    try:
        return GPTConfig(**values, vocab_size=embedding.shape[0], tie_word_embeddings=HEAD not in stored)
    except ConfigError as error:
        raise ConfigError(f"checkpoint {file.path}: {error}") from None


def _stored(file: GGUFFile) -> dict[str, StoredTensor]:
    """The tensors, by canonical names where those that gptwo knows have them; each lies inside the file."""
    tensors: dict[str, StoredTensor] = {}
    expected = file.data_start
    for name, info in file.tensors.items():
        said = f"tensor {shown(name)}"
        if info.offset != expected:
            raise file.broken(f"{said} begins at byte {info.offset}, expected {expected}")
        dtype, shape, columns = _layout(file, said, info)
        as_stored = STORED_AS.get(dtype, STORED_AS["U8"])
        end = info.offset + math.prod(shape) * as_stored.itemsize
        if end > len(file.mapped):
            raise file.broken(f"{said} ends at byte {end}, but the file has {len(file.mapped)}; it is cut short")
        expected = -(-end // file.alignment) * file.alignment
        try:
            raw: Array = np.ndarray(shape, as_stored, buffer=file.mapped, offset=info.offset)
        except (ValueError, OverflowError) as error:  # a shape such as (0, 2**62), which NumPy cannot express
            raise file.broken(f"{said} has a shape that cannot be held: {error}") from None
        ours = _our_name(name)
        if ours in tensors:
            raise file.broken(f"{said} is there twice")
        tensor = StoredTensor(ours, file.path, dtype, raw)
        if columns is not None:
            tensor = BlockTensor(ours, file.path, dtype, raw, columns, info.kind)
        tensors[ours] = tensor.transposed() if ours.endswith(LINEAR_WEIGHTS) else tensor
    if len(file.mapped) > expected:
        raise file.broken(f"{len(file.mapped) - expected} bytes follow its last tensor")
    return tensors


def _layout(file: GGUFFile, said: str, info: GGUFTensor) -> tuple[str, tuple[int, ...], int | None]:
    """The name of a tensor's type and the shape of its array, in elements; or, in blocks, in bytes, and its columns."""
    if info.kind in _PLAIN:
        return _PLAIN[info.kind], info.shape, None
    gguf = _import_gguf(f"checkpoint {file.path}: reading {said}, which is in blocks,")
    try:
        kind = gguf.GGMLQuantizationType(info.kind)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        # Integers are types too, and some types of blocks can be written and not read.
        gguf.dequantize(np.zeros((1, size), np.uint8), kind)
    except (ValueError, KeyError, NotImplementedError):
        raise file.broken(f"{said} is of a type that gptwo does not read, ggml's number {info.kind}") from None
    if not info.shape or info.shape[-1] % block:
        raise file.broken(f"{said} has shape {info.shape}, but {kind.name} comes in blocks of {block}")
    return kind.name, (*info.shape[:-1], info.shape[-1] // block * size), info.shape[-1]


def _our_name(name: str) -> str:
    """Example: blk.3.ffn_up.weight is h.3.mlp.c_fc.weight; a name that is not known stays as it is."""
    stem, _, kind = name.rpartition(".")
    block, _, part = stem.rpartition(".")
    if part not in _NAMES or (block and not _BLOCK_NAME.fullmatch(block)):
        return name
    return f"h.{block.removeprefix('blk.')}.{_NAMES[part]}.{kind}" if block else f"{_NAMES[part]}.{kind}"


def _their_name(name: str) -> str:
    """Example: h.3.mlp.c_fc.weight is blk.3.ffn_up.weight."""
    stem, _, kind = name.rpartition(".")
    if not stem.startswith("h."):
        return f"{_THEIRS[stem]}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"blk.{layer}.{_THEIRS[part]}.{kind}"


def _import_gguf(purpose: str) -> Any:
    try:
        import gguf
    except ImportError:
        raise MissingDependencyError(
            f"{purpose} needs the library gguf: pip install '.[gguf]' in gptwo's checkout"
        ) from None
    return gguf


def write(path: Path, config: GPTConfig, take: Take, dtype: str, tokenizer: HasVocabulary | None) -> None:
    """Write one file, tensor by tensor.

    Raises CheckpointError for values beyond the range of `dtype` and for matrices that are not made of whole blocks,
    TokenizerError for a tokenizer that llama.cpp does not have, MissingDependencyError, and OSError.
    """
    gguf = _import_gguf("writing GGUF")
    shapes = dict(expected_shapes(config))
    layouts = {name: _target_layout(gguf, name, shape, dtype) for name, shape in shapes.items()}
    writer = gguf.GGUFWriter(path, "gpt2")
    try:
        writer.add_name("gpt2")
        writer.add_context_length(config.n_positions)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.inner_size)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_file_type(_FILE_TYPES[dtype])
        if dtype in ("Q8_0", "Q4_0"):
            writer.add_quantization_version(_QUANTIZATION_VERSION)
        _add_tokenizer(writer, config, None if tokenizer is None else tokenizer.vocabulary)
        for name, (kind, element, shape) in layouts.items():
            size = math.prod(shape) * element.itemsize
            writer.add_tensor_info(_their_name(name), shape, element, size, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, (kind, _, _) in layouts.items():
            values = take(name)
            values = values.T if name.endswith(LINEAR_WEIGHTS) else values
            writer.write_tensor_data(_as_stored(gguf, values, kind, name))
    finally:
        writer.close()


def _target_layout(
    gguf: Any, name: str, shape: tuple[int, ...], dtype: str
) -> tuple[Any, np.dtype[Any], tuple[int, ...]]:
    """How a tensor is written: its type, the elements of its array and their shape."""
    shape = shape[::-1] if name.endswith(LINEAR_WEIGHTS) else shape
    if len(shape) == 1 or name == _POSITIONS:
        dtype = "F32"
    elif dtype == "Q4_0" and name in (EMBEDDING, HEAD):
        dtype = "Q8_0"
    kind = gguf.GGMLQuantizationType[dtype]
    if dtype in STORED_AS:
        return kind, STORED_AS[dtype], shape
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if shape[-1] % block:
        raise CheckpointError(
            f"tensor {name} has rows of {shape[-1]}, and {dtype} comes in blocks of {block}; take F32, F16 or BF16"
        )
    return kind, STORED_AS["U8"], (*shape[:-1], shape[-1] // block * size)


def _as_stored(gguf: Any, values: Floats, kind: Any, name: str) -> Array:
    if kind.name in STORED_AS:
        return encode_all(values, kind.name, name)
    values = np.ascontiguousarray(values)
    if not max(values.max(), -values.min()) <= _PEAK:  # NaN too
        raise CheckpointError(f"tensor {name} has values beyond the range of {kind.name}; save it as F32")
    with np.errstate(all="ignore"):  # of a block of values near 0, the inverse of the scale is infinite
        blocks: Array = gguf.quantize(values, kind)  # a few rows at a time
    return blocks


def _add_tokenizer(writer: Any, config: GPTConfig, vocabulary: Vocabulary | None) -> None:
    end = None if vocabulary is None else vocabulary.end_of_text_id
    first, last = (end if token_id is None else token_id for token_id in (config.bos_token_id, config.eos_token_id))
    if first is not None:
        writer.add_bos_token_id(first)
    if last is not None:
        writer.add_eos_token_id(last)
    if vocabulary is None:
        writer.add_tokenizer_model("no_vocab")
        writer.add_vocab_size(config.vocab_size)
        return
    if vocabulary.kind != "gpt2":
        raise TokenizerError("GGUF holds tokenizers of GPT-2's kind, and this one cuts or encodes text in another way")
    padding = config.vocab_size - len(vocabulary.tokens)
    types = [_CONTROL if token_id in vocabulary.special else _NORMAL for token_id in range(len(vocabulary.tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*vocabulary.names, *(f"[PAD{number}]" for number in range(padding))])
    writer.add_token_types([*types, *[_UNUSED] * padding])
    writer.add_token_merges([f"{left} {right}" for left, right in vocabulary.merges])
    writer.add_add_bos_token(False)


TARGET: Final = Target(
    "GGUF",
    DTYPES,
    write,
    suffix=SUFFIX,
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "activation_function": GELU_BY_TANH,
    },
)
