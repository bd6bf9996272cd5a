"""docs/inspection.md: its table is that of the code, its commands and its Python run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from gptwo.cli import main
from gptwo.inspection import ACTIVATIONS, Inspector, activation_names

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "inspection.md").read_text(encoding="utf-8")


def test_the_table_of_activations_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| \(([A-Z, ]+)\) \| (.+) \|$", TEXT, flags=re.MULTILINE)
    assert rows == [(row.name, ", ".join(row.shape), row.meaning) for row in ACTIVATIONS]


def test_every_activation_has_a_name_in_transformerlens() -> None:
    table = TEXT[TEXT.index("| TransformerLens |") : TEXT.index("`run_with_cache(text)`")]
    ours = [name for row in table.splitlines()[2:] if row for name in re.findall(r"`([\w.]+)`", row.split("|")[2])]
    assert ours == [row.name for row in ACTIVATIONS]


def test_what_the_page_calls_an_inspector_has_it_has() -> None:
    assert {"names", "config", "encode", "token_id", "token_texts", "weight", "unembed"} == set(
        re.findall(r"`model\.(\w+)", TEXT[TEXT.index("| `model.names`") : TEXT.index("### Names for users")])
    )


def test_the_table_holds_all_that_a_run_keeps() -> None:
    config = Inspector.load("shakespeare").config
    names = [re.sub(r"^h\.\d+\.", "h.N.", name) for name in activation_names(config)]
    assert list(dict.fromkeys(names)) == [row.name for row in ACTIVATIONS]


def test_the_commands_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = re.findall(r"^```sh\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    for line in commands.splitlines():
        assert main(line.partition("#")[0].split()[1:]) == 0
    assert "h.0.attn.c_attn.weight" in capsys.readouterr().out


def test_the_python_of_the_page_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8
    names: dict[str, object] = {"__name__": "inspection"}
    for block in blocks:
        exec(compile(block, "inspection.md", "exec"), names)
    out = capsys.readouterr().out
    assert "('ROMEO', ':'" in out
    assert "(6, 5, 5)" in out
    assert "84 ['wte', 'wpe', 'h.0.resid_pre']\nTrue" in out
    difference = np.asarray(names["difference"])
    assert not np.isclose(difference[0, 0], difference[0, 1])
    assert np.allclose(difference[0, 2:], difference[0, 1])
    assert {path.name for path in tmp_path.iterdir()} == {"attention.png", "lens.png"}


def test_the_functions_and_links_that_the_page_names_are_there() -> None:
    import gptwo.inspection

    table = TEXT[TEXT.index("| function |") :]
    named = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert len(named) == 6
    assert set(named) <= set(gptwo.inspection.__all__)
    for name in gptwo.inspection.__all__:
        assert getattr(gptwo.inspection, name) is not None
