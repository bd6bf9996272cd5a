"""`gptwo serve --workers`: several processes behind one port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gptwo
from gptwo.errors import ServerError
from gptwo.server import workers
from gptwo.server.settings import ServerSettings

SECONDS = 120  # for what takes two when nothing else runs

pytestmark = pytest.mark.skipif(os.name != "posix", reason="several workers need a POSIX system")


class Server:
    """`gptwo serve` as a process."""

    def __init__(self, checkpoint: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gptwo", "serve", str(checkpoint), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "GPTWO_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self.lines: list[dict[str, Any]] = []
        """What it has logged."""
        self.said = ""
        """What else it has written to standard error."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        self.announced = self.process.stdout.readline()
        self.port = int(self.announced.rstrip().rpartition(":")[2] or 0)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("{"):
                self.lines.append(json.loads(line))
            else:
                self.said += line

    def wait_for(self, what: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if found := what():
                return found
            time.sleep(0.01)
        raise AssertionError(f"it did not come; {self.said} {self.lines}")

    def pids(self) -> list[int]:
        """Of the workers that were started, oldest first."""
        return [line["pid"] for line in self.lines if line["message"] == "worker started"]

    def logged(self, message: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["message"] == message]

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def complete(self, **body: Any) -> dict[str, Any]:
        status, answer = self.ask("POST", "/v1/completions", body)
        assert status == 200, answer
        return dict(json.loads(answer))

    def metric(self, name: str, **labels: str) -> float:
        status, answer = self.ask("GET", "/metrics")
        assert status == 200
        families = text_string_to_metric_families(answer.decode())
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        (value,) = [sample.value for sample in samples if labels.items() <= sample.labels.items()]
        return float(value)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join(SECONDS)
        return code


@contextmanager
def running(checkpoint: Path, *arguments: str) -> Iterator[Server]:
    server = Server(checkpoint, "--log-format", "json", *arguments)
    try:
        server.wait_for(lambda: len(server.logged("model loaded")) == 2)
        yield server
    finally:
        server.end(signal.SIGKILL)
        assert server.process.stdout is not None
        server.process.stdout.close()
        assert server.process.stderr is not None
        server.process.stderr.close()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ENDLESS = {"prompt": "speak", "max_tokens": 10**8, "overflow": "slide", "ignore_eos": True, "stream": True}


def test_workers_answer_and_count_as_one_and_are_replaced_when_they_die(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint, "--workers", "2") as server:
        assert server.announced == f"gptwo serves {tiny_checkpoint} at http://127.0.0.1:{server.port}\n"
        with gptwo.load(tiny_checkpoint) as model:
            alone = model.generate("hear me", gptwo.SamplingParams(max_tokens=5, seed=3)).text
        for _ in range(12):  # each by whoever takes the connection
            answer = server.complete(prompt="hear me", max_tokens=5, seed=3)
            assert answer["choices"][0]["text"] == alone
        assert server.metric("gptwo_requests_total", outcome=answer["choices"][0]["finish_reason"]) == 12
        tokens = server.metric("gptwo_generation_tokens_total")
        assert tokens == 12 * answer["usage"]["completion_tokens"]
        assert server.ask("GET", "/health")[0] == 200

        first, second = server.pids()
        os.kill(first, signal.SIGKILL)
        server.wait_for(lambda: server.logged("worker ended"))
        assert server.complete(prompt="hear me", max_tokens=5, seed=3)["choices"][0]["text"] == alone
        server.wait_for(lambda: len(server.pids()) == 3)
        assert server.logged("worker ended")[0]["by"] == "signal 9"
        assert server.metric("gptwo_generation_tokens_total") >= tokens  # what it had counted is not forgotten

        os.kill(second, signal.SIGTERM)  # one that is asked to end is replaced too, at once
        server.wait_for(lambda: len(server.pids()) == 4)
        assert server.logged("worker ended")[1]["by"] == "exit code 0"
        assert server.complete(prompt="hear me", max_tokens=5, seed=3)["choices"][0]["text"] == alone
        pids = server.pids()
        assert server.end() == 0
        assert not any(map(runs, pids))
        assert server.said == ""


@contextmanager
def endless_stream(server: Server) -> Iterator[http.client.HTTPResponse]:
    """An answer that has begun, and is far from its end."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    with closing(connection):
        connection.request("POST", "/v1/completions", json.dumps(ENDLESS), {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            assert response.status == 200
            assert response.readline().startswith(b"data: ")
            yield response


LONG = ("--workers", "2", "--max-tokens", str(10**8), "--max-request-tokens", str(10**9))


def test_sigterm_gives_streams_their_time_and_then_ends_them(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint, *LONG, "--drain-timeout", "0.5") as server, endless_stream(server) as stream:
        server.process.send_signal(signal.SIGTERM)
        events = stream.read().decode().split("\n\n")
        assert "error" in json.loads(events[-2].removeprefix("data: "))
        assert server.process.wait(SECONDS) == 0


def test_a_second_signal_ends_all_at_once(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint, *LONG, "--drain-timeout", "1000") as server, endless_stream(server):
        server.process.send_signal(signal.SIGINT)
        server.wait_for(lambda: server.logged("draining"))
        assert server.end(signal.SIGINT) == 128 + signal.SIGINT
        server.wait_for(lambda: not any(map(runs, server.pids())))


def test_no_worker_runs_on_when_the_server_is_killed(tiny_checkpoint: Path) -> None:
    with running(tiny_checkpoint, "--workers", "2") as server:
        pids = server.pids()
        assert all(map(runs, pids))
        server.end(signal.SIGKILL)
        server.wait_for(lambda: not any(map(runs, pids)))


def test_what_keeps_workers_from_starting_is_told_as_by_one_process(tiny_checkpoint: Path) -> None:
    command = [sys.executable, "-m", "gptwo", "serve", str(tiny_checkpoint), "--port", "0", "--log-level", "error"]
    one, several = (
        subprocess.run(
            [*command, "--tokenizer", "absent", *more], capture_output=True, text=True, timeout=SECONDS, check=False
        )
        for more in ([], ["--workers", "2"])
    )
    assert several.returncode == one.returncode == 1
    assert several.stderr.splitlines()[-1] == one.stderr.splitlines()[-1]
    assert one.stderr.startswith("gptwo: ")
    assert "Traceback" not in several.stderr


def test_workers_that_die_before_they_are_ready_are_not_started_for_ever(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_PAUSE", 0.0)
    monkeypatch.setattr("sys.executable", "/bin/false")
    settings = ServerSettings(model=str(tiny_checkpoint), port=0, workers=2, log_level="error")
    with pytest.raises(ServerError, match=r"workers end before they are ready \(exit code 1\)"):
        workers.serve_with_workers(settings)
