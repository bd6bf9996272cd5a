"""The prompt loop, fed from a pipe, in this process."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gptwo
from gptwo.cli import main
from gptwo.cli.generation import generation_parameters
from gptwo.language_model import LanguageModel

Capture = pytest.CaptureFixture[str]
Typed = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LanguageModel:
    return gptwo.load(tiny_checkpoint)


@pytest.fixture
def typed(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Typed:
    """Type lines into `gptwo interactive`; gives what it writes on standard output and standard error."""

    def run(*lines: str, code: int = 0) -> tuple[str, str]:
        data = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        assert main(["interactive", "--model", str(tiny_checkpoint)]) == code
        return capsys.readouterr()

    return run


def greedy(model: LanguageModel, prompt: str, tokens: int) -> str:
    return model.generate(prompt, gptwo.SamplingParams(max_tokens=tokens, temperature=0)).text


def test_each_line_is_continued_with_the_parameters_set_before_it(typed: Typed, model: LanguageModel) -> None:
    out, err = typed(
        r"\config temperature 0", r"\config max-tokens 5", "First", "", r"\config max_tokens 3", r"hear \n"
    )
    assert out == greedy(model, "First", 5) + "\n" + greedy(model, r"hear \n", 3) + "\n"
    timings = err.splitlines()
    assert len(timings) == 2
    assert all(line.startswith("[first token ") and "tokens/s" in line for line in timings)


def test_config_lists_every_parameter_and_marks_the_changed(typed: Typed) -> None:
    out, err = typed(r"\config stop [\"a\",\"b\"]".replace('\\"', '"'), r"\config top_k 5", r"\config")
    assert err == ""
    values = {line[2:].split()[0]: line[2:].split(maxsplit=1)[1] for line in out.splitlines() if line[1:2] == " "}
    assert values.keys() == generation_parameters().keys()
    assert values["stop"] == "['a', 'b']"
    assert values["num_beams"] == values["seed"] == "none"
    assert [line.split()[1] for line in out.splitlines() if line.startswith("*")] == ["top_k", "stop"]


def test_config_says_what_one_parameter_is(typed: Typed) -> None:
    out, _ = typed(r"\config top_p 0.5", r"\config top-p")
    assert out == f"top_p = 0.5    {gptwo.SamplingParams.field_help()['top_p']}\n"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("temperature -1", "temperature is -1.0, expected"),
        ("temperature warm", "temperature: 'warm' is not a number"),
        ("tempreture 1", "did you mean 'temperature'"),
        ("best_of 0", "best_of is 0"),
        ("num_return_sequences 9", "num_return_sequences is 9, expected at most num_beams"),
        ("min_tokens 5", "min_tokens is 5, expected at most max_tokens"),
    ],
)
def test_a_wrong_value_is_refused_and_the_old_one_stays(setting: str, message: str, typed: Typed) -> None:
    before, _ = typed(r"\config max_tokens 4", r"\config")
    after, err = typed(r"\config max_tokens 4", rf"\config {setting}", r"\config")
    assert message in err
    assert err.count("\n") == 1
    assert after == before


def test_reset_sets_everything_back(typed: Typed) -> None:
    fresh, _ = typed(r"\config")
    assert typed(r"\config top_k 5", r"\config num_beams 2", r"\reset", r"\config")[0] == fresh


def test_num_beams_turns_beam_search_on_and_off(typed: Typed, model: LanguageModel) -> None:
    beams = gptwo.BeamParams(num_beams=3, max_tokens=4, num_return_sequences=2)
    first, second = (choice.text for choice in model.generate("All:", beams).choices)
    assert first != greedy(model, "All:", 4)
    out, _ = typed(
        r"\config temperature 0",
        r"\config max_tokens 4",
        r"\config num_beams 3",
        r"\config num_return_sequences 2",
        "All:",
        r"\config num_return_sequences 1",
        r"\config num_beams none",
        "All:",
    )
    assert out == f"==> text 1 of 2 <==\n{first}\n==> text 2 of 2 <==\n{second}\n{greedy(model, 'All:', 4)}\n"


def test_an_error_in_one_answer_does_not_end_the_loop(typed: Typed, model: LanguageModel) -> None:
    out, err = typed(r"\config max_tokens 500", "First", r"\config max_tokens 4", r"\config temperature 0", "First")
    assert err.startswith("gptwo: ")
    assert "500" in err
    assert out == greedy(model, "First", 4) + "\n"


def test_help_says_every_command_and_quit_leaves(typed: Typed) -> None:
    out, err = typed(r"\help", r"\quit", "never answered")
    assert all(word in out for word in (r"\config NAME VALUE", r"\reset", r"\quit", "Ctrl-C", "Ctrl-D"))
    assert err == ""


def test_an_unknown_command_is_told_the_nearest(typed: Typed) -> None:
    assert typed(r"\confg top_k 5") == ("", "gptwo: no command \\confg; did you mean 'config'?\n")


def test_two_backslashes_begin_a_prompt_with_one(typed: Typed, model: LanguageModel) -> None:
    assert typed(r"\config max_tokens 4", r"\config temperature 0", r"\\help")[0] == greedy(model, r"\help", 4) + "\n"


def test_the_last_line_may_lack_its_end_and_windows_line_ends_are_line_ends(
    tiny_checkpoint: Path, model: LanguageModel, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\\config temperature 0\r\n\\config max_tokens 3\r\nhear"))
    )
    assert main(["interactive", "--model", str(tiny_checkpoint)]) == 0
    assert capsys.readouterr().out == greedy(model, "hear", 3) + "\n"


def test_input_that_is_not_utf8_is_an_error_with_its_line(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\\help\n\xff\n")))
    assert main(["interactive", "--model", str(tiny_checkpoint)]) == 1
    assert "standard input line 2: not UTF-8" in capsys.readouterr().err


def test_ctrl_c_stops_one_answer_and_frees_its_sequence(
    typed: Typed, model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[LanguageModel] = []
    stream = LanguageModel.stream

    def interrupted(self: LanguageModel, *arguments: Any) -> Iterator[Any]:
        streams.append(self)
        pieces = stream(self, *arguments)
        try:
            for count, piece in enumerate(pieces):
                yield piece
                if len(streams) == 1 and count == 2:
                    os.kill(os.getpid(), signal.SIGINT)
        finally:
            pieces.close()  # type: ignore[attr-defined]

    monkeypatch.setattr(LanguageModel, "stream", interrupted)
    before = signal.getsignal(signal.SIGINT)
    out, err = typed(r"\config temperature 0", r"\config ignore_eos true", r"\config max_tokens 20", "First", "hear")
    first, second = err.splitlines()
    assert 3 <= int(first.split()[-2]) < 20
    assert second.endswith("20 tokens]")
    expected = model.generate("hear", gptwo.SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)).text
    assert out.endswith(f"\n{expected}\n")
    assert signal.getsignal(signal.SIGINT) is before
    assert streams[0]._shared._inbox == {}
