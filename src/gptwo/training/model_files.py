"""What a run leaves for others: the model as a transformers directory, and what LoRA has learnt beside it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np

from gptwo.checkpoint import find_here, save_checkpoint
from gptwo.checkpoint.safetensors_file import write_safetensors
from gptwo.errors import TrainingError
from gptwo.files import replace_file
from gptwo.model import GPT2
from gptwo.tokenizer import Tokenizer
from gptwo.training.config import TrainConfig
from gptwo.training.lora import lora_state_dict, merge_lora

ADAPTER = "adapter"


def save_model(model: GPT2, directory: Path, tokenizer: Tokenizer, config: TrainConfig, card: str) -> None:
    """Save a model as a directory that transformers loads; with LoRA merged, and its matrices by themselves in
    `adapter` beside it, as PEFT reads them.

    The model stays as it is. Raises CheckpointError or TrainingError.
    """
    if config.lora_rank:
        _save_adapter(model, directory.with_name(ADAPTER), config)
        model = copy.deepcopy(model)
        merge_lora(model)
    save_checkpoint(directory, model.config, model.to_arrays(), tokenizer, dtype=config.save_dtype.upper(), card=card)


def _save_adapter(model: GPT2, directory: Path, config: TrainConfig) -> None:
    """Write what LoRA has learnt as PEFT reads it, where A is (r, in) and B (out, r)."""
    here = find_here(config.init)
    arrays = {}
    for name, tensor in lora_state_dict(model).items():
        layer, _, kind = name.rpartition(".lora_")
        array = np.ascontiguousarray(tensor.float().cpu().numpy().T)
        arrays[f"base_model.model.transformer.{layer}.lora_{kind.upper()}.weight"] = array
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.init if here is None else str(here.resolve()),
        "r": config.lora_rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": list(config.lora_targets),
        "fan_in_fan_out": True,  # weights lie (in, out)
        "bias": "none",
        "inference_mode": True,
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_safetensors(directory / "adapter_model.safetensors", arrays, "F32")
        with replace_file(directory / "adapter_config.json") as file:
            file.write((json.dumps(settings, indent=2) + "\n").encode())
    except OSError as error:
        raise TrainingError(f"{directory}: cannot be saved ({error.strerror})") from error
