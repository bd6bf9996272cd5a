"""What a run tells while it goes on and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class StepReport:
    """What is known after a step; the validation figures only after an evaluation."""

    step: int
    loss: float
    """Mean cross-entropy of the step's targets, in nats."""
    lr: float
    grad_norm: float
    """Of all gradients together, before clipping."""
    epoch: float
    tokens_per_second: float
    """Of all processes together."""
    flops_per_second: float
    """Operations of the model's matrix products, of all processes together."""
    val_loss: float | None = None
    """Nats per target of the validation data."""
    val_nats_per_character: float | None = None
    val_share: float | None = None
    """How much of the validation data that is, if `eval_batches` leaves some out."""
    sample: str | None = None
    """A text that the model wrote, with its prompt."""

    def to_dict(self) -> dict[str, Any]:
        """For a line of JSON: what is None is left out."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    model: Path
    """The transformers directory: the weights with the lowest validation loss, or the last without such data."""
    steps: int
    """Fewer than were asked for if the validation loss had stopped falling (`patience`)."""
    start_val_loss: float | None
    """That of the model which the run started from, if it was another's."""
    best_val_loss: float | None
    best_val_nats_per_character: float | None
    resumed_from: int
    """Steps that were done before; as many as `steps` if the run was complete, and nothing was done now."""
    val_share: float | None = None
    """How much of the validation data the losses are of, if not all."""


def on_share(share: float | None) -> str:
    """The end of a validation loss in words: ", on 12.5% of the validation data" for 0.125, nothing for None."""
    return "" if share is None else f", on {100 * share:.3g}% of the validation data"


class StopRun(Exception):  # noqa: N818 - no error
    """Raised by whoever is told of a step, it ends the run there: the step is saved, and it comes out of `train`."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step
