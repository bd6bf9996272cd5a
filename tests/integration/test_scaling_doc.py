"""The commands of docs/scaling.md run, except those that need a cluster."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
GPTWO = [sys.executable, "-m", "gptwo"]
SECONDS = 120


def test_the_batches_of_the_page_run_and_have_the_columns_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra `batch`, which has pyarrow")
    gptwo = " ".join(map(shlex.quote, GPTWO))
    lines = [line for line in COMMANDS if line.startswith(("echo ", "gptwo batch ")) and "--ray" not in line]
    assert len(lines) >= 6
    script = "\n".join(["set -e", *(re.sub("^gptwo ", f"{gptwo} ", line) for line in lines)])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    import pyarrow.parquet as pq

    (python,) = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(python, "scaling.md", "exec"), {"__name__": "scaling"})
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "answers.jsonl").read_bytes()
    table = pq.read_table(tmp_path / "answers.parquet")
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", TEXT, flags=re.MULTILINE)
    assert {name for row in named for name in re.findall(r"\w+", row)} == set(table.column_names)
    scores = json.loads((tmp_path / "scores.jsonl").read_text())
    assert {"token_count", "total", "perplexity", "bits_per_byte"} <= scores.keys()


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("gptwo serve ")])
def test_the_servers_of_the_page_start(command: str) -> None:
    arguments = [*GPTWO, *shlex.split(command)[1:], "--port", "0", "--log-level", "error"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("gptwo serves ")
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=SECONDS)
        assert server.returncode == 0


def test_what_the_page_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists()
