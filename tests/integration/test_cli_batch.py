"""`gptwo batch` as a person meets it: files, mistakes, Ctrl-C, `kill -9`, and going on after them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gptwo
from gptwo.batch import BatchModel, BatchSettings, Progress, run_batch
from gptwo.batch.source import scan
from gptwo.cli import main
from gptwo.files import only_holder

GPTWO = [sys.executable, "-m", "gptwo"]
SECONDS = 120  # for what takes a few when nothing else runs
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTWO_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("GPTWO_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def write_lines(path: str, lines: list[Any]) -> None:
    Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"id": f"line-{i}", "prompt": f"speak {i}", "max_tokens": 3 + i % 11} for i in range(count)]


def read_lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def names() -> set[str]:
    """All that lies here."""
    return set(os.listdir())


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*GPTWO, "batch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What a process is to bring about before it ends."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if found := what():
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    raise AssertionError("it did not come")


def parts_done() -> list[Path]:
    return sorted(Path("out.jsonl.parts").glob("part-*"))


# ---- answers


def test_a_file_of_prompts_becomes_a_file_of_answers_in_their_order(capsys: Capture) -> None:
    write_lines("in.jsonl", [*prompts(40), {"id": 41, "prompt": "a", "temprature": 0}])
    assert main(["batch", "in.jsonl", "out.jsonl", "--seed", "5", "--top-k", "50"]) == 0
    assert capsys.readouterr().out == "41 lines in out.jsonl, 1 with an error\n"
    rows = read_lines("out.jsonl")
    assert [row["index"] for row in rows] == list(range(41))
    assert [row["id"] for row in rows] == [*(f"line-{i}" for i in range(40)), 41]
    assert "did you mean 'temperature'" in rows[40]["error"]
    assert names() == {"in.jsonl", "out.jsonl"}
    with gptwo.load(os.environ["GPTWO_MODEL"]) as model:  # each row can be made again alone
        for row in rows[:3]:
            params = gptwo.SamplingParams(max_tokens=3 + row["index"], top_k=50, seed=row["seed"])
            assert model.generate(row["prompt"], params).text == row["text"]


def test_processes_and_formats_change_no_answer() -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra `batch`, which has pyarrow")
    write_lines("in.jsonl", prompts(60))
    assert main(["batch", "in.jsonl", "one.jsonl", "--seed", "1", "--max-sequences", "1"]) == 0
    assert main(["batch", "in.jsonl", "two.parquet", "--seed", "1", "--processes", "3", "--max-sequences", "4"]) == 0
    rows, stored = read_lines("one.jsonl"), pq.read_table("two.parquet").to_pylist()
    for name in ("index", "id", "prompt", "text", "finish_reason", "seed", "prompt_tokens", "completion_tokens"):
        assert [row[name] for row in stored] == [row[name] for row in rows]


def test_outputs_are_constrained_as_by_generate() -> None:
    pytest.importorskip("llguidance", reason="needs the extra `grammar`, which has llguidance")
    write_lines("in.jsonl", [{"prompt": "a"}, {"prompt": "a", "structured_outputs": {"regex": "[xy]{3}"}}])
    assert main(["batch", "in.jsonl", "out.jsonl", "--choice", "yes", "--choice", "no"]) == 0
    first, second = read_lines("out.jsonl")
    assert first["text"] in ("yes", "no")
    assert set(second["text"]) <= {"x", "y"}


def test_texts_are_scored() -> None:
    write_lines("in.jsonl", [{"text": f"hear me {i}", "source": "web"} for i in range(20)])
    assert main(["batch", "in.jsonl", "out.jsonl", "--score", "--processes", "2"]) == 0
    with gptwo.load(os.environ["GPTWO_MODEL"]) as model:
        for row in read_lines("out.jsonl"):
            assert row["total"] == model.score(row["text"]).total


def test_an_empty_file_has_an_empty_answer(capsys: Capture) -> None:
    Path("in.jsonl").write_text("\n\n")
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 0
    assert Path("out.jsonl").read_text() == ""
    assert capsys.readouterr().out == "0 lines in out.jsonl\n"


# ---- interruptions


def test_a_run_that_is_killed_again_and_again_ends_with_the_answers_of_one_that_was_not() -> None:
    write_lines("in.jsonl", [*prompts(299), {"prompt": -1}])
    run = ["in.jsonl", "--seed", "9", "--processes", "2", "--max-sequences", "2"]
    assert main(["batch", run[0], "whole.jsonl", *run[1:]]) == 0
    draw = random.Random()
    kept = 0
    for patience in [*(draw.uniform(0.0, 1.5) for _ in range(5)), None]:
        process = start(run[0], "out.jsonl", *run[1:])
        try:
            process.communicate(timeout=patience)  # any moment will do
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            assert len(parts_done()) >= kept or Path("out.jsonl").exists()  # none is lost
            kept = len(parts_done())
        if Path("out.jsonl").exists() and not Path("out.jsonl.parts").exists():
            break
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    rest = names() - {"in.jsonl", "out.jsonl", "whole.jsonl"}
    assert all(name.endswith(".old") for name in rest)  # there if it was killed while it cleared up


def interrupted() -> list[Path]:
    """A run of 300 lines that was interrupted after two parts or more; what it has done."""
    write_lines("in.jsonl", prompts(300))
    model = BatchModel(name=os.environ["GPTWO_MODEL"])
    settings = BatchSettings(source=Path("in.jsonl"), out=Path("out.jsonl"), model=model, seed=9, max_sequences=1)

    def interrupt(progress: Progress) -> None:
        if len(parts_done()) >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(settings, interrupt)
    return parts_done()


def test_parts_that_are_done_are_not_done_again(capsys: Capture) -> None:
    done = interrupted()
    lines = done[0].read_bytes().splitlines(keepends=True)
    lines[1] = json.dumps({"index": 0, "mark": "as it was"}).encode() + b"\n"
    done[0].write_bytes(b"".join(lines))
    for path in done[2:]:
        path.unlink()  # so that there is something to do
    Path("out.jsonl.parts/.part-x.tmp").write_text("half")
    Path(".out.jsonl.0123abcd.tmp").write_text("half")
    # With any number of processes and threads; the seed is that of the run.
    assert main(["batch", "in.jsonl", "out.jsonl", "--processes", "2", "--threads", "2"]) == 0
    assert capsys.readouterr().out == "300 lines in out.jsonl, 64 of them were there before\n"
    rows = read_lines("out.jsonl")
    assert rows[0] == {"index": 0, "mark": "as it was"}
    assert [row["index"] for row in rows] == list(range(300))
    assert names() == {"in.jsonl", "out.jsonl"}


# A line that is answered in hours, so that a run does not end before it is ended.
ENDLESS = {"prompt": "speak", "max_tokens": 10**8, "overflow": "slide", "ignore_eos": True}


def test_ctrl_c_keeps_what_is_done() -> None:
    write_lines("in.jsonl", [*prompts(30), ENDLESS])
    process = start("in.jsonl", "out.jsonl", "--max-sequences", "4")
    wait_for(parts_done, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (-signal.SIGINT, "")
    assert err == "stopped; what is done is in out.jsonl.parts, and the same command goes on from there\n"
    assert parts_done()
    assert not Path("out.jsonl").exists()


def test_a_run_that_was_killed_when_its_output_was_there_ends_well() -> None:
    interrupted()
    shutil.copytree("out.jsonl.parts", "kept")
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 0
    whole = Path("out.jsonl").read_bytes()
    os.rename("kept", "out.jsonl.parts")  # as if it had not come to clear them
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 0
    assert Path("out.jsonl").read_bytes() == whole
    assert names() == {"in.jsonl", "out.jsonl"}


def test_nothing_runs_on_when_the_command_is_killed() -> None:
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("needs /proc/PID/task/TID/children, which says what processes a process has started")
    write_lines("in.jsonl", [*prompts(30), ENDLESS])
    process = start("in.jsonl", "out.jsonl", "--processes", "2")
    wait_for(parts_done, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + SECONDS
    while any(_runs(child) for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_process_that_dies_is_told_and_what_is_done_is_kept() -> None:
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        pytest.skip("needs /proc/PID/task/TID/children, which says what processes a process has started")
    write_lines("in.jsonl", [*prompts(30), ENDLESS])
    process = start("in.jsonl", "out.jsonl")
    wait_for(parts_done, process)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (1, "")
    assert err == (
        "gptwo: a process was ended by signal 9 in the middle of its work; is there enough memory?; parts that are "
        "done are kept, and the same command goes on\n"
    )
    assert parts_done()


# ---- going on with something else


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--seed", "10"],
            "out.jsonl was begun with seed 9, not 10: give the same to go on, or --restart to start afresh",
        ),
        (["--temperature", "0.5"], "out.jsonl was begun with temperature by default, not 0.5"),
        (["--token-ids"], "out.jsonl was begun with token_ids False, not True"),
        (["--weights", "bf16"], "out.jsonl was begun with weights 'auto', not 'bf16'"),
        (["--model", "shakespeare"], "out.jsonl was begun with another model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("_begun")
def test_a_run_goes_on_with_the_settings_that_it_was_begun_with(more: list[str], message: str, capsys: Capture) -> None:
    before = {path.name for path in parts_done()}
    assert main(["batch", "in.jsonl", "out.jsonl", *more]) == 1
    assert message in capsys.readouterr().err
    assert {path.name for path in parts_done()} == before


@pytest.fixture
def _begun(begun: Path, tmp_path: Path) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A directory with a run that was killed."""
    directory = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("GPTWO_MODEL", str(tiny_checkpoint))
        patch.setenv("GPTWO_THREADS", "1")
        interrupted()
    return directory


@pytest.mark.usefixtures("_begun")
def test_another_input_is_refused_unless_one_starts_afresh(capsys: Capture) -> None:
    write_lines("in.jsonl", prompts(7))
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert "out.jsonl was begun with another input: give the same to go on" in capsys.readouterr().err
    assert main(["batch", "in.jsonl", "out.jsonl", "--restart"]) == 0
    assert len(read_lines("out.jsonl")) == 7


@pytest.mark.usefixtures("_begun")
def test_a_broken_record_of_a_run_is_told(capsys: Capture) -> None:
    Path("out.jsonl.parts/batch.json").write_text('{"format": 1')
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert "batch.json: is broken" in capsys.readouterr().err
    Path("out.jsonl.parts/batch.json").write_text('{"format": 1}')
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert "start afresh with --restart" in capsys.readouterr().err


@pytest.mark.usefixtures("_begun")
def test_two_commands_do_not_work_on_one_output(capsys: Capture) -> None:
    with only_holder(Path("out.jsonl.parts/lock")):
        assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert capsys.readouterr().err == "gptwo: out.jsonl: another process is working on it\n"


def test_an_input_that_changes_meanwhile_is_told(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines("in.jsonl", prompts(30))
    begin = scan

    def scan_and_change(*arguments: Any) -> Any:
        found = begin(*arguments)
        write_lines("in.jsonl", prompts(31))
        return found

    monkeypatch.setattr("gptwo.batch.run.scan", scan_and_change)
    assert main(["batch", "in.jsonl", "out.jsonl"]) == 1
    assert "in.jsonl: was changed while it was being answered" in capsys.readouterr().err
    assert not Path("out.jsonl").exists()


# ---- mistakes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["in.jsonl", "out.csv"], 2, "the output is called out.csv, expected a name that ends in .parquet or .jsonl"),
        (["absent.jsonl", "out.jsonl"], 1, "absent.jsonl: there is no such file"),
        ([".", "out.jsonl"], 1, "is no file that can be read twice"),
        (["in.jsonl", "absent/out.jsonl"], 1, "there is no directory absent"),
        (["in.jsonl", "directory.jsonl"], 1, "directory.jsonl: is a directory"),
        (["in.jsonl", "there.jsonl"], 1, "there.jsonl: is there already; choose another name, or --overwrite"),
        (["in.jsonl", "in.jsonl", "--overwrite"], 1, "in.jsonl: is the input too"),
        (["in.jsonl", "out.jsonl", "--processes", "0"], 2, "--processes"),
        (["in.jsonl", "out.jsonl", "--temperature", "-1"], 2, "temperature is -1.0"),
        (["in.jsonl", "out.jsonl", "--score", "--top-k", "4"], 2, "top_k is for generating"),
        (["in.jsonl", "out.jsonl", "--beams", "2", "--top-k", "4"], 2, "--top-k is for sampling"),
        (["in.jsonl", "out.jsonl", "--beams", "2", "--regex", "a"], 2, "--regex is for sampling"),
        (["in.jsonl", "out.jsonl", "--model", "absent/model.pt"], 1, "no such file or directory: 'absent/model.pt'"),
        (["in.jsonl", "out.jsonl", "--device", "cuda", "--backend", "native"], 1, "the native backend runs on the CPU"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    arguments: list[str], code: int, message: str, capsys: Capture
) -> None:
    write_lines("in.jsonl", prompts(3))
    Path("there.jsonl").write_text("mine")
    Path("directory.jsonl").mkdir()
    before = names()
    assert main(["batch", *arguments]) == code
    assert message in capsys.readouterr().err
    assert names() == before
    assert Path("there.jsonl").read_text() == "mine"


def test_parquet_needs_pyarrow_and_is_told_before_any_work(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines("in.jsonl", prompts(3))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(["batch", "in.jsonl", "out.parquet"]) == 1
    assert "pip install '.[batch]'" in capsys.readouterr().err
    assert names() == {"in.jsonl"}


def test_an_output_that_is_there_is_replaced_when_all_is_done() -> None:
    write_lines("in.jsonl", prompts(3))
    Path("out.jsonl").write_text("mine")
    assert main(["batch", "in.jsonl", "out.jsonl", "--overwrite"]) == 0
    assert len(read_lines("out.jsonl")) == 3


def test_strict_stops_at_a_line_with_an_error_before_any_work_if_it_can(capsys: Capture) -> None:
    write_lines("in.jsonl", [*prompts(3), {"prompt": "a", "top_k": -5}])
    assert main(["batch", "in.jsonl", "out.jsonl", "--strict"]) == 1
    assert "in.jsonl line 4: top_k is -5" in capsys.readouterr().err
    assert names() == {"in.jsonl"}
    write_lines("in.jsonl", [{"prompt": "a", "max_tokens": 1000}])
    assert main(["batch", "in.jsonl", "out.jsonl", "--strict"]) == 1
    assert "in.jsonl line 1: the prompt has 1 token and max_tokens is 1000" in capsys.readouterr().err
