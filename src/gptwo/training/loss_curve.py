"""A run's losses as a picture. matplotlib is imported when it is drawn."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from gptwo.errors import MissingDependencyError, TrainingError
from gptwo.options import finite
from gptwo.training.run_directory import METRICS

NAME = "loss.png"
INK, FAINT, TRAINING, VALIDATION = "#1f2933", "#7b8794", "#9fb3c8", "#0b7285"
MEASURES = ("step", "loss", "val_loss")
SMOOTHED = 200
"""The training loss is drawn as the means of about so many stretches of steps."""


def draw_loss_curve(out: Path) -> Path | None:
    """Write `loss.png` into a run's directory from its metrics; None if there is no step yet.

    Raises MissingDependencyError without matplotlib, TrainingError if a file cannot be read or written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("drawing needs matplotlib: pip install '.[plot]' in gptwo's checkout") from error
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of the fonts that it finds the first time
    lines = _lines(out / METRICS)
    made = [line for line in lines if "loss" in line]  # all but a model's that was evaluated before the first step
    if not made:
        return None
    steps, losses = _means([line["step"] for line in made], [line["loss"] for line in made])
    validated = [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]
    with matplotlib.rc_context({"font.family": ["DejaVu Sans"], "font.size": 10}):
        figure = Figure(figsize=(8, 4.5), dpi=150, facecolor="white", layout="tight")
        axes = figure.add_subplot()
        axes.plot(steps, losses, color=TRAINING, linewidth=1.5, label="training")
        if validated:
            best = min(loss for _, loss in validated)
            axes.plot(*zip(*validated, strict=True), color=VALIDATION, linewidth=2, marker=".", label="validation")
            axes.axhline(best, color=FAINT, linewidth=0.8, linestyle=":")
            axes.set_title(f"lowest validation loss {best:.4f}", loc="left", color=INK)
        axes.set_xlabel("step", color=INK)
        axes.set_ylabel("nats per token", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        temporary = out / f".{NAME}.tmp"
        try:
            figure.savefig(temporary, format="png")
            temporary.replace(out / NAME)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise TrainingError(f"{out / NAME}: cannot be written ({error.strerror})") from error
    return out / NAME


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics; what is none, since somebody changed it, is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read ({error.strerror})") from error
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(line)
            if isinstance(values, dict) and all(finite(values.get(name, 0.0)) is not None for name in MEASURES):
                found.append(values)
    return [values for values in found if "step" in values]


def _means(steps: list[int], losses: list[float]) -> tuple[list[int], list[float]]:
    """The last step and the mean loss of each stretch. Example: of up to 200 steps, the steps and losses themselves."""
    stretch = max(1, len(steps) // SMOOTHED)
    firsts = range(0, len(steps), stretch)
    return (
        [steps[min(first + stretch, len(steps)) - 1] for first in firsts],
        [sum(part) / len(part) for first in firsts if (part := losses[first : first + stretch])],
    )
