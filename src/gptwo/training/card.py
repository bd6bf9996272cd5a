"""The card of a trained model: what it was made of, how, and how well it predicts."""

from __future__ import annotations

import dataclasses
import os
import shlex
from pathlib import Path

from gptwo.config import GPTConfig
from gptwo.errors import plural
from gptwo.training.config import TrainConfig
from gptwo.training.prepared import PreparedData
from gptwo.training.report import on_share
from gptwo.training.token_data import TokenData

BEGINNING = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- gpt2
- gptwo
---
"""


def train_command(data: Path, out: Path, config: TrainConfig) -> str:
    """The command that makes the same run: the settings that differ from the defaults."""
    words = ["gptwo", "train", "--data", str(data), "--out", str(out)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            words.append("--" + field.name.replace("_", "-"))
            words += [] if value is True else [",".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def model_card(
    *,
    shape: GPTConfig,
    config: TrainConfig,
    data: PreparedData,
    out: Path,
    step: int,
    seconds: float,
    start_val_loss: float | None,
    val_loss: float | None,
    val_nats_per_character: float | None,
    val_share: float | None,
) -> str:
    """Markdown with the front matter that model hubs read."""
    names, minutes, cores = ", ".join(data.texts), round(seconds / 60), os.cpu_count() or 1
    train, val = data.train, data.val
    lines = [
        f"# GPT-2, {shape.parameter_count:,} parameters, trained on {names}",
        "",
        f"{shape.n_layer} layers, width {shape.n_embd}, {shape.n_head} heads, {shape.n_positions} positions, "
        f"vocabulary of {shape.vocab_size:,} tokens.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {names}: {_amount(train)} to train, {_amount(val)} to validate |",
        f"| start | {config.init}{f', with LoRA of rank {config.lora_rank}, merged' if config.lora_rank else ''} |",
        f"| steps | {step} of {config.steps}{', the best by validation loss' if val_loss is not None else ''}, "
        f"{config.batch_size * config.grad_accumulation * config.block_size:,} tokens each |",
        f"| seed | {config.seed} |",
        f"| time | {minutes} {plural(minutes, 'minute')}, {cores} {plural(cores, 'core')}, {config.device} |",
    ]
    if start_val_loss is not None:
        lines.append(f"| validation loss before | {start_val_loss:.4f} nats per token{on_share(val_share)} |")
    if val_loss is not None:
        lines.append(
            f"| validation loss | {val_loss:.4f} nats per token"
            + ("" if val_nats_per_character is None else f", {val_nats_per_character:.4f} nats per character")
            + on_share(val_share)
            + " |"
        )
    taken = "all validation tokens but the first, in windows"
    if val_share is not None:
        taken = f"{config.eval_batches * config.batch_size:,} windows, the same each time and spread evenly, of those"
    lines += [
        "",
        f"The validation loss is the mean over {taken} of {config.block_size} tokens that lie end to end, each "
        "predicted from those before it in its window.",
        "",
        "Made by:",
        "",
        "```",
        *([data.command] if data.command else []),
        train_command(data.directory, out, config),
        "```",
        "",
    ]
    return BEGINNING + "\n".join(lines)


def _amount(data: TokenData) -> str:
    tokens = f"{data.count:,} {plural(data.count, 'token')}"
    if data.characters is None:
        return tokens
    return f"{data.characters:,} {plural(data.characters, 'character')} ({tokens})"
