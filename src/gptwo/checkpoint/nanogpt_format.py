"""The format "nanogpt": the ckpt.pt that nanoGPT's train.py writes.

It is one pickle: {"model": state dict, "model_args": {n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout},
"optimizer": …, …}. Linear weights are nn.Linear's, (out, in). The model is a GPT-2 with the exact GELU and a tied head;
with bias=False it has no bias anywhere, which is a GPT-2 whose biases are zeros.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from gptwo.checkpoint.canonical import LINEAR_WEIGHTS, canonical_name, canonical_tensors
from gptwo.checkpoint.stored import Checkpoint, StoredTensor, shown
from gptwo.checkpoint.tokenizer_files import tokenizer_in
from gptwo.checkpoint.torch_pickle import load_pickle, stored_tensors
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, ConfigError

FILE: Final = "ckpt.pt"
LOOKS_LIKE: Final = f"a directory with {FILE}, or a file in .pt"

_REQUIRED: Final = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
_OPTIONAL: Final = ("bias", "dropout")  # the first releases had neither
_END_OF_TEXT: Final = 50256  # of GPT-2's tokenizer, which nanoGPT trains with, its vocabulary padded to 50304


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
    try:
        config = GPTConfig(
            vocab_size=arguments["vocab_size"],
            n_positions=arguments["block_size"],
            n_embd=arguments["n_embd"],
            n_layer=arguments["n_layer"],
            n_head=arguments["n_head"],
            activation_function="gelu",
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=None,
            eos_token_id=None,
        )
    except ConfigError as error:
        raise ConfigError(f"checkpoint {file}: model_args: {error}") from None
    if config.vocab_size <= _END_OF_TEXT:
        return config
    return config.replace(bos_token_id=_END_OF_TEXT, eos_token_id=_END_OF_TEXT)


def _input_first(tensor: StoredTensor) -> StoredTensor:
    """(out, in) -> (in, out), for the weights of linear layers. The head keeps its rows, one for each token."""
    return tensor.transposed() if canonical_name(tensor.name).endswith(LINEAR_WEIGHTS) else tensor
