"""`gptwo serve` as a process of its own, and a client that speaks to it in bytes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 120  # for what takes an instant when nothing else runs


class Server:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], log: Any, url: str) -> None:
        self.process, self.url, self._log = process, url, log
        self.port = int(url.rpartition(":")[2])
        self._connections: list[Connection] = []

    @property
    def log(self) -> str:
        """What it has written to standard error."""
        self._log.flush()
        with open(self._log.name, encoding="utf-8") as file:
            return file.read()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name: str) -> float:
        """The sum of a metric's values."""
        with urllib.request.urlopen(self.url + "/metrics", timeout=SECONDS) as answer:
            found = [line for line in answer.read().decode().splitlines() if line.startswith(name + "{")]
        assert found, name
        return sum(float(line.rpartition(" ")[2]) for line in found)

    def resident(self) -> int:
        """Bytes of memory that the process holds."""
        with open(f"/proc/{self.process.pid}/status") as file:
            (line,) = [line for line in file if line.startswith("VmRSS:")]
        return 1024 * int(line.split()[1])

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        end = time.monotonic() + SECONDS
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.02)

    def connect(self) -> Connection:
        """A connection of bytes; closed with the server at the latest."""
        self._connections.append(Connection(self.port))
        return self._connections[-1]

    def close(self) -> None:
        """Leave with every connection."""
        for connection in self._connections:
            connection.close()


class Connection:
    """One connection: what is sent is sent as it is."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def post(self, path: str, body: dict[str, Any] | bytes, *headers: str) -> None:
        """Send a whole request of JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send(head(path, f"Content-Length: {len(content)}", *headers) + content)

    def status(self) -> tuple[int, dict[str, str]]:
        """The status and the headers of the answer; 0 if the connection ended before."""
        line = self._file.readline()
        headers: dict[str, str] = {}
        while (field := self._file.readline().strip()) != b"":
            name, _, value = field.decode().partition(":")
            headers[name.lower()] = value.strip()
        return (int(line.split()[1]) if line else 0), headers

    def answer(self) -> tuple[int, Any]:
        """Status and JSON of an answer with a length."""
        status, headers = self.status()
        return status, self.body(headers)

    def body(self, headers: dict[str, str]) -> Any:
        """The JSON behind the headers that were read."""
        return json.loads(self._file.read(int(headers["content-length"])))

    def event(self) -> str | None:
        """The next event of a stream in chunks: its data; None at its proper end. Comments are left out."""
        while True:
            line = self._file.readline()
            assert line, "the connection ended in the middle of a stream"
            if line == b"0\r\n":
                assert self._file.readline() == b"\r\n"
                return None
            if line.startswith(b"data: "):
                return line.removeprefix(b"data: ").strip().decode()

    def at_end(self) -> bool:
        """Whether the server has closed the connection and nothing is left to read."""
        return self._file.read(1) == b""

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self.socket.close()


def head(path: str, *headers: str) -> bytes:
    """The beginning of a request, up to its body."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode()


def command(*arguments: str, before: str = "") -> list[str]:
    """The command line of a server. before: Python that it runs first."""
    program = f"import sys\n{before}\nfrom gptwo.cli import main\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", program, "serve", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a server, without what this process's own may say."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GPTWO_")}
    return {**plain, "OMP_NUM_THREADS": "1", "GPTWO_THREADS": "1", **variables}


@contextmanager
def running_server(*arguments: str, ready: bool = True, before: str = "", **variables: str) -> Iterator[Server]:
    """A server on a free port, with its model loaded if `ready`; killed at the end if it still runs."""
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command("--port", "0", *arguments, before=before),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment(**variables),
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            with open(log.name, encoding="utf-8") as said:
                assert " at http://" in line, said.read()
            server = Server(process, log, line.split(" at ")[1].strip())
            while ready and server.get("/health")[0] != 200:
                assert process.poll() is None, server.log
                time.sleep(0.02)
            try:
                yield server
            finally:
                server.close()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
