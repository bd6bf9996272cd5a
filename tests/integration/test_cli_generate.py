"""`generate`, `top` and `score` on a tiny random model, in this process."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import gptwo
from gptwo.cli import main
from gptwo.language_model import LanguageModel

Capture = pytest.CaptureFixture[str]
PROMPT = "First Citizen"


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> LanguageModel:
    return gptwo.load(tiny_checkpoint)


@pytest.fixture(autouse=True)
def tiny_model(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTWO_MODEL", str(tiny_checkpoint))


def run(capsys: Capture, *arguments: str, code: int = 0) -> str:
    """The output of a command, which must end with this code and, if that is 0, say nothing on standard error."""
    assert main(list(arguments)) == code
    out, err = capsys.readouterr()
    assert err == "" or code != 0
    return out if code == 0 else err


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


# ---- one prompt


def test_generate_writes_what_the_model_generates(model: LanguageModel, capsys: Capture) -> None:
    expected = model.generate(PROMPT, gptwo.SamplingParams(max_tokens=20, temperature=0.8, top_k=50, seed=1)).text
    options = ["--max-tokens", "20", "--temperature", "0.8", "--top-k", "50", "--seed", "1"]
    assert run(capsys, "generate", PROMPT, *options) == expected + "\n"
    assert run(capsys, "generate", PROMPT, *options, "--echo") == PROMPT + expected + "\n"


def test_a_prompt_may_come_from_standard_input(
    model: LanguageModel, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.generate("é\n", gptwo.SamplingParams(max_tokens=5, temperature=0)).text
    type_in(monkeypatch, "é\n\n".encode())
    assert run(capsys, "generate", "-", "--max-tokens", "5", "--temperature", "0") == expected + "\n"


@pytest.mark.parametrize("prompt", ["", "   ", "<|endoftext|>", "\x00"])
def test_odd_prompts_are_prompts(model: LanguageModel, prompt: str, capsys: Capture) -> None:
    expected = model.generate(prompt, gptwo.SamplingParams(max_tokens=5, temperature=0)).text
    assert run(capsys, "generate", prompt, "--max-tokens", "5", "--temperature", "0") == expected + "\n"


def test_without_max_tokens_a_text_goes_on_to_the_end_of_the_context(model: LanguageModel, capsys: Capture) -> None:
    assert model.tokenizer is not None
    whole = json.loads(run(capsys, "generate", PROMPT, "--json", "--temperature", "0", "--ignore-eos"))
    assert len(whole["prompt_token_ids"]) + len(whole["token_ids"]) == model.config.n_positions


def test_more_positions_than_there_are_is_an_error_with_both_numbers(capsys: Capture) -> None:
    message = run(capsys, "generate", PROMPT, "--max-tokens", "500", code=1)
    assert "500" in message
    assert "64" in message
    assert message.count("\n") == 1


def test_stop_strings_end_the_text(model: LanguageModel, capsys: Capture) -> None:
    params = gptwo.SamplingParams(max_tokens=30, temperature=0)
    text = model.generate(PROMPT, params).text
    stop = text[3:5]
    expected = text[: text.index(stop)]
    options = ["--max-tokens", "30", "--temperature", "0", "--stop", "never there", "--stop", stop]
    assert run(capsys, "generate", PROMPT, *options) == expected + "\n"
    with_it = run(capsys, "generate", PROMPT, *options, "--include-stop-str-in-output")
    assert with_it == expected + stop + "\n"


def test_several_texts_have_headings(model: LanguageModel, capsys: Capture) -> None:
    params = gptwo.SamplingParams(max_tokens=6, n=3, seed=2)
    texts = [choice.text for choice in model.generate(PROMPT, params).choices]
    assert len(set(texts)) == 3
    expected = "".join(f"==> text {i} of 3 <==\n{text}\n" for i, text in enumerate(texts, 1))
    options = ["--max-tokens", "6", "--n", "3", "--seed", "2"]
    assert run(capsys, "generate", PROMPT, *options) == expected
    assert run(capsys, "generate", PROMPT, *options, "--echo").count(f"<==\n{PROMPT}") == 3
    assert run(capsys, "generate", PROMPT, *options, "--best-of", "4").startswith("==> text 1 of 3 <==\n")


def test_beams_search(model: LanguageModel, capsys: Capture) -> None:
    params = gptwo.BeamParams(num_beams=3, num_return_sequences=2, max_tokens=6, length_penalty=0.5)
    texts = [choice.text for choice in model.generate(PROMPT, params).choices]
    options = ["--max-tokens", "6", "--beams", "3", "--num-return-sequences", "2", "--length-penalty", "0.5"]
    expected = "".join(f"==> text {i} of 2 <==\n{text}\n" for i, text in enumerate(texts, 1))
    assert run(capsys, "generate", PROMPT, *options) == expected
    found = json.loads(run(capsys, "generate", PROMPT, *options, "--json"))
    assert [choice["text"] for choice in found["choices"]] == texts
    assert found["score"] == found["choices"][0]["score"] > found["choices"][1]["score"]


def test_json_is_one_object_with_all_that_is_known(model: LanguageModel, capsys: Capture) -> None:
    completion = model.generate(PROMPT, gptwo.SamplingParams(max_tokens=4, seed=3, n=2, logprobs=2, prompt_logprobs=0))
    options = ["--max-tokens", "4", "--seed", "3", "--n", "2", "--logprobs", "2", "--prompt-logprobs", "0"]
    out = run(capsys, "generate", PROMPT, *options, "--json")
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["prompt"] == PROMPT
    assert found["text"] == completion.text
    assert found["token_ids"] == list(completion.token_ids)
    assert found["finish_reason"] == "length"
    assert found["seed"] == 3
    assert [choice["text"] for choice in found["choices"]] == [choice.text for choice in completion.choices]
    assert completion.logprobs is not None
    assert [entry["logprob"] for entry in found["logprobs"]] == [entry.logprob for entry in completion.logprobs]
    assert [len(entry["top"]) for entry in found["logprobs"]] == [2] * 4
    assert found["prompt_logprobs"][0] is None
    assert len(found["prompt_logprobs"]) == len(found["prompt_token_ids"])
    plain = json.loads(run(capsys, "generate", PROMPT, "--max-tokens", "4", "--json"))
    assert "logprobs" not in plain
    assert "prompt_logprobs" not in plain


@pytest.mark.parametrize(("options", "streamed"), [([], True), (["--beams", "2"], False), (["--json"], False)], ids=str)
def test_stats_go_to_standard_error(options: list[str], streamed: bool, capsys: Capture) -> None:
    assert main(["generate", PROMPT, "--ignore-eos", "--stats", "--max-tokens", "5", *options]) == 0
    out, err = capsys.readouterr()
    assert "tokens/s" not in out
    assert err.startswith("load ")
    assert ("first token" in err) is streamed
    found = re.fullmatch(r".* tokens/s  5 tokens(?:  seed (\d+))?\n", err)
    assert found
    assert (found[1] is None) is ("--beams" in options)
    if found[1] is not None:  # and with the seed that was told the text can be had again
        again = run(capsys, "generate", PROMPT, "--ignore-eos", "--max-tokens", "5", *options, "--seed", found[1])
        assert again == out


# ---- many prompts


def test_a_file_of_prompts_is_continued_line_by_line(model: LanguageModel, tmp_path: Path, capsys: Capture) -> None:
    prompts = ["First", "", "hear me"]
    params = gptwo.SamplingParams(max_tokens=5, temperature=0)
    texts = [model.generate(prompt, params).text for prompt in prompts]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    options = ["--file", str(tmp_path / "prompts.txt"), "--max-tokens", "5", "--temperature", "0"]
    expected = "".join(f"==> prompt {i} of 3 <==\n{text}\n" for i, text in enumerate(texts, 1))
    assert run(capsys, "generate", *options) == expected
    lines = [json.loads(line) for line in run(capsys, "generate", *options, "--json").splitlines()]
    assert [line["text"] for line in lines] == texts
    assert [line["prompt"] for line in lines] == prompts


def test_more_prompts_than_fit_in_one_batch_keep_their_order(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptwo.cli.generate.CHUNK", 3)
    (tmp_path / "prompts.txt").write_text("".join(f"speak {i}\n" for i in range(8)))
    out = run(capsys, "generate", "--file", str(tmp_path / "prompts.txt"), "--max-tokens", "2", "--json")
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == [f"speak {i}" for i in range(8)]


def test_lines_of_jsonl_bring_their_own_parameters(model: LanguageModel, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "prompts.jsonl"
    lines: list[dict[str, Any]] = [
        {"prompt": "First", "max_tokens": 3},
        {"prompt": [1, 2, 3], "temperature": 1.0, "seed": 7, "n": 2},
        {"prompt": "hear", "num_beams": 2},
        {"prompt": []},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    error = run(capsys, "generate", "--file", str(path), "--temperature", "0", code=1)
    assert "line 3: --temperature is for sampling" in error
    out = run(capsys, "generate", "--file", str(path), "--max-tokens", "5", "--json")
    first, second, third, fourth = (json.loads(line) for line in out.splitlines())
    assert (len(first["token_ids"]), len(second["token_ids"])) == (3, 5)
    own = gptwo.SamplingParams(max_tokens=5, temperature=1.0, seed=7, n=2)
    assert [c["text"] for c in second["choices"]] == [c.text for c in model.generate([1, 2, 3], own).choices]
    assert third["text"] == model.generate("hear", gptwo.BeamParams(num_beams=2, max_tokens=5)).text
    assert fourth["prompt_token_ids"] == [model.config.eos_token_id]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "temprature": 1}', "did you mean 'temperature'"),
        ('{"prompt": "x", "temperature": -1}', "temperature is -1"),
        ('{"prompt": "x", "max_tokens": 999}', "999"),
        ('{"prompt": "x", "logit_bias": {"5000": 1}}', "5000"),
        ('{"prompt": [5000]}', "5000"),
        ('{"prompt": "\\ud800"}', "surrogate"),
        ("{", "not JSON"),
    ],
)
def test_the_line_of_a_wrong_prompt_is_named(line: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "fine"}\n\n' + line)
    error = run(capsys, "generate", "--file", str(tmp_path / "prompts.jsonl"), code=1)
    assert error.startswith(f"gptwo: {tmp_path}/prompts.jsonl line 3: ")
    assert message in error
    assert error.count("\n") == 1


def test_an_empty_file_of_prompts_gives_nothing(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "prompts.txt").write_text("")
    assert run(capsys, "generate", "--file", str(tmp_path / "prompts.txt")) == ""


# ---- top and score


def test_top_lists_the_likeliest_tokens_of_each_prompt(model: LanguageModel, capsys: Capture) -> None:
    out = run(capsys, "top", "First", "hear", "-k", "3")
    for prompt in ("First", "hear"):
        assert repr(prompt) in out
        for _, token_id, probability in model.top(prompt, k=3):
            assert any(line.split()[-2:] == [str(token_id), f"{100 * probability:.2f}%"] for line in out.splitlines())
    found = [json.loads(line) for line in run(capsys, "top", "First", "hear", "-k", "3", "--json").splitlines()]
    assert [entry["prompt"] for entry in found] == ["First", "hear"]
    assert [(e["text"], e["token_id"], e["probability"]) for e in found[0]["top"]] == model.top("First", k=3)


def test_top_takes_no_prompt_for_markup(capsys: Capture) -> None:
    assert "'[bold]x[/bold]'" in run(capsys, "top", "[bold]x[/bold]")


def test_score_measures_a_text(model: LanguageModel, tmp_path: Path, capsys: Capture) -> None:
    text = "hear me speak\n" * 20  # more than the model's context
    (tmp_path / "text").write_text(text)
    score = model.score(text)
    assert len(score.token_ids) > model.config.n_positions
    assert run(capsys, "score", str(tmp_path / "text")).splitlines() == [
        f"tokens           {len(score.token_ids):,}",
        f"log-probability  {score.total:.4f} nats",
        f"perplexity       {score.perplexity:.4f}",
        f"bits per byte    {score.bits_per_byte:.4f}",
    ]
    listed = run(capsys, "score", str(tmp_path / "text"), "--tokens").splitlines()
    assert len(listed) == len(score.token_ids) + 4
    assert listed[0].split()[0] == str(score.token_ids[0])
    found = json.loads(run(capsys, "score", str(tmp_path / "text"), "--tokens", "--json"))
    assert found["perplexity"] == score.perplexity
    assert [entry["logprob"] for entry in found["token_logprobs"]] == list(score.logprobs)
    assert math.isclose(sum(entry["logprob"] or 0 for entry in found["token_logprobs"]), found["log_probability"])


def test_a_text_of_one_token_has_no_perplexity(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"a")
    assert json.loads(run(capsys, "score", "-", "--json"))["perplexity"] is None


def test_an_empty_text_cannot_be_scored(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, b"")
    assert "nothing to score" in run(capsys, "score", "-", code=1)
