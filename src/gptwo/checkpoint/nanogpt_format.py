"""The format "nanogpt": the ckpt.pt that nanoGPT's train.py writes.

It is one pickle: {"model": state dict, "model_args": {n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout},
"optimizer": …, …}. Linear weights are nn.Linear's, (out, in). The model is a GPT-2 with the exact GELU and a tied head;
with bias=False it has no bias anywhere, which is a GPT-2 whose biases are zeros.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

from gptwo.checkpoint.canonical import (
    EMBEDDING,
    HEAD,
    LINEAR_WEIGHTS,
    canonical_name,
    canonical_tensors,
    end_of_text_ids,
    expected_shapes,
)
from gptwo.checkpoint.safetensors_file import WRITTEN_DTYPES, encode_all
from gptwo.checkpoint.stored import Checkpoint, StoredTensor, shown
from gptwo.checkpoint.target import PUBLISHED, SavesTokenizer, Take, Target
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.checkpoint.torch_pickle import import_torch, load_pickle, stored_tensors
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, ConfigError

FILE: Final = "ckpt.pt"
LOOKS_LIKE: Final = FILE

_REQUIRED: Final = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_OPTIONAL: Final = ("bias", "dropout")  # the first releases had neither


def detect(path: Path) -> bool:
    """Whether a directory holds ckpt.pt, or a file is named .pt."""
    return (path / FILE).is_file() if path.is_dir() else path.is_file() and path.suffix == ".pt"


def read(path: Path) -> Checkpoint:
    """Read ckpt.pt, or the directory that holds it.

    The vocabulary stays as it is in the file, padding included, since nothing there says how much of it is used.
    Raises UnsafeCheckpointError, CheckpointError and ConfigError, each naming the file.
    """
    file = path / FILE if path.is_dir() else path
    content = load_pickle(file)
    if not isinstance(content, dict) or not {"model", "model_args"} <= content.keys():
        raise CheckpointError(f"checkpoint {file}: not a nanoGPT checkpoint, which holds 'model' and 'model_args'")
    arguments = content["model_args"]
    config = _config(file, arguments)
    stored = {name: _input_first(tensor) for name, tensor in stored_tensors(file, content["model"]).items()}
    biases = arguments.get("bias", True)
    config, tensors = canonical_tensors(config, stored, file, biases_optional=not biases)
    return Checkpoint(config, tensors, path, "nanogpt", tokenizer_in(file.parent))


def _config(file: Path, arguments: Any) -> GPTConfig:
    if not isinstance(arguments, dict):
        raise CheckpointError(f"checkpoint {file}: its model_args are no dictionary")
    missing = [name for name in _REQUIRED if name not in arguments]
    if missing:
        raise CheckpointError(f"checkpoint {file}: its model_args lack {', '.join(missing)}")
    unknown = [str(name) for name in arguments if name not in _REQUIRED + _OPTIONAL]
    if unknown:
        raise CheckpointError(
            f"checkpoint {file}: its model_args hold {shown(unknown[0])}, which nanoGPT's do not; "
            "it is a checkpoint of another program"
        )
    if not isinstance(arguments.get("bias", True), bool):
        raise CheckpointError(f"checkpoint {file}: bias in its model_args is no true or false")
    dropout = arguments.get("dropout", 0.0)
    size = arguments["vocab_size"]
    # It trains with GPT-2's tokenizer, its vocabulary padded to 50304.
    end = end_of_text_ids(size) if isinstance(size, int) else {}
    try:
        return GPTConfig(
            vocab_size=size,
            n_positions=arguments["block_size"],
            n_embd=arguments["n_embd"],
            n_layer=arguments["n_layer"],
            n_head=arguments["n_head"],
            activation_function="gelu",
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            **end,
        )
    except ConfigError as error:
        raise ConfigError(f"checkpoint {file}: model_args: {error}") from None


def _input_first(tensor: StoredTensor) -> StoredTensor:
    """(out, in) -> (in, out), for the weights of linear layers. The head keeps its rows, one for each token."""
    return tensor.transposed() if canonical_name(tensor.name).endswith(LINEAR_WEIGHTS) else tensor


def write(directory: Path, config: GPTConfig, take: Take, dtype: str, tokenizer: SavesTokenizer | None) -> None:
    """Write ckpt.pt, as sample.py and `GPT.load_state_dict` take it, and the tokenizer's files into a directory.

    torch.save holds all tensors at once: in another type than the source's, that is a copy of the model. Raises
    CheckpointError for values beyond the range of `dtype`, MissingDependencyError without PyTorch, and OSError.
    """
    torch = import_torch("writing nanoGPT's checkpoint")
    state = {}
    for name, _ in expected_shapes(config):
        values = take(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the arrays are read-only; nothing writes to them
            tensor = torch.from_numpy(values if dtype == "F32" else encode_all(values, dtype, name))
        if dtype == "BF16":
            tensor = tensor.view(torch.bfloat16)
        state[f"transformer.{name}"] = tensor.T if name.endswith(LINEAR_WEIGHTS) else tensor
    state[HEAD] = state[f"transformer.{EMBEDDING}"]
    arguments = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.n_positions,
        "bias": True,
        "vocab_size": config.vocab_size,
        "dropout": config.resid_pdrop,
    }
    try:
        with (directory / FILE).open("wb") as file:
            torch.save({"model": state, "model_args": arguments}, file)
    except RuntimeError as error:
        # What an unfinished write leaves behind makes torch raise an error of its own over the system's, or Ctrl-C.
        if isinstance(error.__context__, (OSError, KeyboardInterrupt)):
            raise error.__context__ from error
        raise
    if tokenizer is not None:
        tokenizer.save(directory)


TARGET: Final = Target(
    "nanoGPT", WRITTEN_DTYPES, write, files=(FILE,), fixed={**PUBLISHED, "activation_function": "gelu"}
)
