"""The analyses as PNG files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_explanation import HOSTILE, made_explanation

from gptwo.errors import DataError, MissingDependencyError
from gptwo.inspection import (
    InductionScores,
    draw_all,
    plot_attention,
    plot_attribution,
    plot_induction,
    plot_lens,
    plots,
)

pytest.importorskip("matplotlib", reason="needs the extra plot")

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ["lens", "attention", "attribution", "induction", "next-token", "losses"]


def width(picture: bytes) -> int:
    return int.from_bytes(picture[16:20], "big")


def test_each_analysis_is_a_picture_whatever_the_tokens_are(tmp_path: Path) -> None:
    explanation = made_explanation(HOSTILE + " $x^2$ \U0001f600 漢字", layers=1, heads=2)
    paths = draw_all(explanation, tmp_path / "new" / "pictures")
    assert [path.name for path in paths] == [f"{name}.png" for name in NAMES]
    assert all(path.read_bytes().startswith(PNG) for path in paths)
    assert sorted(path.name for path in (tmp_path / "new" / "pictures").iterdir()) == sorted(
        path.name for path in paths
    )


def test_of_a_long_text_the_last_tokens_are_drawn_and_a_single_one_is_too() -> None:
    long, short = made_explanation("a " * 120, layers=1, heads=1), made_explanation("alone", layers=1, heads=1)
    assert 1000 < width(plot_lens(long.lens, long.names)) < 4000
    assert width(plot_lens(short.lens, short.names)) < 1000


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plots give matplotlib's figures, not yet drawn."""
    monkeypatch.setattr(plots, "_png", lambda figure: figure)


def labels(axis: Any, *, minor: bool = False) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels(minor=minor)]


@pytest.mark.usefixtures("figures")
def test_layers_run_and_are_called_as_on_the_page() -> None:
    made = made_explanation("a b c")
    figure: Any = plot_lens(made.lens, made.names)
    axes = figure.axes[0]
    assert labels(axes.yaxis) == ["embeddings", "layer 0", "layer 1", "layer 2"]
    assert not axes.yaxis_inverted()  # the last on top
    for figure in (plot_attention(made.attention), plot_attribution(made.attributions[0], made.names)):
        heads = figure.axes[0 if len(figure.axes) == 2 else 1]
        assert labels(heads.yaxis) == ["layer 0", "layer 1", "layer 2"]
        assert heads.yaxis_inverted()
    assert labels(figure.axes[0].yaxis)[:3] == ["token embedding", "position embedding", "layer 0 attention"]
    assert figure.axes[0].yaxis_inverted()
    figure = plot_induction(made.induction)
    assert [labels(axes.yaxis)[0] for axes in figure.axes[:3]] == ["layer 0"] * 3
    assert all(axes.yaxis_inverted() for axes in figure.axes[:3])


@pytest.mark.usefixtures("figures")
def test_attention_says_what_its_colours_are_and_names_tokens_that_have_room() -> None:
    short: Any = plot_attention(made_explanation("a b c").attention)
    assert labels(short.axes[0].yaxis, minor=True) == ["a", "␣b", "␣c"] * 3
    assert labels(short.axes[0].xaxis, minor=True) == ["a", "␣b", "␣c"] * 4
    assert {label.get_rotation() for label in short.axes[0].get_xticklabels(minor=True)} == {90}
    assert "square root" in short.axes[1].get_ylabel()
    long: Any = plot_attention(made_explanation("a " * 60).attention)
    assert labels(long.axes[0].yaxis, minor=True) == []


@pytest.mark.usefixtures("figures")
def test_induction_says_whether_any_head_is_one() -> None:
    none = np.zeros((2, 3))
    one = none.copy()
    one[1, 2] = 0.75
    for scores, said in ((none, "No head is an induction head"), (one, r"score is 0.75, of layer 1, head 2.")):
        figure: Any = plot_induction(InductionScores(scores, none, none, 7.0, 7.0))
        assert said in figure.get_suptitle()


def test_a_single_token_has_no_picture_of_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lens", "attention", "attribution", "induction", "spread"):
        monkeypatch.setattr(plots, f"plot_{name}", lambda *_: PNG)
    assert [path.stem for path in draw_all(made_explanation("alone"), tmp_path)] == NAMES[:-1]


def test_losses_beyond_any_perplexity_are_drawn() -> None:
    losses = made_explanation("a b", layers=1, heads=1).losses
    assert losses is not None
    assert plots.plot_losses(dataclasses.replace(losses, losses=losses.losses + 1000)).startswith(PNG)


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        draw_all(made_explanation("a b", layers=1, heads=1), tmp_path / "file")


def test_without_matplotlib_one_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    explanation = made_explanation("a b", layers=1, heads=1)
    with pytest.raises(MissingDependencyError, match="plot"):
        plot_lens(explanation.lens, explanation.names)
