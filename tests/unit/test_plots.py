"""The analyses as PNG files."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from made_explanation import HOSTILE, made_explanation

from gptwo.errors import DataError, MissingDependencyError
from gptwo.inspection import plots
from gptwo.inspection.plots import draw_all, plot_lens

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
