"""`torchrun -m gptwo train`: several processes from the command line, as a person meets them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import flags, make_data, metrics_of

from gptwo.checkpoint import load_checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gptwo"]
SECONDS = 240
pytestmark = pytest.mark.xdist_group("several processes")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("prepared"))


def start(data: Path, out: Path, **changes: Any) -> subprocess.Popen[str]:
    settings = {"grad_accumulation": 2, **changes}
    command = [*TORCHRUN, "train", "--data", str(data), "--out", str(out), *flags(**settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def test_torchrun_trains_with_two_processes_of_which_one_shows(data: Path, tmp_path: Path) -> None:
    with start(data, tmp_path / "run", distributed="fsdp") as process:
        shown, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 13))
    best = min(line["val_loss"] for line in lines if "val_loss" in line)
    assert shown.splitlines()[0].startswith(f"best validation loss {best:.4f} nats per token")
    assert shown.splitlines()[1:] == [f"model in {tmp_path / 'run' / 'model'}"]
    assert load_checkpoint(tmp_path / "run" / "model").config.n_embd == 16


def test_what_all_processes_meet_is_one_sentence(data: Path, tmp_path: Path) -> None:
    with start(data, tmp_path / "run", block_size=100_000) as process:
        shown, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert shown == ""
    assert len(re.findall("^gptwo: .*fewer than block_size", said, flags=re.MULTILINE)) == 1
    assert len(re.findall("^gptwo: ", said, flags=re.MULTILINE)) == 1


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_after_a_step_that_is_saved(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"steps": 100_000, "eval_every": 100_000, "save_every": 100_000}
    with start(data, out, **settings) as process:
        deadline = time.monotonic() + SECONDS
        while not (out / "metrics.jsonl").exists() or (out / "metrics.jsonl").read_text().count("\n") < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    (stopped,) = re.findall(r"^stopped after step ([\d,]+); the same command goes on", said, flags=re.MULTILINE)
    assert "gptwo: " not in said
    step = int(stopped.replace(",", ""))
    assert [path.name for path in (out / "checkpoints").iterdir()] == [f"step-{step:08d}"]
    assert [line["step"] for line in metrics_of(out)] == list(range(1, step + 1))
