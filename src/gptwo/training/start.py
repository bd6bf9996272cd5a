"""The model that a run starts from."""

from __future__ import annotations

from typing import Any

import torch

from gptwo.checkpoint import load_checkpoint
from gptwo.config import GPTConfig
from gptwo.errors import DataError, TrainingError
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer
from gptwo.training.config import TrainConfig
from gptwo.training.lora import add_lora
from gptwo.training.prepared import PreparedData


def first_model(config: TrainConfig, data: PreparedData) -> GPT2:
    """The model that a run starts from, on the CPU: drawn anew, or another's, with LoRA beside it if that is asked for.

    Raises DataError or TrainingError if the data is not for that model, and what loading a model raises.
    """
    end = data.tokenizer.end_of_text_id
    dropout: dict[str, Any] = {
        "embd_pdrop": config.dropout,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.dropout if config.attn_dropout is None else config.attn_dropout,
    }
    if config.init == "scratch":
        shape = GPTConfig(
            vocab_size=data.tokenizer.vocab_size,
            n_positions=config.block_size,
            n_embd=config.n_embd or 384,
            n_layer=config.n_layer or 6,
            n_head=config.n_head or 6,
            bos_token_id=end,
            eos_token_id=end,
            **dropout,
        )
        model = GPT2(shape).initialize(torch.Generator().manual_seed(config.seed))
    else:
        model = _model_of(config, data, dropout)
    for tokens in (data.train, data.val):
        if tokens.vocab_size > model.config.vocab_size:
            raise DataError(
                f"{tokens.path}: its vocabulary has {tokens.vocab_size} tokens, the model's "
                f"{model.config.vocab_size}; prepare the data with the model's tokenizer"
            )
    if config.lora_rank:
        generator = torch.Generator().manual_seed(config.seed)
        add_lora(
            model, config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets, generator=generator
        )
    return model


def _model_of(config: TrainConfig, data: PreparedData, dropout: dict[str, Any]) -> GPT2:
    """The model that `init` names."""
    start = load_checkpoint(config.init, progress=True)
    if start.packed is not None:
        raise TrainingError(
            f"{config.init} is packed as {start.packed.weights}, which cannot be trained; "
            "start from the checkpoint that it was made from"
        )
    if config.block_size > start.config.n_positions:
        raise TrainingError(
            f"block_size is {config.block_size}, and {config.init} has {start.config.n_positions} positions; "
            "choose at most as many"
        )
    if start.tokenizer_path is not None and not _same_ids(Tokenizer.load(start.tokenizer_path), data.tokenizer):
        raise TrainingError(
            f"the data in {data.directory} was not prepared with the tokenizer of {config.init}; "
            f"prepare it with --tokenizer {config.init}"
        )
    arrays = {name: tensor.float32() for name, tensor in start.tensors.items()}
    return GPT2.from_arrays(start.config.replace(**dropout), arrays)


def _same_ids(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether two tokenizers mean the same by each id, however their files are written."""
    if one.fingerprint == other.fingerprint:
        return True
    if one.vocab_size != other.vocab_size:
        return False
    return all(one.token_bytes(token_id) == other.token_bytes(token_id) for token_id in range(one.vocab_size))
