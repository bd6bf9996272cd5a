"""`gptwo prepare` and `gptwo train` as a person meets them: files, terminals, Ctrl-C, mistakes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import SETTINGS, flags, make_data, make_text, metrics_of

import gptwo
from gptwo.cli import main
from gptwo.training.config import TrainConfig
from gptwo.training.shards import read_shard

GPTWO = [sys.executable, "-m", "gptwo"]
SECONDS = 120  # for a process to do what takes it three when nothing else runs
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("NO_COLOR", "PYTHONIOENCODING", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def process(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*GPTWO, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=SECONDS, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("prepared"))


def train_arguments(data: Path, out: Path, **changes: Any) -> list[str]:
    return ["train", "--data", str(data), "--out", str(out), *flags(**changes)]


def test_from_a_text_to_a_model_that_generates(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.txt").write_text(make_text(20_000))
    done = process("prepare", "text.txt", "--out", "data", "--tokenizer", "bpe:300", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    header = read_shard(tmp_path / "data" / "train.bin", verify=True).header
    assert done.stdout.splitlines() == [
        f"train  {header.count:>12,} tokens         18,000 characters",
        f"val    {read_shard(tmp_path / 'data' / 'val.bin').header.count:>12,} tokens          2,000 characters",
        "vocabulary of 300 tokens; data in data",
    ]
    arguments = train_arguments(Path("data"), Path("run"), steps=30, eval_every=10, block_size=16)
    done = process(*arguments, "--threads", "1", cwd=tmp_path)
    assert done.returncode == 0
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 31))
    validated = [line for line in lines if "val_loss" in line]
    assert done.stderr.splitlines() == [  # no bar in a pipe
        f"step {line['step']}: validation loss {line['val_loss']:.4f} nats per token, "
        f"{line['val_nats_per_character']:.4f} per character"
        for line in validated
    ]
    best = min(validated, key=lambda line: line["val_loss"])
    assert done.stdout.splitlines() == [
        f"best validation loss {best['val_loss']:.4f} nats per token, "
        f"{best['val_nats_per_character']:.4f} per character",
        "model in run/model",
    ]
    model_path = str(tmp_path / "run" / "model")
    assert main(["generate", "--model", model_path, "the king", "--max-tokens", "8", "--temperature", "0"]) == 0
    with gptwo.load(tmp_path / "run" / "model") as model:
        expected = model.generate("the king", gptwo.SamplingParams(max_tokens=8, temperature=0)).text
    assert capsys.readouterr() == (expected + "\n", "")


def test_a_complete_run_says_so(data: Path, tmp_path: Path, capsys: Capture) -> None:
    arguments = train_arguments(data, tmp_path / "run", steps=4)
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert main(arguments) == 0
    again = capsys.readouterr()
    assert [line.partition(":")[0] for line in first.err.splitlines()] == ["step 3", "step 4"]
    assert again.err == ""
    assert again.out == "the run was complete with step 4; nothing was done\n" + first.out


@pytest.mark.filterwarnings("always")
def test_a_warning_about_a_broken_checkpoint_is_one_line(data: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    assert main(train_arguments(data, out, steps=6)) == 0
    (out / "checkpoints" / "step-00000006" / "state.pt").write_bytes(b"")
    capsys.readouterr()
    assert main(train_arguments(data, out, steps=6)) == 0
    shown = capsys.readouterr()
    newest = out / "checkpoints" / "step-00000006"
    assert shown.err.startswith(
        f"gptwo: warning: {newest}: no checkpoint that can be read (state.pt is not as it was written); passed over\n"
        "step 6: validation loss "
    )
    assert shown.out.startswith("went on from step 5\n")


# ---- the settings


def test_every_setting_is_an_option_with_help(capsys: Capture) -> None:
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')} " in shown
        assert field.metadata["help"] in shown
    assert "Settings:" in shown


def test_the_settings_of_a_run_lie_beside_it_and_can_be_given_again(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    changed: dict[str, Any] = {
        "n_layer": 2,
        "attn_dropout": 0.2,
        "grad_accumulation": 2,
        "steps": 2,
        "optimizer": "muon",
        "schedule": "linear",
        "grad_clip": 0.0,
        "seed": 2**63 - 1,
        "save_dtype": "f16",
    }
    out = tmp_path / "run"
    assert main(train_arguments(data, out, **changed)) == 0
    kept = tomllib.loads((out / "train.toml").read_text())
    assert {name: kept[name] for name in {**SETTINGS, **changed}} == {**SETTINGS, **changed}
    assert (kept["data"], kept["out"]) == (str(data), str(out))
    capsys.readouterr()
    assert main(["train", "--config", str(out / "train.toml")]) == 0
    assert capsys.readouterr().out.startswith("the run was complete with step 2; nothing was done\n")
    assert main(["train", "--config", str(out / "train.toml"), "--out", str(tmp_path / "again")]) == 0
    assert metrics_of(tmp_path / "again") == metrics_of(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare"], "Missing argument 'TEXTS...'"),
        (["prepare", "text"], "Missing option '--out'"),
        (["prepare", "TEXT", "--out", "x", "--tokenizer", "bpe:x"], "expected a size from 257 to 1000000 after 'bpe:'"),
        (["prepare", "TEXT", "--out", "x", "--val-fraction", "nan"], "val_fraction is nan, expected 0 to below 1"),
        (["prepare", "TEXT", "--out", "x", "--val-fraction", "1"], "val_fraction is 1.0, expected 0 to below 1"),
        (["prepare", "TEXT", "--out", "x", "--val-fraction", "some"], "'some' is not a number"),
        (["prepare", "TEXT", "--out", "x", "--tokeniser", "char"], "--tokenizer"),
        (["train", "--out", "x"], "Missing option '--data'"),
        (["train", "--data", "x"], "Missing option '--out'"),
        (["train", "--data", "x", "--out", "x", "--steps", "0"], "steps is 0, expected an integer from 1"),
        (["train", "--data", "x", "--out", "x", "--steps", "1.5"], "'1.5' is not an integer"),
        (["train", "--data", "x", "--out", "x", "--lr", "nan"], "lr is nan, expected a number, more than 0 to 10"),
        (["train", "--data", "x", "--out", "x", "--lr", "fast"], "'fast' is not a number"),
        (["train", "--data", "x", "--out", "x", "--dropout", "1"], "dropout is 1.0, expected"),
        (["train", "--data", "x", "--out", "x", "--seed", "-1"], "seed is -1, expected"),
        (["train", "--data", "x", "--out", "x", "--seed", str(2**63)], "seed is 9223372036854775808, expected"),
        (["train", "--data", "x", "--out", "x", "--dtype", "f64"], "'f64' is not one of f32, bf16"),
        (
            ["train", "--data", "x", "--out", "x", "--init", "gpt2", "--n-layer", "2"],
            "it can be chosen from scratch only",
        ),
        (["train", "--data", "x", "--out", "x", "--min-lr", "1"], "min_lr is 1.0, expected at most lr"),
        (["train", "--data", "x", "--out", "x", "--threads", "0"], "threads is 0, expected an integer from 1 to 256"),
        (["train", "--data", "x", "--out", "x", "--n-layers", "2"], "--n-layer"),
        (["train", "--data", "x", "--out", "x", "y"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_ends_with_2_and_says_what_was_expected(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEXT").write_text("some text")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) <= 4  # the usage, where to find help, and one sentence
    assert [path.name for path in tmp_path.iterdir()] == ["TEXT"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "absent", "--out", "x", "--tokenizer", "char"], "absent: cannot be read (No such file"),
        (["prepare", "EMPTY", "--out", "x", "--tokenizer", "char"], "EMPTY: holds no text"),
        (["prepare", "LATIN", "--out", "x", "--tokenizer", "char"], "LATIN: not UTF-8 text (byte 3)"),
        (["prepare", "TEXT", "--out", "TEXT", "--tokenizer", "char"], "TEXT: cannot be written (File exists)"),
        (["prepare", "TEXT", "--out", "x", "--tokenizer", "./absent"], "no such file or directory: './absent'"),
        (["train", "--data", "absent", "--out", "x"], "absent/data.json: cannot be read (No such file"),
        (["train", "--data", "DATA", "--out", "TEXT", "--block-size", "8"], "TEXT: cannot be written (File exists)"),
        (["train", "--data", "DATA", "--out", "x", "--block-size", "100000"], "DATA/train.bin: has "),
        (
            ["train", "--data", "DATA", "--out", "x", "--n-embd", "10", "--n-head", "3"],
            "n_embd 10 is not a multiple of",
        ),
        (["train", "--data", "DATA", "--out", "x", "--device", "abacus"], "device 'abacus' cannot be used"),
        (["train", "--data", "DATA", "--out", "x", "--init", "./absent"], "no such file or directory: './absent'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_users_error_is_one_line_and_ends_with_1(
    arguments: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "TEXT").write_text("some text")
    (tmp_path / "EMPTY").touch()
    (tmp_path / "LATIN").write_bytes(b"caf\xe9")
    shutil.copytree(data, tmp_path / "DATA")
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gptwo: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


# ---- a process that is watched, stopped, or short of space


def watched(arguments: list[str], terminal: int) -> subprocess.Popen[bytes]:
    """A process whose standard error is a terminal, and Ctrl-C at that terminal reaches it."""

    def own_terminal() -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(2, termios.TIOCSCTTY, 0)

    command = [*GPTWO, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=terminal, preexec_fn=own_terminal)


def read_terminal(terminal: int, until: str | None) -> str:
    """What is shown up to `until`, or to the end if that is None."""
    shown, deadline = "", time.monotonic() + SECONDS
    while until is None or until not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                part = os.read(terminal, 65536)
            except OSError:  # EIO: nobody writes any more
                part = b""
            if not part:
                assert until is None, shown
                return shown
            shown += part.decode()
    return shown


def test_ctrl_c_saves_the_step_and_the_same_command_goes_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = train_arguments(data, out, steps=100_000, eval_every=40, save_every=90_000)
    with subprocess.Popen(
        [*GPTWO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as quiet:
        wait_for_lines(out / "metrics.jsonl", 5)
        quiet.send_signal(signal.SIGINT)
        shown, said = quiet.communicate(timeout=SECONDS)
    assert (quiet.returncode, shown) == (-signal.SIGINT, "")
    found = re.fullmatch(r"stopped after step ([\d,]+); the same command goes on from there\n", said)
    assert found, said
    stopped = int(found[1].replace(",", ""))
    assert max(path.name for path in (out / "checkpoints").iterdir()) == f"step-{stopped:08d}"
    # Again, on a terminal, where it shows how far it is.
    ours, theirs = pty.openpty()
    with watched(arguments, theirs) as shown_process:
        os.close(theirs)
        with contextlib.closing(os.fdopen(ours, "wb", buffering=0)):
            beginning = read_terminal(ours, "validation loss")
            os.write(ours, b"\x03")
            rest = read_terminal(ours, None)
        assert shown_process.wait(SECONDS) == -signal.SIGINT
    assert re.search(r"training.*0%.*loss \d\.\d{3} .*tokens/s +\d+% of peak", beginning, re.DOTALL)
    assert re.search(
        r"step [\d,]+: validation loss \d\.\d{4} nats per token, \d\.\d{4} per character", beginning + rest
    )
    assert re.search(r"stopped after step [\d,]+; the same command goes on from there", rest)
    lines = [line["step"] for line in metrics_of(out)]
    assert lines == list(range(1, len(lines) + 1))
    assert len(lines) > stopped


def wait_for_lines(path: Path, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    while not path.exists() or path.read_text().count("\n") < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_disk_without_space_is_one_line_and_the_run_can_go_on(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = train_arguments(data, out, eval_every=100)
    limited = ["bash", "-c", 'ulimit -f 20; exec "$@"', "bash", *GPTWO, *arguments]  # files of up to 20 KiB
    done = subprocess.run(limited, capture_output=True, encoding="utf-8", timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    path = out / "checkpoints" / "step-00000005"
    assert done.stderr == f"gptwo: {path}: cannot be saved (File too large); older checkpoints are untouched\n"
    assert list((out / "checkpoints").iterdir()) == []
    assert main(arguments) == 0
    assert [line["step"] for line in metrics_of(out)] == list(range(1, SETTINGS["steps"] + 1))


def test_prepare_shows_how_far_it_is_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(make_text(5000))
    ours, theirs = pty.openpty()
    arguments = ["prepare", str(tmp_path / "text.txt"), "--out", str(tmp_path / "data"), "--tokenizer", "char"]
    with watched(arguments, theirs) as shown_process:
        os.close(theirs)
        with contextlib.closing(os.fdopen(ours, "wb", buffering=0)):
            shown = read_terminal(ours, None)
        assert shown_process.stdout is not None
        assert shown_process.stdout.read().startswith(b"train ")
        assert shown_process.wait(SECONDS) == 0
    assert "encoding" in shown


def test_help_and_preparing_do_not_import_torch(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("some text")
    program = (
        "import sys; from gptwo.cli import main\n"
        "assert main(['train', '--help']) == 0; assert not {'numpy', 'torch'} & sys.modules.keys()\n"
        "assert main(['prepare', 'text.txt', '--out', 'data', '--tokenizer', 'char']) == 0\n"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'rich'} & sys.modules.keys()"
    )
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=SECONDS, check=True
    )
