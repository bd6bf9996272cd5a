"""Every command and every line of Python in the README runs."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from server_process import running_server

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GPTWO = Path(sys.executable).with_name("gptwo")

# The blocks of the README by language. A command whose line ends in this remark needs what isn't here.
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
NEEDS = ("# needs the hub",)
SERVES = "# runs until Ctrl-C"
NEEDS_A_SERVER = "# a server runs"


def commands(block: str) -> list[str]:
    """The commands of a block, continued lines joined, remarks on lines of their own left out."""
    lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def runs_here(command: str) -> bool:
    return "gptwo " in command and not command.startswith("make ") and not command.endswith((*NEEDS, SERVES))


SHELL = [commands(body) for language, body in BLOCKS if language == "sh"]


def test_the_two_commands_of_the_readme_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [command.split()[1] for block in SHELL for command in block if command.startswith("make ")]
    assert targets[:2] == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("block", [block for block in map(list, SHELL) if any(map(runs_here, block))])
def test_the_commands_of_the_readme_run_one_after_another(block: list[str], tmp_path: Path) -> None:
    (tmp_path / "play.txt").write_text("ROMEO:\nIt is the east, and Juliet is the sun.\n\n" * 200, encoding="utf-8")
    for command in filter(runs_here, block):
        words = command.replace("gptwo ", f"{shlex.quote(str(GPTWO))} ")
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert done.stdout, command


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [body for language, body in BLOCKS if language == "python" and NEEDS_A_SERVER not in body]
    assert blocks
    for body in blocks:
        exec(compile(body, "README.md", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out


def test_the_server_of_the_readme_answers_its_python_and_ends_with_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [command for block in SHELL for command in block if command.endswith(SERVES)]
    bodies = [body for language, body in BLOCKS if language == "python" and NEEDS_A_SERVER in body]
    assert bodies
    program, *arguments = shlex.split(command.removesuffix(SERVES))
    assert (program, arguments[-2:]) == ("gptwo", ["--port", "8000"])
    arguments[-1] = "0"  # another may have that one here
    with running_server(*arguments[1:]) as server:
        for body in bodies:
            here = body.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
            exec(compile(here, "README.md", "exec"), {"__name__": "readme"})
        assert capsys.readouterr().out.strip()
        assert server.end(signal.SIGINT) == 0


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
