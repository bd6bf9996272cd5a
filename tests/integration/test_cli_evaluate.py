"""`gptwo evaluate` as a person meets it: tables, JSON, formats, mistakes, Ctrl-C."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import refused, run
from tiny_run import make_data

import gptwo
from gptwo.cli.evaluate import NAMES, command
from gptwo.errors import OutOfMemoryError
from gptwo.evaluation import perplexity
from gptwo.evaluation.published import PUBLISHED
from gptwo.evaluation.tasks import TASKS
from gptwo.tokenizer import Tokenizer
from gptwo.training.prepared import PreparedData
from gptwo.version import __version__

GPTWO = [sys.executable, "-m", "gptwo"]
SECONDS = 120
TEXT = "Before we proceed any further, hear me speak. " * 20


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "play.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": f"hear me {word}"}) + "\n" for word in ("speak", "Speak", "any")))
    return path


def test_the_tasks_of_the_help_are_those_that_there_are() -> None:
    assert tuple(TASKS) == NAMES


def test_the_perplexity_of_a_text_as_a_table(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, text: Path
) -> None:
    code, out, err = run(capsys, "evaluate", tiny_checkpoint, "--text", text, "--weights", "f32", "--weights", "int4")
    assert (code, err) == (0, "")
    found = perplexity(gptwo.load(tiny_checkpoint, weights="f32"), TEXT)
    cost = perplexity(gptwo.load(tiny_checkpoint, weights="int4"), TEXT)
    assert re.search(r"task +measure +f32 +int4 *\n", out)
    for name, one, other in (
        ("perplexity", found.perplexity, cost.perplexity),
        ("bits per byte", found.bits_per_byte, cost.bits_per_byte),
        ("nats per character", found.nats_per_character, cost.nats_per_character),
    ):
        assert re.search(rf" {name} +{one:.4f} +{other:.4f} *\n", out), out
    words = [re.escape(f"{one.word_perplexity:.2e}") for one in (found, cost)]
    assert re.search(rf" word perplexity +{words[0]} +{words[1]} *\n", out), out
    digest = hashlib.sha256((tiny_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert out.startswith(f"{tiny_checkpoint}, ")
    assert f"sha256 of the weights {digest}\n" in out
    assert "published" not in out


def test_the_same_as_json_in_a_pipe_and_in_a_file(tiny_checkpoint: Path, text: Path, passages: Path) -> None:
    arguments = ["evaluate", str(tiny_checkpoint), "--text", str(text), "--tasks", "lambada", "--data", str(passages)]
    out = text.with_name("report.json")
    done = subprocess.run(
        [*GPTWO, *arguments, "--stride", "16", "--json", "--out", str(out)],
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # quiet in a pipe
    assert done.stdout.count("\n") == 1
    report = json.loads(done.stdout)
    assert report == json.loads(out.read_text(encoding="utf-8"))
    assert report["gptwo"] == __version__
    assert report["model"] == str(tiny_checkpoint)
    digest = hashlib.sha256((tiny_checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert report["checkpoint"] == {"sha256": digest, "weights_files": {"model.safetensors": digest}}
    assert report["settings"]["stride"] == 16
    assert report["settings"]["positions"] == 64
    lm = gptwo.load(tiny_checkpoint)
    assert report["tokenizer"] == lm.tokenizer.fingerprint
    first, second = report["results"]
    found = perplexity(lm, TEXT, stride=16)
    assert (first["task"], first["weights"], first["tokens"], first["stride"]) == (str(text), "f32", found.tokens, 16)
    assert first["perplexity"] == found.perplexity
    assert first["data_sha256"] == hashlib.sha256(text.read_bytes()).hexdigest()
    assert first["published"] == []
    assert (second["task"], second["examples"], second["cut"]) == ("lambada", 3, 0)
    assert second["data_sha256"] == hashlib.sha256(passages.read_bytes()).hexdigest()
    assert 0.0 <= second["accuracy"] <= second["last_token_accuracy"] <= 1.0


def test_several_tasks_have_data_of_their_own(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, text: Path, passages: Path
) -> None:
    swag = {"activity_label": "Speak", "ctx_a": "hear me", "ctx_b": "", "endings": ["speak", "any"], "label": 0}
    (tmp_path / "swag.jsonl").write_text(json.dumps(swag))
    (tmp_path / "cbt.txt").write_text("1 hear me .\n2 All : XXXXX .\tSpeak\t\tSpeak|any\n")
    arguments = ["evaluate", tiny_checkpoint, "--json", "--tasks", "lambada,hellaswag", "--tasks", "cbt-ne, wikitext2"]
    for name, file in (("lambada", passages.name), ("hellaswag", "swag.jsonl"), ("cbt-ne", "cbt.txt")):
        arguments += ["--data", f"{name}={tmp_path / file}"]
    arguments += ["--data", f"wikitext2={text}", "--limit", 2]
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    results = {result["task"]: result for result in json.loads(out)["results"]}
    assert list(results) == ["lambada", "hellaswag", "cbt-ne", "wikitext2"]
    assert results["lambada"]["examples"] == 2
    assert results["hellaswag"].keys() >= {"accuracy", "accuracy_norm"}
    assert "accuracy_norm" not in results["cbt-ne"]
    assert (results["lambada"]["left_out"], results["hellaswag"]["left_out"]) == (1, 0)
    wikitext = results["wikitext2"]
    assert wikitext["tokens"] == 64 + 32 - 1  # two windows
    assert wikitext["tokens"] + 1 + wikitext["left_out"] == len(
        gptwo.load(tiny_checkpoint).tokenizer.encode(TEXT + "\n")
    )


def test_beneath_the_table_it_says_what_the_figures_are_of(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, text: Path, passages: Path
) -> None:
    passages.write_text(passages.read_text() + json.dumps({"text": TEXT.strip()}) + "\n")
    arguments = ["evaluate", tiny_checkpoint, "--text", text, "--tasks", "lambada", "--data", passages]
    tokens = len(gptwo.load(tiny_checkpoint).tokenizer.encode(TEXT)) - 1
    _, out, _ = run(capsys, *arguments, "--stride", 16)
    assert out.endswith(
        f"{text}: {tokens} of {tokens} tokens, stride 16\n"
        "lambada: 4 of 4 examples, 1 of them cut to the model's 64 positions\n"
    )
    _, out, _ = run(capsys, *arguments, "--limit", 1, "--weights", "f32", "--weights", "int8")
    assert out.endswith(f"{text}: 63 of {tokens} tokens (--limit 1), stride 32\nlambada: 1 of 4 examples (--limit 1)\n")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """Data that was made with the model's tokenizer."""
    return make_data(tmp_path_factory.mktemp("prepared"), tokenizer=str(tiny_checkpoint))


def test_the_loss_on_the_validation_tokens_of_prepared_data(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, prepared: Path, text: Path
) -> None:
    arguments = ["evaluate", tiny_checkpoint, "--prepared", prepared]
    code, out, err = run(capsys, *arguments, "--text", text, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["settings"]["stride"] is None  # each has its own
    first, second = report["results"]
    val = PreparedData.load(prepared).val
    score = gptwo.load(tiny_checkpoint).score(val.window(0, len(val)).tolist(), stride=64)
    loss = -score.total / score.scored
    assert (first["stride"], second["stride"], second["task"]) == (32, 64, f"{prepared} (validation)")
    assert (second["tokens"], second["not_learned"], second["left_out"]) == (len(val) - 1, 0, 0)
    assert second["loss"] == pytest.approx(loss)
    assert second["nats_per_character"] == pytest.approx(loss * len(val) / val.characters)
    assert second["data_sha256"] == val.sha256
    _, out, _ = run(capsys, *arguments, "--limit", 1, "--stride", 32)
    assert f"{prepared} (validation): 63 of {len(val) - 1} tokens (--limit 1), stride 32\n" in out


def test_prepared_data_of_another_tokenizer_or_none_is_refused(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    err = refused(capsys, "evaluate", "shakespeare", "--prepared", prepared)
    assert f"{prepared}: was not made with the tokenizer of " in err
    assert err.endswith("shakespeare\n")
    err = refused(capsys, "evaluate", tiny_checkpoint, "--prepared", tmp_path)
    assert "data.json: cannot be read (No such file or directory); make the data with 'gptwo prepare'" in err


def test_records_given_as_a_text_are_read_as_one_with_a_note(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, passages: Path
) -> None:
    code, out, err = run(capsys, "evaluate", tiny_checkpoint, "--text", passages)
    assert (code, err.count("\n")) == (0, 1)
    assert f"{passages}: taken as one plain text" in err
    assert "word perplexity" in out


def test_what_was_found_is_on_the_disk_before_the_next_begins(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gptwo.cli.evaluate as module

    load = module._load

    def load_until_int4(checkpoint: Any, weights: str, options: Any) -> Any:
        if weights == "int4":
            raise OutOfMemoryError("no memory is left")
        return load(checkpoint, weights, options)

    monkeypatch.setattr(module, "_load", load_until_int4)
    out = text.with_name("report.json")
    formats = [word for name in ("f32", "int8", "int4") for word in ("--weights", name)]
    assert "no memory" in refused(capsys, "evaluate", tiny_checkpoint, "--text", text, *formats, "--out", out)
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["complete"] is False
    assert [result["weights"] for result in report["results"]] == ["f32", "int8"]
    assert report["settings"]["stride"] == 32  # the one that was used
    assert sorted(path.name for path in text.parent.iterdir()) == ["play.txt", "report.json"]


def test_what_cannot_be_evaluated_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path, text: Path, passages: Path
) -> None:
    (tmp_path / "empty").write_text("")
    (tmp_path / "single").write_text("q")
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "odd").write_text("q e d\n\u732b\n")
    (tmp_path / "odd.jsonl").write_text('{"text": "a b"}\n\n{"text": "a \u732b"}\n')
    (tmp_path / "bad.jsonl").write_text('{"text": "a b"}\n{"text": "a"}\n')
    bare = tmp_path / "bare"
    shutil.copytree(tiny_checkpoint, bare)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    model = ("evaluate", tiny_checkpoint)
    Tokenizer.characters(["a b q e d\n"]).save(tmp_path / "known")
    characters = (*model, "--tokenizer", tmp_path / "known")
    for arguments, message in (
        ((*model, "--text", tmp_path / "none"), "none: cannot be read (No such file or directory)"),
        ((*model, "--text", tmp_path / "empty"), "nothing to score: the text has no tokens"),
        ((*model, "--text", tmp_path / "single"), "nothing to predict: the text has a single token"),
        ((*model, "--text", tmp_path / "latin"), "not UTF-8"),
        ((*characters, "--text", tmp_path / "odd"), "odd line 2: the tokenizer has no token for '猫'"),
        ((*characters, "--tasks", "lambada", "--data", tmp_path / "odd.jsonl"), "odd.jsonl example 2: the tokenizer"),
        ((*characters, "--tasks", "wikitext2", "--data", tmp_path / "odd"), "odd line 2: the tokenizer has no token"),
        ((*model, "--text", text, "--out", "a" * 300), "cannot be written (File name too long)"),
        ((*model, "--text", text, "--tokenizer", "a" * 300), "no such file or directory, so no tokenizer"),
        ((*model, "--text", text, "--stride", 65), "stride is 65, expected an integer from 1 to 64"),
        ((*model, "--text", text, "--out", tmp_path), "cannot be written"),
        ((*model, "--text", text, "--out", tmp_path / "no" / "where"), "cannot be written"),
        ((*model, "--tasks", "lambada", "--data", tmp_path / "bad.jsonl"), "bad.jsonl line 2: expected a passage"),
        ((*model, "--tasks", "hellaswag"), "hellaswag_val.jsonl is not fetched by itself: download it from"),
        (("evaluate", tmp_path / "none", "--text", text), "no such file or directory"),
        (("evaluate", bare, "--text", text), "no tokenizer"),
        (("evaluate", bare, "--tasks", "lambada", "--data", passages), "no tokenizer"),
    ):
        err = refused(capsys, *arguments)
        assert message in err
        assert err.count("\n") == 1
    for arguments, message in (
        (model, "name a text with --text, prepared data with --prepared, or tasks with --tasks"),
        ((*model, "--tasks", " ,"), "--tasks names no task"),
        ((*model, "--text", text, "--out", ""), "a path is empty"),
        ((*model, "--tasks", "lambada,hellaswag", "--data", passages), "say whose data it is"),
        ((*model, "--tasks", "lambada", "--data", f"hellaswag={passages}"), "--tasks does not name hellaswag"),
        ((*model, "--text", text, "--data", passages), "say whose data it is"),
        ((*model, "--text", text, "--stride", 0), "x>=1"),
        ((*model, "--text", text, "--weights", "int3"), "int3"),
        ((*model, "--text", text, "--num-fewshot", 2), "are for tasks of lm-eval"),
    ):
        assert message in refused(capsys, *arguments, code=2)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("empty", "single", "latin", "odd", "odd.jsonl", "bad.jsonl", "bare", "known", text.name, passages.name)
    }


def test_a_report_without_a_place_is_refused_before_anything_is_computed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    arguments = ("evaluate", tmp_path / "no model", "--text", text, "--out")
    assert "may not be written to" in refused(capsys, *arguments, tmp_path / "report.json")
    assert "no such file" in refused(capsys, *arguments, "/dev/null")


def test_a_report_that_cannot_be_written_leaves_the_one_before(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = text.with_name("report.json")
    out.write_text("before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    err = refused(capsys, "evaluate", tiny_checkpoint, "--text", text, "--out", out)
    assert "report.json: cannot be written (No space left on device)" in err
    assert out.read_text() == "before"
    assert sorted(path.name for path in text.parent.iterdir()) == ["play.txt", "report.json"]


def test_published_figures_stand_beside_a_published_model_only(
    capsys: pytest.CaptureFixture[str],
    tiny_checkpoint: Path,
    passages: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Only the file that OpenAI released is what the figures are about, and only a model of the hub is the published.
    import gptwo.evaluation.lambada_passages as module
    from gptwo.checkpoint import hub

    monkeypatch.setattr(hub, "download", lambda *_, **__: tiny_checkpoint)
    monkeypatch.chdir(tmp_path)
    arguments = ["--tasks", "lambada", "--data", passages]
    assert "40.06" not in run(capsys, "evaluate", "gpt2", *arguments)[1]
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(passages.read_bytes()).hexdigest())
    assert "40.06" not in run(capsys, "evaluate", tiny_checkpoint, *arguments)[1]
    assert "40.06" not in run(capsys, "evaluate", "gpt2", *arguments, "--limit", 2)[1]
    _, out, _ = run(capsys, "evaluate", "gpt2", *arguments)
    assert "published" in out
    assert "40.0600 (lm-eval, lambada_openai); 35.1300 (GPT-2 paper" in out
    assert "46.67% (reproduced by others)" in out
    report = json.loads(run(capsys, "evaluate", "gpt2", *arguments, "--json")[1])
    assert {figure["value"] for figure in report["results"][0]["published"]} == {0.4667, 0.3256, 40.06, 0.4599, 35.13}
    shutil.copytree(tiny_checkpoint, tmp_path / "gpt2")  # a directory that is called alike
    assert "40.06" not in run(capsys, "evaluate", "gpt2", *arguments)[1]


def test_evaluate_needs_no_pytorch(tiny_checkpoint: Path, text: Path, passages: Path, prepared: Path) -> None:
    arguments = ["evaluate", str(tiny_checkpoint), "--text", str(text), "--tasks", "lambada", "--data", str(passages)]
    arguments += ["--prepared", str(prepared)]
    code = (
        f"import sys\nfrom gptwo.cli import main\nmain({arguments!r})\n"
        "print(sorted({'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert done.stdout.splitlines()[-1] == "[]"


def test_on_a_terminal_there_is_a_bar_and_ctrl_c_ends_quietly(tiny_checkpoint: Path, text: Path) -> None:
    text.write_text(TEXT * 2000, encoding="utf-8")
    main_end, their_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "GPTWO_THREADS": "1"}
    arguments = [*GPTWO, "evaluate", str(tiny_checkpoint), "--text", str(text), "--stride", "1"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=their_end, env=environment)
    os.close(their_end)
    said = b""
    try:
        deadline = time.monotonic() + SECONDS
        while b"play.txt, f32" not in said:
            assert time.monotonic() < deadline, said
            if select.select([main_end], [], [], 1.0)[0]:
                said += os.read(main_end, 4096)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                part = os.read(main_end, 4096)
            except OSError:  # what Linux says of a terminal that nobody writes to any more
                break
            if not part:
                break
            said += part
        out, _ = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (-signal.SIGINT, b"")
        assert b"Traceback" not in said
    finally:
        process.kill()
        process.wait()
        os.close(main_end)


DOC = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_right(
    capsys: pytest.CaptureFixture[str], text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(text.parent)
    lines = [line for line in DOC.splitlines() if line.startswith("gptwo evaluate ")]
    assert len(lines) == 6
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        if arguments[1] == "shakespeare":
            code, out, err = run(capsys, *arguments)
            assert (code, err) == (0, ""), line
            assert "bits per byte" in out
        else:  # which needs the hub
            command.make_context("evaluate", arguments[1:]).close()


def test_the_python_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_figures_of_the_page_are_those_that_are_shown() -> None:
    for figure in PUBLISHED:
        value = figure.value if figure.measure == "perplexity" else 100 * figure.value
        shown = f"{value:.2f}".removesuffix("0") if figure.task == "cbt-ne" else f"{value:.2f}"
        assert shown in DOC or figure.model in ("gpt2-medium", "gpt2-large"), figure


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed, and has other tasks")
def test_a_task_of_lm_evals_says_what_it_needs_and_what_may_have_been_meant(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path
) -> None:
    err = refused(capsys, "evaluate", tiny_checkpoint, "--tasks", "lamabda")
    assert "task 'lamabda' is none of lambada, hellaswag" in err
    assert "did you mean 'lambada'?; lm-eval's tasks need it: pip install" in err
    assert "did you mean" not in refused(capsys, "evaluate", tiny_checkpoint, "--tasks", "arc_easy")
