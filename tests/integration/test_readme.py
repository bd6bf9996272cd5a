"""Every command and every line of Python in the README runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GPTWO = Path(sys.executable).with_name("gptwo")

# The blocks of the README by language. A command whose line ends in one of these remarks needs what isn't here.
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
NEEDS = ("# needs the hub", "# needs a text of yours")


def commands() -> list[str]:
    shell = "\n".join(body for language, body in BLOCKS if language == "sh")
    joined = shell.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


RUNNABLE = [c for c in commands() if "gptwo " in c and not c.endswith(NEEDS) and not c.startswith("pip ")]


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [c for c in commands() if c.startswith("make ")]
    for command in commands():
        if command.startswith("make "):
            assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's commands run, one after another: a later one may use what an earlier one made."""
    place = tmp_path_factory.mktemp("readme")
    (place / "play.txt").write_text("ROMEO:\nIt is the east, and Juliet is the sun.\n\n" * 200, encoding="utf-8")
    return place


@pytest.mark.xdist_group("readme")
@pytest.mark.parametrize("command", RUNNABLE)
def test_a_command_of_the_readme_runs(command: str, directory: Path) -> None:
    words = command.replace("gptwo ", f"{shlex.quote(str(GPTWO))} ")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words], cwd=directory, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [body for language, body in BLOCKS if language == "python"]
    assert blocks
    for body in blocks:
        exec(compile(body, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_every_place_in_the_tree_of_the_readme_exists() -> None:
    (tree,) = [body for language, body in BLOCKS if language == "text" and "src/gptwo/" in body]
    base = ROOT
    for line in tree.splitlines():
        name = line.split("  ")[0].rstrip() if not line.startswith("  ") else ""
        if name:
            base = ROOT / name.split()[0]
            assert base.exists(), name
        elif line.strip():
            assert (base / line.split()[0]).exists(), line


def test_every_file_that_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", README):
        path = next(filter(None, target))
        if "://" not in path:
            assert (ROOT / path).exists(), path
