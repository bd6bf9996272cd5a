"""The lessons of the course: each notebook runs with its solutions put in, and says that they are right."""

from __future__ import annotations

import ast
import json
import linecache
import re
from pathlib import Path
from typing import Any

import pytest

from gptwo.course import LESSONS
from gptwo.errors import ExerciseError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "course").glob("*.ipynb"))


def cells(notebook: Path, kind: str = "code") -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def is_exercise(cell: dict[str, Any]) -> bool:
    return "exercise" in cell["metadata"].get("tags", ())


def names_in(source: str) -> list[str]:
    return [node.name for node in ast.parse(source).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def run_cell(source: str, where: str, names: dict[str, Any]) -> None:
    linecache.cache[where] = (len(source), None, source.splitlines(keepends=True), where)
    exec(compile(source, where, "exec"), names)


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks find the solutions, and draw nowhere."""
    monkeypatch.syspath_prepend(str(ROOT / "course"))
    monkeypatch.setenv("MPLBACKEND", "Agg")


def verdicts(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str, str]]:
    """The mark, the name and the words of each verdict that was printed."""
    return re.findall(r"^([✓✗]) (\w+): (.*)$", capsys.readouterr().out, flags=re.MULTILINE)


def test_there_is_a_notebook_for_each_lesson() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == [f"{i:02}_{name}" for i, name in enumerate(LESSONS, start=1)]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_its_solutions_and_all_of_them_are_right(
    notebook: Path, lessons: None, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="the lessons draw with matplotlib (extra plot)")
    matplotlib.use("Agg")
    lesson = notebook.stem[3:]
    names: dict[str, Any] = {"__name__": lesson}
    for number, cell in enumerate(cells(notebook)):
        source = "".join(cell["source"])
        if is_exercise(cell):
            source = f"from solutions.{lesson} import {', '.join(names_in(source))}"
        run_cell(source, f"{notebook.name}, cell {number}", names)
    said = verdicts(capsys)
    assert said == [("✓", name, "right.") for name in LESSONS[lesson]]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exercise_that_was_not_begun_is_told_that_it_is_empty(
    notebook: Path, lessons: None, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": notebook.stem}
    for number, cell in enumerate(cells(notebook)):
        source = "".join(cell["source"])
        if number == 0 or is_exercise(cell) or source.startswith("check("):
            run_cell(source, f"{notebook.name}, cell {number}", names)
    said = verdicts(capsys)
    assert [name for _, name, _ in said] == list(LESSONS[notebook.stem[3:]])
    for mark, name, text in said:
        assert mark == "✗", name
        assert "its body is still empty" in text, name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_cell_that_needs_an_empty_exercise_says_so(
    notebook: Path, lessons: None, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": notebook.stem}
    empty: set[str] = set()
    for number, cell in enumerate(cells(notebook)):
        source, where = "".join(cell["source"]), f"{notebook.name}, cell {number}"
        called = {
            node.func.id
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if is_exercise(cell):
            empty |= set(names_in(source))
            run_cell(source, where, names)
        elif called & empty:
            with pytest.raises(ExerciseError, match=r"^\w+ is still empty: write it in its exercise above"):
                run_cell(source, where, names)
            (needed,) = re.findall(r"^needs\((.*)\)$", source, flags=re.MULTILINE)
            assert called & empty <= set(needed.split(", "))
        elif number == 0:
            run_cell(source, where, names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    text = notebook.read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    for cell in cells(notebook):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_files_that_a_notebook_names_exist(notebook: Path) -> None:
    for cell in cells(notebook, "markdown"):
        text = "".join(cell["source"])
        for path in re.findall(r"`((?:src|docs|csrc|configs)/[\w./]*)`", text):
            assert (ROOT / path).exists(), path
        for path in re.findall(r"\]\(([^)#]+)\)", text):
            assert (notebook.parent / path).exists(), path
