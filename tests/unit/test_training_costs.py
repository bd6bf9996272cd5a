"""The tables of docs/scaling.md on training are what their formulas give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gptwo.config import PUBLISHED_MODELS, GPTConfig
from gptwo.training.flops import flops_per_token

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
PEAK, SHARE, TOKENS, BANDWIDTH = 989e12, 0.4, 1024, 50e9
MODELS = dict(zip(["124M", "355M", "774M", "1.56B"], PUBLISHED_MODELS[1:], strict=True))


def rows(heading: str) -> dict[str, list[float]]:
    """The numbers of a table that begins with this heading, by model."""
    table = TEXT[TEXT.index(heading) :].partition("\n\n")[0].splitlines()[2:]
    found = {}
    for line in table:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        found[name] = [float(re.match(r"[\d,.]+", cell)[0].replace(",", "")) for cell in cells]  # type: ignore[index]
    return found


@pytest.mark.parametrize("name", MODELS)
def test_the_tables_on_training_are_what_their_formulas_give(name: str) -> None:
    model = MODELS[name]
    parameters, batch = model.parameters, 8 * TOKENS
    config = GPTConfig(n_embd=model.n_embd, n_layer=model.n_layer, n_head=model.n_head)
    operations = flops_per_token(config, TOKENS)
    speed = PEAK * SHARE / operations
    expected = {
        "| | operations per token": [operations / 1e9, speed, 10e9 / 8 / speed / 60, 10e9 / 64 / speed / 60],
        "| | DDP, each card": [
            18 * parameters / 1e9,
            2 * parameters / 1e9,
            parameters / 4 / 1e9,
            40 * model.n_embd * model.n_layer * batch / 1e9,
            4 * model.n_embd * model.n_layer * batch / 1e9,
        ],
        "| | the bytes of a step": [
            8 * parameters / 1e9,
            8 * parameters / BANDWIDTH * 1e3,
            batch / speed * 1e3,
            2 * batch / speed * 1e3,
        ],
    }
    for heading, values in expected.items():
        assert rows(heading)[name] == pytest.approx(values, rel=0.06, abs=0.03), heading
