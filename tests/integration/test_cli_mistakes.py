"""Mistakes and odd surroundings that once went wrong, each with the answer that it gets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gptwo
from gptwo.cli import main
from gptwo.errors import ContextLengthError, InvalidRequestError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_min_tokens_alone_raises_the_number_of_tokens(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, "generate", "Speak", "-m", str(tiny_checkpoint), "--min-tokens", "20", "--json")
    assert (code, error) == (0, "")


def test_a_prompt_of_megabytes_is_refused_before_it_is_encoded(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gptwo.load(str(tiny_checkpoint)) as model:
        assert model.tokenizer is not None
        monkeypatch.setattr(type(model.tokenizer), "encode", lambda *_: pytest.fail("it was encoded"))
        with pytest.raises(ContextLengthError, match=r"3,000,000 characters.*64 positions"):
            model.generate("abc" * 1_000_000)


def test_a_text_is_certainly_too_long_only_if_it_is(tiny_checkpoint: Path) -> None:
    tokenizer = gptwo.Tokenizer.load(tiny_checkpoint)
    longest = max((tokenizer.token_text(i) for i in range(tokenizer.vocab_size - 1)), key=len)
    for count in (1, 30, 64):
        text = longest * count
        assert tokenizer.certainly_exceeds(text, count - 1) <= (len(tokenizer.encode(text)) > count - 1)
    assert tokenizer.certainly_exceeds("a" * 10_000, 10)
    assert not tokenizer.certainly_exceeds("a", 1)


@pytest.mark.parametrize("threads", ["257", "30000", "0"])
def test_more_threads_than_any_machine_has_are_refused(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], threads: str
) -> None:
    code, _, error = run(capsys, "generate", "x", "-m", str(tiny_checkpoint), "--threads", threads)
    assert code == 2
    assert f"{threads} is not in the range 1<=x<=256" in error


@pytest.mark.parametrize("device", ["meta", "hpu", "nothing", "cuda:99", ""])
def test_a_device_that_is_not_here_is_one_line(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    code, _, error = run(capsys, "generate", "x", "-m", str(tiny_checkpoint), "--device", device)
    assert code == 1
    assert error.startswith(f"gptwo: device {device!r} cannot be used")
    assert error.count("\n") == 1
    assert len(error) < 160


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--foo", "No such option '--foo'.\n"),
        ("--ou", "No such option '--ou'. Did you mean '--out'?\n"),
        ("--atten", "No such option '--atten'.\n"),
    ],
)
def test_an_unknown_option_is_told_with_those_that_are_near(
    capsys: pytest.CaptureFixture[str], option: str, hint: str
) -> None:
    code, _, error = run(capsys, "explain", "x", option)
    assert code == 2
    assert error.endswith(f"Error: {hint}")


@pytest.mark.parametrize("command", [["score"], ["generate", "--file"]])
def test_the_home_of_a_user_that_there_is_not_is_no_file(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    code, _, error = run(capsys, *command, "~no-such-user/x")
    assert code == 1
    assert "~no-such-user/x" in error


def test_an_error_that_nobody_reads_is_still_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "gptwo", "score", "/nonexistent"], stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 1


def test_usage_is_not_written_where_results_go(tmp_path: Path) -> None:
    words = f'"{sys.executable}" -m gptwo bogus 2>&-'
    done = subprocess.run(["bash", "-c", words], capture_output=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_line_that_mixes_beams_with_a_flag_for_sampling_is_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "num_beams": 2}\n')
    code, _, error = run(
        capsys, "generate", "--file", str(tmp_path / "p.jsonl"), "-m", str(tiny_checkpoint), "--temperature", "0"
    )
    assert code == 1
    assert "line 1" in error
    assert "--temperature is for sampling" in error


def test_json_survives_an_output_that_knows_only_ascii(tiny_checkpoint: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gptwo", "tokenize", "--json", "-m", str(tiny_checkpoint), "é"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert "?" not in done.stdout
    assert "\\ufffd" in done.stdout  # each byte of it is a token


def test_top_says_nothing_of_max_tokens(tiny_checkpoint: Path) -> None:
    with gptwo.load(str(tiny_checkpoint)) as model, pytest.raises(ContextLengthError) as caught:
        model.top([1] * 65)
    assert str(caught.value) == "the text has 65 tokens, more than the model's 64 positions"


def test_equal_answers_are_equal(tiny_checkpoint: Path) -> None:
    params = gptwo.SamplingParams(seed=3, max_tokens=5)
    with gptwo.load(str(tiny_checkpoint)) as model:
        assert model.generate("Speak", params) == model.generate("Speak", params)


def test_a_list_of_ids_without_end_is_refused_at_once() -> None:
    with pytest.raises(InvalidRequestError, match="at most 1000000 token ids"):
        gptwo.SamplingParams(stop_token_ids=range(10**9))
