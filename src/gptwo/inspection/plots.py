"""The analyses as pictures: each function takes what its analysis returned and gives a PNG's bytes.

matplotlib (the extra `plot`) is imported when something is drawn; without it MissingDependencyError says so.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gptwo.errors import DataError, MissingDependencyError
from gptwo.files import replace_file
from gptwo.inspection.attention import AttentionPatterns, InductionScores
from gptwo.inspection.attribution import LogitAttribution
from gptwo.inspection.explanation import Explanation
from gptwo.inspection.lens import LogitLens
from gptwo.inspection.prediction import LossByPosition, SamplingSpread
from gptwo.scoring import perplexity

INK, FAINT, LINE, GREEN, RED = "#1f2933", "#7b8794", "#d9d5cb", "#0f6b56", "#d8613c"
SHADES = ("#fbfaf6", "#b9e7d4", "#3fa485", "#0f6b56")
DIVERGING = ("#d8613c", "#f7b79f", "#fbfaf6", "#9bdcc3", "#0f6b56")
MOST_COLUMNS = 40
"""Tokens that can be read beside each other; of a longer text the last ones are drawn."""

TOKEN_HEIGHT = 0.13
"""Inches that a token beside a head's attention takes."""
MOST_INCHES = 24
"""Of all heads beside each other, if tokens are written there."""

Words = Callable[[str, int], str]


def plot_lens(lens: LogitLens, names: Mapping[int, str]) -> bytes:
    """The likeliest token of each layer after each token, coloured by its probability. names: of the tokens by id."""
    with _drawing() as words:
        length, layers = len(lens.positions), len(lens.layers)
        count = min(MOST_COLUMNS, length)
        figure, axes = _figure(2.2 + 0.62 * max(count, 6), 1.7 + 0.32 * layers)
        shares = lens.top_probabilities[:, -count:, 0]
        image = axes.imshow(shares, cmap=_colours(SHADES), vmin=0, vmax=1, aspect="auto", origin="lower")
        for layer, column in np.ndindex(layers, count):
            token = words(names[int(lens.top_ids[layer, length - count + column, 0])], 8)
            ink = "white" if shares[layer, column] > 0.6 else INK
            axes.annotate(token, (column, layer), ha="center", va="center", size=7.5, color=ink)
        tokens = [words(lens.tokens[position], 10) for position in lens.positions[-count:]]
        axes.set_xticks(range(count), tokens, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(layers), [layer.replace("h.", "layer ") for layer in lens.layers])
        _title(axes, "What the model would say next after each layer" + _of_last(count, length))
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.01)
        bar.set_label("probability", color=FAINT)
        bar.outline.set_visible(False)
        return _png(figure)


def plot_attention(attention: AttentionPatterns) -> bytes:
    """The pattern of every head, small: rows are positions, columns those they take from; darker is more.

    Tokens are written beside the outer heads as long as there is room for them.
    """
    with _drawing() as words:
        layers, heads, length, _ = attention.patterns.shape
        side = max(0.45, min(1.1, 14 / heads))
        if is_labelled := TOKEN_HEIGHT * length <= min(4, MOST_INCHES / max(layers, heads)):
            side = max(side, TOKEN_HEIGHT * length)
        figure, axes = _figure(2.3 + side * heads, 1.2 + side * layers)
        gap = 1 + length // 12
        step = length + gap
        # One picture of all, which is drawn far sooner than one for each. The root, as on the page: small weights show.
        mosaic = np.full((layers * step - gap, heads * step - gap), np.nan, np.float32)
        for layer, head in np.ndindex(layers, heads):
            top, left = layer * step, head * step
            mosaic[top : top + length, left : left + length] = np.sqrt(attention.patterns[layer, head])
        image = axes.imshow(mosaic, cmap=_colours(SHADES), vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        middle = (length - 1) / 2
        word = "head " if side > 0.6 else ""  # as far as there is room
        axes.set_xticks([head * step + middle for head in range(heads)], [f"{word}{head}" for head in range(heads)])
        axes.set_yticks(
            [layer * step + middle for layer in range(layers)], [f"layer {layer}" for layer in range(layers)]
        )
        axes.tick_params(axis="x", labeltop=True, labelbottom=False)
        if is_labelled:
            for axis in (axes.xaxis, axes.yaxis):
                axis.remove_overlapping_locs = False  # a token may stand where its head does
            tokens = [words(token, 10) for token in attention.tokens]
            columns = [head * step + place for head in range(heads) for place in range(length)]
            axes.set_xticks(columns, tokens * heads, minor=True, rotation=90)
            rows = [layer * step + place for layer in range(layers) for place in range(length)]
            axes.set_yticks(rows, tokens * layers, minor=True)
            axes.tick_params(which="minor", length=0, labelsize=6, labelcolor=FAINT, labelright=True, labelleft=False)
        _title(axes, f"What each of {length} tokens (row) takes from those before it (column)")
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, shrink=min(1.0, 4 / (side * layers)))
        shares = (0, 0.01, 0.05, 0.2, 0.5, 1)
        bar.set_ticks(np.sqrt(shares).tolist(), labels=[f"{share:.0%}" for share in shares])
        bar.set_label("attention; the colour shows its square root", color=FAINT)
        bar.outline.set_visible(False)
        return _png(figure)


def plot_attribution(attribution: LogitAttribution, names: Mapping[int, str]) -> bytes:
    """What each part adds to a token's logit: bars by layer, and a square for each head. names: of the tokens by id."""
    with _drawing() as words:
        layers, heads = attribution.heads.shape
        figure, ((left, right),) = _figure(10, 1.8 + 0.42 * layers, 1, 2)
        parts = [
            ("token embedding", attribution.token_embedding),
            ("position embedding", attribution.position_embedding),
        ]
        for layer in range(layers):
            parts += [
                (f"layer {layer} attention", float(attribution.attentions[layer])),
                (f"layer {layer} MLP", float(attribution.mlps[layer])),
            ]
        parts.append(("final bias", attribution.final_bias))
        amounts = [amount for _, amount in parts]
        left.barh(range(len(parts)), amounts, color=[GREEN if amount >= 0 else RED for amount in amounts], height=0.7)
        left.axvline(0, color=FAINT, linewidth=0.8)
        left.set_yticks(range(len(parts)), [name for name, _ in parts])
        left.invert_yaxis()  # the first part on top, as on the page
        target, before = names[attribution.target_id], attribution.tokens[attribution.position]
        _title(left, f"Logit of {words(target, 14)} after {words(before, 14)}: {attribution.difference:+.2f}")
        most = float(np.abs(attribution.heads).max()) or 1.0
        image = right.imshow(attribution.heads, cmap=_colours(DIVERGING), vmin=-most, vmax=most, aspect="auto")
        _heads(right, layers, heads)
        _title(right, "by head")
        figure.colorbar(image, ax=right, fraction=0.05, pad=0.02).outline.set_visible(False)
        return _png(figure)


def plot_losses(losses: LossByPosition) -> bytes:
    """The loss of each token, and the mean up to it."""
    with _drawing() as words:
        values = np.asarray(losses.losses[1:], np.float64)
        places = np.arange(1, len(losses.losses))
        figure, axes = _figure(9, 3.6)
        axes.bar(places, values, color="#f7b79f", width=0.85)
        axes.plot(places, np.cumsum(values) / places, color=GREEN, linewidth=2, label="mean up to here")
        axes.set_ylabel("nats", color=FAINT)
        if len(places) <= MOST_COLUMNS:
            tokens = [words(token, 10) for token in losses.tokens[1:]]
            axes.set_xticks(places, tokens, rotation=45, ha="right", rotation_mode="anchor")
        axes.spines["left"].set_visible(True)
        axes.legend(frameon=False)
        each = perplexity(values.sum(), len(values))
        _title(axes, f"Loss of each token; mean {values.mean():.2f} nats, perplexity {each:.1f}")
        return _png(figure)


def plot_induction(scores: InductionScores) -> bytes:
    """The scores of every head, with `InductionScores.summary` above them."""
    with _drawing():
        layers, heads = scores.induction.shape
        figure, (row,) = _figure(10, 1.9 + 0.3 * layers, 1, 3)
        kinds = (
            ("what followed last time", scores.induction),
            ("the same token, earlier", scores.duplicate_token),
            ("the token before", scores.previous_token),
        )
        for axes, (name, values) in zip(row, kinds, strict=True):
            image = axes.imshow(values, cmap=_colours(SHADES), vmin=0, vmax=1, aspect="auto")
            _heads(axes, layers, heads)
            _title(axes, name)
        figure.suptitle(scores.summary, x=0.01, ha="left", color=INK, size=10)
        figure.colorbar(image, ax=row, fraction=0.03, pad=0.01).outline.set_visible(False)
        return _png(figure)


def plot_spread(spread: SamplingSpread) -> bytes:
    """The probabilities that the next token is drawn from: a row for each setting."""
    with _drawing() as words:
        figure, axes = _figure(2.4 + 0.55 * len(spread.top_ids), 1.8 + 0.36 * len(spread.settings))
        image = axes.imshow(spread.probabilities, cmap=_colours(SHADES), vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(*spread.probabilities.shape):
            share = spread.probabilities[row, column]
            ink = "white" if share > 0.6 else INK
            said = "·" if share == 0 else f"{100 * share:.0f}%"
            axes.annotate(said, (column, row), ha="center", va="center", size=7.5, color=ink)
        tokens = [words(token, 10) for token in spread.top_tokens]
        axes.set_xticks(range(len(tokens)), tokens, rotation=45, ha="right", rotation_mode="anchor")
        kept = [f"{label}  ({count:,} kept)" for label, count in zip(spread.labels, spread.kept, strict=True)]
        axes.set_yticks(range(len(kept)), kept)
        _title(axes, "The next token, as sampling settings spread it")
        figure.colorbar(image, ax=axes, fraction=0.04, pad=0.01).outline.set_visible(False)
        return _png(figure)


def draw_all(explanation: Explanation, folder: Path) -> list[Path]:
    """Write all of them into a directory, which is made if need be; the paths. Raises DataError if that fails."""
    pictures: dict[str, Callable[[], bytes]] = {
        "lens": lambda: plot_lens(explanation.lens, explanation.names),
        "attention": lambda: plot_attention(explanation.attention),
        "attribution": lambda: plot_attribution(explanation.attributions[-1], explanation.names),
        "induction": lambda: plot_induction(explanation.induction),
        "next-token": lambda: plot_spread(explanation.spread),
    }
    losses = explanation.losses
    if losses is not None:
        pictures["losses"] = lambda: plot_losses(losses)
    paths = [folder / f"{name}.png" for name in pictures]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, plot in zip(paths, pictures.values(), strict=True):
            with replace_file(path) as file:
                file.write(plot())
    except OSError as error:
        raise DataError(f"{folder}: pictures cannot be written there ({error.strerror})") from error
    return paths


def check_plotting() -> None:
    """Raise MissingDependencyError unless pictures can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("drawing needs matplotlib: pip install '.[plot]' in gptwo's checkout") from error


@contextmanager
def _drawing() -> Iterator[Words]:
    """matplotlib's settings for one picture; gives what makes a token's text fit to be drawn, up to a length."""
    check_plotting()
    import matplotlib
    from matplotlib import font_manager

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of the fonts that it finds the first time
    known = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    spaces = str.maketrans({" ": "␣", "\n": "↵", "\t": "⇥", "\r": "↵"})

    def words(text: str, longest: int) -> str:
        text = "".join(letter if ord(letter) in known else "□" for letter in text.translate(spaces))
        return text if len(text) <= longest else text[: longest - 1] + "…"

    # A $ is a $.
    with matplotlib.rc_context({"font.family": ["DejaVu Sans"], "font.size": 9, "text.parse_math": False}):
        yield words


def _figure(width: float, height: float, rows: int = 0, columns: int = 0) -> tuple[Any, Any]:
    """A figure, and its axes: one, or with rows and columns a table of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")
    grid: Any = figure.subplots(rows or 1, columns or 1, squeeze=False)
    for axes in grid.flat:
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelcolor=INK)
    return figure, grid if rows else grid[0][0]


def _heads(axes: Any, layers: int, heads: int) -> None:
    every = max(1, heads // 12)
    axes.set_xticks(range(0, heads, every))
    named = range(0, layers, max(1, layers // 12))
    axes.set_yticks(named, [f"layer {layer}" for layer in named])
    axes.set_xlabel("head", color=FAINT)


def _title(axes: Any, words: str) -> None:
    axes.set_title(words, loc="left", color=INK, size=10)


def _of_last(count: int, length: int) -> str:
    return "" if count == length else f" (the last {count} of {length} tokens)"


def _colours(shades: Sequence[str]) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("gptwo", list(shades))


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
