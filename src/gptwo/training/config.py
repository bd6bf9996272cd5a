"""Everything a training run is told, with one line about each; flags and files carry the same names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from gptwo.errors import InvalidRequestError
from gptwo.options import boolean, check_options, choice, integer, number, option, refuse_unknown_names, text


@refuse_unknown_names
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a run. Raises InvalidRequestError, whose `param` names the field."""

    init: str = option("scratch", text, "'scratch', or a model to start from: an embedded name, a path or a hub name.")
    n_layer: int | None = option(None, integer(1, optional=True), "Layers, from scratch only; none is 6.")
    n_head: int | None = option(None, integer(1, optional=True), "Attention heads, from scratch only; none is 6.")
    n_embd: int | None = option(None, integer(1, optional=True), "Width, from scratch only; none is 384.")
    block_size: int = option(256, integer(1), "Tokens of context in training; from scratch, the model's positions too.")
    dropout: float = option(0.0, number(0.0, 0.95), "Dropout on embeddings and on what each part adds.")
    attn_dropout: float | None = option(
        None, number(0.0, 0.95, optional=True), "Dropout on attention weights; none is the same as dropout."
    )
    batch_size: int = option(16, integer(1), "Windows in one forward pass.")
    grad_accumulation: int = option(1, integer(1), "Forward passes whose gradients make one step.")
    steps: int = option(1000, integer(1), "Optimizer steps in the whole run.")
    lr: float = option(6e-4, number(0.0, 10.0, above_minimum=True), "Highest learning rate.")
    min_lr: float | None = option(
        None, number(0.0, 10.0, optional=True), "Learning rate at the end; none is a tenth of lr."
    )
    warmup_steps: int = option(100, integer(0), "Steps over which the learning rate rises; then it falls as a cosine.")
    weight_decay: float = option(0.1, number(0.0, 10.0), "AdamW's decay, on matrices only.")
    beta1: float = option(0.9, number(0.0, 0.999999), "AdamW's average over gradients.")
    beta2: float = option(0.95, number(0.0, 0.999999), "AdamW's average over squared gradients.")
    grad_clip: float = option(1.0, number(0.0), "Largest norm of the gradient; 0 does not clip.")
    dtype: Literal["f32", "bf16"] = option(
        "f32", choice("f32", "bf16"), "Arithmetic of the forward pass, bf16 by autocast."
    )
    seed: int = option(0, integer(0, 2**63 - 1), "Of the first weights, the order of the data and the dropout.")
    eval_every: int = option(200, integer(1), "Steps between two evaluations on the validation data.")
    save_every: int = option(200, integer(1), "Steps between two checkpoints to resume from.")
    save_dtype: Literal["f32", "f16", "bf16"] = option(
        "f32", choice("f32", "f16", "bf16"), "Type of the weights in the saved model."
    )
    compile: bool = option(False, boolean, "Compile the model with torch.compile.")
    device: str = option("cpu", text, "PyTorch device.")

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("n_layer", "n_head", "n_embd"):
            if self.init != "scratch" and getattr(self, name) is not None:
                raise InvalidRequestError(f"{name} is that of {self.init}; it can be chosen from scratch only", name)
        if self.final_lr > self.lr:
            raise InvalidRequestError(f"min_lr is {self.min_lr}, expected at most lr, which is {self.lr}", "min_lr")

    @property
    def final_lr(self) -> float:
        """The learning rate at the end."""
        return self.lr / 10.0 if self.min_lr is None else self.min_lr

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
