"""The ladder as a picture. matplotlib is imported when it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from gptwo.bench.ladder import Climbed
from gptwo.errors import BenchError, MissingDependencyError

INK, FAINT, FIRST, LAST = "#1f2933", "#7b8794", "#9fb3c8", "#0b7285"


def draw_ladder(climbed: Sequence[Climbed], path: Path, *, title: str, caption: str) -> None:
    """Write a PNG: a bar for each rung, its length the milliseconds per token on a logarithmic axis.

    Raises MissingDependencyError without matplotlib, BenchError if the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("drawing needs matplotlib: pip install '.[plot]' in gptwo's checkout") from error
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": ["DejaVu Sans"], "font.size": 11}):
        figure = Figure(figsize=(10, 1.5 + 0.56 * len(climbed)), dpi=160, facecolor="white")
        height = figure.get_figheight()
        axes = figure.add_axes((0.265, 0.62 / height, 0.625, 1.0 - 1.5 / height))
        times = [1e3 * step.times.minimum for step in climbed]
        colors = LinearSegmentedColormap.from_list("rungs", [FIRST, LAST])
        shades = [colors(i / max(1, len(climbed) - 1)) for i in range(len(climbed))]
        low = min(times) / 2.2
        axes.barh(range(len(times)), [t - low for t in times], left=low, height=0.66, color=shades)
        axes.set_xscale("log")
        axes.set_xlim(low, max(times) * 1.6)
        axes.set_ylim(len(times) - 0.45, -0.55)
        axes.set_yticks(range(len(times)), [_name(i, step) for i, step in enumerate(climbed)], color=INK)
        axes.tick_params(which="both", left=False, bottom=False, labelbottom=False, pad=8)
        axes.spines[:].set_visible(False)
        for i, now in enumerate(times):
            axes.annotate(
                f"{_figures(now)} ms",
                (now, i), xytext=(6, 0), textcoords="offset points", va="center", color=INK, weight="bold",
            )  # fmt: skip
            if i:
                axes.annotate(
                    f"{_figures(times[i - 1] / now)}x",
                    (low, i), xytext=(8, 0), textcoords="offset points", va="center", color="white", size=10,
                )  # fmt: skip
        figure.text(0.02, 1.0 - 0.34 / height, title, size=15, weight="bold", color=INK, va="center")
        words = "milliseconds per token, logarithmic; in the bars, the gain on the rung above; "
        words += f"{times[0] / times[-1]:.0f} times in all"
        figure.text(0.02, 1.0 - 0.64 / height, words, size=10.5, color=FAINT, va="center")
        figure.text(0.02, 0.24 / height, caption, size=8.5, color=FAINT, va="center")
        try:
            figure.savefig(path, format="png")
        except OSError as error:
            raise BenchError(f"{path}: cannot be written ({error.strerror})") from error


def _name(number: int, step: Climbed) -> str:
    return step.rung.name if number == 0 else f"+ {step.rung.name}"


def _figures(value: float) -> str:
    """Three figures: 0.950, 9.50, 95.0, 950."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"
