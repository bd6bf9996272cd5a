"""docs/model.md and its diagram speak of what is in model.py, and of what the embedded model says."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import gptwo
from gptwo import GPTConfig
from gptwo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
SOURCE = (ROOT / "src/gptwo/model.py").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/model.md").read_text(encoding="utf-8")
DIAGRAM = ElementTree.parse(ROOT / "docs/model.svg")

# What is spoken of and is no name of model.py: letters of shapes, tokens, names of PyTorch and of files.
OTHERS = {"B", "T", "S", "C", "H", "D", "F", "V", "L", "G", "ood", "n_positions", "softmax", "config.json", "nn.Linear"}


def names_of_the_source() -> set[str]:
    """Classes, functions, arguments and attributes of model.py, and `Class.method`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.ClassDef):
            found |= {node.name, *(f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef))}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Name, ast.arg)):
            found.add(getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "arg", ""))
    return found


def texts(kind: str) -> list[str]:
    """The texts of one class in the diagram."""
    marked = [element for element in DIAGRAM.iter() if kind in (element.get("class") or "").split()]
    return ["".join(element.itertext()) for element in marked if element.tag.endswith("text")]


@pytest.mark.parametrize("name", sorted({*re.findall(r"`([A-Za-z_][\w.]*)`", PAGE), *texts("name")} - OTHERS))
def test_a_name_on_the_page_or_in_the_diagram_is_one_of_the_source(name: str) -> None:
    owner, _, member = name.partition(".")
    known = {"GPTConfig": GPTConfig, "Tokenizer": Tokenizer}
    if owner in known:
        assert hasattr(known[owner], member)
    elif re.fullmatch(r"[A-Za-z_][\w.]*", name):
        assert name in names_of_the_source()
    else:
        assert name in {"q kᵀ · scale", "· v"}


def test_the_code_of_the_page_is_that_of_the_source() -> None:
    lines = re.findall(r"^    (\S.*)$", PAGE, flags=re.MULTILINE)
    assert lines
    for line in lines:
        assert line in SOURCE, line


def test_the_figures_of_the_page_are_right() -> None:
    config, width = GPTConfig(), 768
    assert f"{config.parameter_count:,}" in PAGE
    parts = (config.vocab_size * width, config.n_positions * width, 2 * width)
    in_each_block = (4 * width**2 + 4 * width, 8 * width**2 + 5 * width, 4 * width)
    for figure in parts + in_each_block:
        assert f"{figure:,}" in PAGE
    assert sum(parts) + config.n_layer * sum(in_each_block) == config.parameter_count


def test_the_diagram_shows_what_the_embedded_model_says() -> None:
    model = gptwo.load("shakespeare")
    ids = model.tokenizer.encode("Good my")
    assert texts("chipname") == [model.tokenizer.decode([token]).replace(" ", "␣") for token in ids]
    assert [text for text in texts("note") if text.isdigit()] == [str(token) for token in ids]
    likeliest = model.top("Good my", k=4)
    assert texts("tok") == [text.replace(" ", "␣") for text, _, _ in likeliest]
    assert [float(text) for text in texts("pct")] == pytest.approx([p for _, _, p in likeliest], abs=5e-4)


def test_the_links_of_the_page_lead_somewhere() -> None:
    for link in re.findall(r'\]\(([^)#]+)\)|src="([^"]+)"', PAGE):
        assert (ROOT / "docs" / "".join(link)).exists(), link
