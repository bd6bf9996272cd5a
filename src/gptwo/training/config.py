"""Everything a training run is told, with one line about each; flags and files carry the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gptwo.errors import InvalidRequestError, nearest_name
from gptwo.options import (
    MOST_THREADS,
    boolean,
    check_options,
    choice,
    integer,
    number,
    option,
    refuse,
    refuse_unknown_names,
    text,
)

LORA_TARGETS = ("c_attn", "c_proj", "c_fc")

# What may be another when a run goes on: it decides where and how things are computed or kept, and not what is learned
# (but for rounding, and for what dropout draws, which `compile` and shards do by other numbers).
CHANGEABLE = frozenset(
    {"device", "threads", "distributed", "compile", "activation_checkpointing", "save_every", "keep"}
    | {"sample_every", "sample_prompt", "tensorboard", "eval_every", "patience"}
)

# What other trainers call a setting, for a hint.
OTHER_NAMES = {
    "max_iters": "steps",
    "max_steps": "steps",
    "learning_rate": "lr",
    "learning_rate_decay": "schedule",
    "lr_scheduler_type": "schedule",
    "warmup_iters": "warmup_steps",
    "gradient_accumulation_steps": "grad_accumulation",
    "per_device_train_batch_size": "batch_size",
    "max_grad_norm": "grad_clip",
    "eval_interval": "eval_every",
    "eval_steps": "eval_every",
    "eval_iters": "eval_batches",
    "save_steps": "save_every",
    "save_total_limit": "keep",
    "out_dir": "out",
    "output_dir": "out",
    "dataset": "data",
    "init_from": "init",
    "lora_r": "lora_rank",
}


def _any_text(name: str, value: Any) -> str:
    """Text, perhaps none."""
    if not isinstance(value, str):
        refuse(name, value, "text")
    return value


def _targets(name: str, value: Any) -> tuple[str, ...]:
    """Names of matrices, as a tuple; one text stands for itself, or for several with commas between them."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not texts:
        refuse(name, value, f"one or more of {', '.join(LORA_TARGETS)}")
    words = [word.strip() for item in texts for word in text(name, item).split(",")]
    for word in words:
        if word not in LORA_TARGETS:
            raise InvalidRequestError(f"{name} has no matrix {word[:60]!r}{nearest_name(word, LORA_TARGETS)}", name)
    return tuple(words)


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run. Raises InvalidRequestError, whose `param` names the field."""

    init: str = option("scratch", text, "'scratch', or a model to start from: an embedded name, a path or a hub name.")
    n_layer: int | None = option(None, integer(1, optional=True), "Layers, from scratch only; none is 6.")
    n_head: int | None = option(None, integer(1, optional=True), "Attention heads, from scratch only; none is 6.")
    n_embd: int | None = option(None, integer(1, optional=True), "Width, from scratch only; none is 384.")
    tokenizer: str = option(
        "", _any_text, "Of data that nanoGPT or llm.c prepared; nothing is GPT-2's, or that of its meta.pkl."
    )
    block_size: int = option(256, integer(1), "Tokens of context in training; from scratch, the model's positions too.")
    document_attention: bool = option(
        False, boolean, "Attention within a document only, and positions from its beginning."
    )
    dropout: float = option(0.0, number(0.0, 0.95), "Dropout on embeddings and on what each part adds.")
    attn_dropout: float | None = option(
        None, number(0.0, 0.95, optional=True), "Dropout on attention weights; none is the same as dropout."
    )

    split_tokens: float = option(
        0.0,
        number(0.0, 0.9),
        "Share of tokens split at random into two that spell the same, against overfitting; falls with the learning "
        "rate.",
    )

    batch_size: int = option(16, integer(1), "Windows in one forward pass.")
    grad_accumulation: int = option(
        1, integer(1), "Forward passes whose gradients make one step, those of all processes together."
    )
    steps: int = option(1000, integer(1), "Optimizer steps in the whole run.")
    patience: int = option(
        0, integer(0), "Evaluations without a lower validation loss after which the run ends; 0 goes on."
    )

    optimizer: Literal["adamw", "muon"] = option(
        "adamw", choice("adamw", "muon"), "muon takes the matrices of the blocks, AdamW the rest."
    )
    lr: float = option(6e-4, number(0.0, 10.0, above_minimum=True), "Highest learning rate.")
    min_lr: float | None = option(
        None, number(0.0, 10.0, optional=True), "Learning rate at the end; none is a tenth of lr."
    )
    schedule: Literal["cosine", "linear", "wsd", "constant"] = option(
        "cosine",
        choice("cosine", "linear", "wsd", "constant"),
        "How the learning rate goes on after the warm-up; wsd is stable, then falls.",
    )
    warmup_steps: int | None = option(
        None,
        integer(0, optional=True),
        "Steps over which the learning rate rises; none is a tenth of all, at most 100.",
    )
    decay_fraction: float = option(
        0.2, number(0.0, 1.0), "Share of the steps, at the end, in which wsd's learning rate falls."
    )
    weight_decay: float = option(0.1, number(0.0, 10.0), "Decay of the weights, on matrices only.")
    beta1: float = option(0.9, number(0.0, 0.999999), "AdamW's average over gradients.")
    beta2: float = option(0.95, number(0.0, 0.999999), "AdamW's average over squared gradients.")
    muon_lr: float | None = option(
        None, number(0.0, 10.0, above_minimum=True, optional=True), "Muon's highest learning rate; none is lr."
    )
    muon_momentum: float = option(0.95, number(0.0, 0.999999), "Muon's average over gradients.")
    grad_clip: float = option(1.0, number(0.0), "Largest norm of the gradient; 0 does not clip.")

    lora_rank: int = option(0, integer(0), "Train LoRA matrices of this rank beside the model's; 0 trains the model.")
    lora_alpha: float = option(16.0, number(0.0, 1e6, above_minimum=True), "LoRA's part in the sum is alpha / rank.")
    lora_dropout: float = option(0.0, number(0.0, 0.95), "Dropout on what LoRA reads.")
    lora_targets: Sequence[str] = option(
        LORA_TARGETS, _targets, "The matrices that get LoRA: c_attn, c_proj, c_fc, with commas between them."
    )

    seed: int = option(0, integer(0, 2**63 - 1), "Of the first weights, the order of the data and the dropout.")
    dtype: Literal["f32", "bf16"] = option(
        "f32", choice("f32", "bf16"), "Arithmetic of the forward pass, bf16 by autocast."
    )
    activation_checkpointing: bool = option(
        False, boolean, "Keep only the blocks' inputs and compute the rest again: less memory, a third more work."
    )
    compile: bool = option(False, boolean, "Compile the model with torch.compile.")
    device: str = option("auto", text, "PyTorch device; auto is cuda where that can be used, and else cpu.")
    threads: int | None = option(None, integer(1, MOST_THREADS, optional=True), "Threads to compute with on a CPU.")
    distributed: Literal["auto", "ddp", "fsdp"] = option(
        "auto",
        choice("auto", "ddp", "fsdp"),
        "With torchrun: ddp has all of the model in each process, fsdp shards it; auto is ddp.",
    )

    eval_every: int = option(200, integer(1), "Steps between two evaluations on the validation data.")
    eval_batches: int = option(
        0, integer(0), "Batches of one evaluation, spread over the validation data, the same each time; 0 is all of it."
    )
    sample_every: int = option(0, integer(0), "Steps between two texts that the model writes; 0 writes none.")
    sample_prompt: str = option("", _any_text, "What those texts begin with; nothing is a new document.")
    save_every: int = option(200, integer(1), "Steps between two checkpoints to resume from.")
    keep: int = option(2, integer(1), "How many of the newest checkpoints are kept; the best one is kept too.")
    save_dtype: Literal["f32", "f16", "bf16"] = option(
        "f32", choice("f32", "f16", "bf16"), "Type of the weights in the saved model."
    )
    tensorboard: bool = option(False, boolean, "Write the metrics for TensorBoard too.")

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("n_layer", "n_head", "n_embd"):
            if self.init != "scratch" and getattr(self, name) is not None:
                raise InvalidRequestError(f"{name} is that of {self.init}; it can be chosen from scratch only", name)
        if self.final_lr > self.lr:
            raise InvalidRequestError(f"min_lr is {self.min_lr}, expected at most lr, which is {self.lr}", "min_lr")
        if self.lora_rank and self.init == "scratch":
            raise InvalidRequestError("lora_rank is for a model that has learnt; name one with init", "lora_rank")
        if self.lora_rank and self.optimizer == "muon":
            raise InvalidRequestError("optimizer 'muon' is not for LoRA, whose matrices are AdamW's", "optimizer")

    @property
    def warmup(self) -> int:
        """The steps over which the learning rate rises."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps

    @property
    def final_lr(self) -> float:
        """The learning rate at the end."""
        return self.lr / 10.0 if self.min_lr is None else self.min_lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and TOML."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
