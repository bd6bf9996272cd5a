"""Running commands in the process of the tests."""

from __future__ import annotations

import pytest

from gptwo.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The exit code of a command, its output, and what it says on standard error."""
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """What a command says that must end with this code and without output."""
    found, out, err = run(capsys, *arguments)
    assert found == code, err
    assert out == ""
    return err
