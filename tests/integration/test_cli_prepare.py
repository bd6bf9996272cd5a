"""`gptwo prepare` as a person meets it: its options, Ctrl-C, `kill -9`, and going on."""

from __future__ import annotations

import dataclasses
import gzip
import json
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import flags, make_text

import gptwo
from gptwo.cli import main
from gptwo.training.named_sets import NAMED_SETS
from gptwo.training.prepare_config import PrepareConfig
from gptwo.training.prepared import PreparedData

pa = pytest.importorskip("pyarrow", reason="needs the extra batch")
pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra batch")

DATA_PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"
GPTWO = [sys.executable, "-m", "gptwo"]
SECONDS = 120  # for a process to do what takes it two when nothing else runs
Capture = pytest.CaptureFixture[str]


def test_every_setting_is_an_option_with_help(capsys: Capture) -> None:
    assert main(["prepare", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(PrepareConfig):
        assert f"--{field.name.replace('_', '-')} " in shown
        assert field.metadata["help"] in shown


def test_records_of_several_files_become_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        rows = [{"body": f"{name} {n}"} for n in range(20)]
        (tmp_path / "in" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["prepare", "in", "--field", "body", "--out", "data", "--tokenizer", "char"]
    assert main([*arguments, "--val-fraction", "0.1", "--suffix", "jsonl", "--seed", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == ["train", "val", "vocabulary"]
    assert lines[0].endswith("         36 documents")
    assert lines[1].endswith("          4 documents")
    made = PreparedData.load(Path("data"))
    assert made.command == (
        "gptwo prepare in --out data --tokenizer char --val-fraction 0.1 --field body --suffix jsonl --seed 3"
    )
    assert main([*arguments, "--val-fraction", "0.1", "--suffix", "jsonl", "--seed", "3"]) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (shown.out, "data: holds this already; nothing was done\n")


def test_a_set_that_cannot_be_fetched_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("GPTWO_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "tinyshakespeare", "--out", "data", "--tokenizer", "char"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("tinyshakespeare: fetching https://raw.githubusercontent.com/")
    assert err.splitlines()[1].startswith("gptwo: tinyshakespeare: cannot be fetched (")
    assert f" at {tmp_path}/cache/tinyshakespeare/input.txt and give the same command again" in err
    assert len(err.splitlines()) == 2
    assert not (tmp_path / "data").exists()


def test_the_commands_of_the_page_on_data_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("play.txt", "books/a.md", "books/b/c.txt", "src/a.py"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_text(f"This is {name}.")
    Path("more.txt.gz").write_bytes(gzip.compress(b"More."))
    Path("news.jsonl").write_text('{"body": "News."}\n')
    Path("pairs.jsonl").write_text('{"question": "Why?", "answer": "So."}\n')
    pq.write_table(pa.table({"body": ["Older news."]}), "news.parquet")
    commands = re.findall(r"^\|[^|]*\| `(gptwo prepare [^`]*)`", DATA_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = 0
    for number, command in enumerate(commands):
        words = shlex.split(command)[1:]
        if words[1] in NAMED_SETS:
            named += 1
            continue
        words[words.index("--out") + 1] = f"data{number}"
        assert main([*words, "--tokenizer", "char"]) == 0, command
    assert (len(commands), named) == (7, 2)


@pytest.mark.skipif(shutil.which("jq") is None, reason="runs jq, which is not installed")
def test_records_of_other_shapes_become_data_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pages.jsonl").write_text('{"page": {"body": "Body."}}\n')
    turns = [("system", "Be kind."), ("user", "Why?"), ("assistant", 'So "it" is.')]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    Path("chats.jsonl").write_text(json.dumps(chat) + "\n")
    found = re.findall(r"^```sh\n(jq .*)\n(gptwo .*)\n```$", DATA_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    texts = []
    for number, (jq, command) in enumerate(found):
        subprocess.run(jq, shell=True, check=True)
        words = [*shlex.split(command)[1:], "--tokenizer", "char", "--val-fraction", "0"]
        words[words.index("--out") + 1] = f"data{number}"
        assert main(words) == 0
        made = PreparedData.load(Path(f"data{number}"))
        ids, learned = made.train.window(0, 999), made.train.learned(0, 999)
        texts.append((made.tokenizer.decode(ids.tolist()), made.tokenizer.decode(ids[learned].tolist())))
    assert texts[0] == ("Body.", "Body.")
    assert texts[1] == ('system: Be kind.\nuser: Why?\nassistant: So "it" is.', ' So "it" is.')


def test_the_page_on_data_names_every_set() -> None:
    page = DATA_PAGE.read_text(encoding="utf-8")
    for name, known in NAMED_SETS.items():
        assert f"| `{name}` |" in page
        if not known.val:
            line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
            assert f"{known.val_fraction * 100:g}%" in line


# ---- a process that is stopped


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(make_text(300_000) * 20)
    return path


def arguments(text: Path, out: Path) -> list[str]:
    made = ["prepare", str(text), "--out", str(out), "--tokenizer", "char"]
    return [*made, "--workers", "2", "--shard-tokens", "300000"]


# Ends itself by a signal when so many shards are whole: however busy the machine is, it was neither before nor after.
STOPPED = """
import os, signal, sys
from gptwo.cli import main
from gptwo.training.unfinished import PartWriter

shards, number, children = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
finish = PartWriter.finish_shard

def finish_and_stop(writer, **how):
    finish(writer, **how)
    if (writer.name, writer.written.shards) == ("train", shards):
        if children:
            with open(f"/proc/self/task/{os.getpid()}/children") as one, open(children, "w") as other:
                other.write(one.read())
        os.kill(os.getpid(), number)

PartWriter.finish_shard = finish_and_stop
sys.exit(main())
"""


def stopped(text: Path, out: Path, shards: int, number: int, children: str = "") -> tuple[int, str, str]:
    """The exit code and the output of a process that a signal ends once it has written so many shards.

    children: a file where it notes its own processes before.
    """
    process = subprocess.run(
        [sys.executable, "-c", STOPPED, str(shards), str(int(number)), children, *arguments(text, out)],
        capture_output=True, encoding="utf-8", timeout=SECONDS,
    )  # fmt: skip
    return process.returncode, process.stdout, process.stderr


def content(directory: Path) -> dict[str, bytes]:
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != "data.json")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "data"
    assert main(arguments(text, out)) == 0
    return content(out)


def notes(said: str) -> list[str]:
    """The lines on standard error but those that say, once a minute on a busy machine, how far it is."""
    return [line for line in said.splitlines() if not line.startswith("encoding ")]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes of a process in /proc")
def test_kill_9_leaves_no_process_behind_and_the_same_command_goes_on(
    text: Path, whole: dict[str, bytes], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "data"
    noted = tmp_path / "children"
    for shards in (1, 3, 6):
        assert stopped(text, out, shards, signal.SIGKILL, str(noted))[0] == -signal.SIGKILL
        children = noted.read_text().split()
        assert len(children) == 2
        deadline = time.monotonic() + SECONDS
        while any(is_running(int(pid)) for pid in children):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not (out / "data.json").exists()
    assert main(arguments(text, out)) == 0
    assert notes(capsys.readouterr().err) == [f"{out}: going on where it was stopped"]
    assert content(out) == whole
    data = PreparedData.load(out)
    assert len(data.train.shards) > 5
    assert np.array_equal(data.train.window(299_990, 20), data.train.window(0, 300_010)[-20:])


def test_ctrl_c_ends_it_in_silence_and_the_same_command_goes_on(
    text: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "data"
    code, shown, said = stopped(text, out, 4, signal.SIGINT)
    assert (code, shown, notes(said)) == (-signal.SIGINT, "", [])
    assert json.loads((out / "unfinished" / "progress.json").read_bytes())["train"]["shards"] >= 3
    assert main(arguments(text, out)) == 0
    assert content(out) == whole


# ---- and what is made of it


def test_nanogpts_directory_is_trained_on_as_it_is(tmp_path: Path, capsys: Capture) -> None:
    text = make_text(3000)
    characters = sorted(set(text))
    ids = np.array([characters.index(one) for one in text], dtype="<u2")
    data = tmp_path / "shakespeare_char"
    data.mkdir()
    (data / "train.bin").write_bytes(ids[:2700].tobytes())
    (data / "val.bin").write_bytes(ids[2700:].tobytes())
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(characters), "itos": dict(enumerate(characters))}))
    assert main(["train", "--data", str(data), "--out", str(tmp_path / "run"), *flags(steps=4)]) == 0
    assert "nats per token" in capsys.readouterr().out
    with gptwo.load(tmp_path / "run" / "model") as model:
        assert len(model.generate("the", gptwo.SamplingParams(max_tokens=5, seed=1)).text) == 5


def test_completions_are_trained_on_and_prompts_are_not(tmp_path: Path, capsys: Capture) -> None:
    rows = [{"q": make_text(30, seed=n), "a": make_text(60, seed=-n)} for n in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = str(tmp_path / "data")
    fields = ["--prompt-field", "q", "--completion-field", "a"]
    assert main(["prepare", str(tmp_path / "a.jsonl"), "--out", out, "--tokenizer", "char", *fields]) == 0
    assert main(["train", "--data", out, "--out", str(tmp_path / "run"), *flags(steps=4, block_size=16)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("best validation loss") for line in lines)
