"""`gptwo serve` in a process of its own, for tests."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen


class Served:
    """A server that is ready, on a free port; it is ended with SIGTERM when the block is left."""

    def __init__(self, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "gptwo", "serve", model, "--port", "0", *options]
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # a pipe that nobody reads fills up, and then the server waits
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        found = re.search(r"http://\S+", self.process.stdout.readline())
        assert found is not None, self.end()
        self.url = found[0]
        while not self._is_ready():
            assert self.process.poll() is None, self.end()
            time.sleep(0.02)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def end(self) -> str:
        """Ask it to end, and wait; what it said on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        if not self._log.closed:
            self.process.communicate(timeout=60)
            self._log.seek(0)
            self._said = self._log.read()
            self._log.close()
        return self._said

    def resident(self) -> int:
        """Bytes of memory."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return 1024 * int(found[1])

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urlopen(f"{self.url}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}(_total)?[{{ ]", line))

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"{self.url}/ready") as answer:
                return bool(answer.status == 200)
        except HTTPError as error:
            error.close()
            return False
