"""The command line as a process: pipes, terminals, signals, closed streams, and what it imports."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

GPTWO = [sys.executable, "-m", "gptwo"]
SECONDS = 120  # for a process to do what takes it two when nothing else runs
HEAVY = ("numpy", "rich", "tokenizers", "torch", "safetensors", "huggingface_hub", "transformers")


@pytest.fixture(autouse=True)
def environment(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTWO_MODEL", str(tiny_checkpoint))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("NO_COLOR", "PYTHONIOENCODING", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, stdin: bytes | None = b"", shell_end: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run gptwo; shell_end: redirections that a shell makes."""
    command: list[str] = [*GPTWO, *arguments]
    if shell_end:
        command = ["bash", "-c", f'"$@" {shell_end}', "bash", *command]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=SECONDS, check=False)


def imported_by(*arguments: str) -> set[str]:
    """Those of the heavy modules that a command has imported when it ends."""
    program = (
        "import sys; from gptwo.cli import main; code = main(sys.argv[1:]); "
        f"print(code, *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, *arguments]
    outcome = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    code, *names = outcome.stderr.decode().split()
    assert code == "0"
    return set(names)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert imported_by(*arguments) == set()


def test_tokenize_does_not_import_torch() -> None:
    assert imported_by("tokenize", "hear me speak") & {"torch", "transformers", "huggingface_hub", "rich"} == set()


def test_models_does_not_import_torch() -> None:
    assert imported_by("models") & {"torch", "transformers"} == set()


# ---- pipes and closed streams


def test_a_reader_that_goes_away_ends_the_process_quietly() -> None:
    with subprocess.Popen(
        [*GPTWO, "tokenize", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"speak " * 100_000)  # far more output than a pipe holds
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == 0


def test_a_reader_that_was_never_there_ends_the_process_quietly() -> None:
    # What could not be written is still in a buffer then, and the interpreter tries again when it ends.
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen([*GPTWO, "tokenize", "hear me"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert process.communicate(timeout=SECONDS)[1] == b""
    assert process.returncode == 0


def test_head_may_follow() -> None:
    outcome = run("--help", shell_end="| head -1; exit ${PIPESTATUS[0]}")
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert outcome.stdout.startswith(b"Usage: gptwo")


def test_a_full_disk_is_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, which this system lacks")
    outcome = run("tokenize", "hear me", shell_end=">/dev/full")
    assert outcome.returncode == 1
    assert outcome.stderr == b"gptwo: standard output cannot be written (No space left on device)\n"


def test_a_closed_standard_input_is_one_line() -> None:
    outcome = run("tokenize", "-", shell_end="<&-")
    assert outcome.returncode == 1
    assert outcome.stderr == b"gptwo: standard input is closed, so there is no text to read from it\n"


def test_a_closed_standard_output_or_error_hurts_nobody() -> None:
    outcome = run("tokenize", "hear me", shell_end=">&-")
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    outcome = run("tokenize", "hear me", "--tokenizer", "absent", shell_end="2>&-")
    assert (outcome.returncode, outcome.stdout) == (1, b"")


def test_input_that_is_not_utf8_is_one_line() -> None:
    outcome = run("tokenize", "-", stdin=b"caf\xe9\n")
    assert outcome.returncode == 1
    assert outcome.stderr == b"gptwo: standard input: not UTF-8 (byte 0xE9 in line 1); convert it first\n"
    command = [os.fsencode(part) for part in GPTWO] + [b"tokenize", b"caf\xe9"]
    outcome = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
    assert outcome.returncode == 1
    assert outcome.stderr.startswith(b"gptwo: the text is not Unicode")


def test_output_that_the_terminals_encoding_lacks_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    outcome = run("tokenize", "--decode", " ".join(_ids("é!")))
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, b"?!\n", b"")


# ---- signals


def test_ctrl_c_while_waiting_for_input_ends_the_process_by_the_signal_and_says_nothing() -> None:
    with subprocess.Popen(
        [*GPTWO, "tokenize", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        _wait_until_it_reads(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err) == (-signal.SIGINT, b"", b"")


def test_ctrl_c_while_streaming_ends_the_process_by_the_signal_and_says_nothing() -> None:
    arguments = ["generate", "speak", "--max-tokens", "1000000", "--overflow", "slide", "--ignore-eos"]
    with subprocess.Popen([*GPTWO, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(20)  # it streams: the text has begun, and is far from its end
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == b""
        assert process.wait(SECONDS) == -signal.SIGINT


# ---- terminals


class Terminal:
    """A process whose standard streams are a terminal."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [*GPTWO, *arguments])
        self.seen = ""
        self.ended = False

    def read_until(self, text: str) -> str:
        """What is shown up to and with `text`, from where the last call left off."""
        deadline = time.monotonic() + SECONDS
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in {self.seen!r}"
            assert not self.ended, f"ended without {text!r}: {self.seen!r}"
            self._read()
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C until `text` is shown: readline does not notice one that comes just before it waits."""
        for _ in range(SECONDS // 2):
            self.type("\x03")
            patience = time.monotonic() + 2
            while text not in self.seen and time.monotonic() < patience:
                self._read()
            if text in self.seen:
                break
        self.read_until(text)

    def read_some(self, characters: int) -> None:
        """Wait for as many characters, whichever they are."""
        deadline = time.monotonic() + SECONDS
        while len(self.seen) < characters and time.monotonic() < deadline:
            self._read()

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def end(self) -> tuple[str, int]:
        """The rest of what is shown, and the exit code."""
        while not self.ended:
            self._read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.terminal)
        self.pid = 0
        return self.seen, code

    def _read(self) -> None:
        if not select.select([self.terminal], [], [], 1.0)[0]:
            return
        data = b""
        with contextlib.suppress(OSError):  # EIO is how a terminal says that nobody writes to it any more
            data = os.read(self.terminal, 65536)
        self.ended = not data
        self.seen += data.decode("utf-8", "replace").replace("\r\n", "\n")


@contextlib.contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    process = Terminal(*arguments)
    try:
        yield process
    finally:
        if process.pid:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, 0)
            os.close(process.terminal)


def test_on_a_terminal_the_prompt_stands_before_its_continuation() -> None:
    with terminal("generate", "hear\x1b[2J me", "--max-tokens", "30", "--seed", "1", "--ignore-eos") as process:
        shown, code = process.end()
    assert code == 0
    assert shown.startswith("\x1b[1mhear␛[2J me\x1b[0m")
    rest = shown.removeprefix("\x1b[1mhear␛[2J me\x1b[0m")
    assert "\x1b" not in rest  # nothing that is generated steers the terminal
    assert len(rest) > 10


def test_the_prompt_loop_on_a_terminal() -> None:
    pytest.importorskip("readline", reason="needs a Python that was built with readline")
    with terminal("interactive") as process:
        process.read_until("type a prompt, or \\help\n> ")
        process.type("\\config max_tokens 4\n")
        process.read_until("\n> ")
        process.type("\\config ignore_eos true\n")
        process.read_until("\n> ")
        process.type("hear me\n")
        process.read_until("\x1b[1mhear me\x1b[0m")  # not only the echo of what was typed
        process.read_until(" 4 tokens]\n> ")
        process.type("\x1b[A\n")  # the arrow brings the last prompt back: it is remembered
        process.read_until("\x1b[1mhear me\x1b[0m")
        process.read_until(" 4 tokens]\n> ")
        process.type("\\config overflow slide\n")
        process.read_until("\n> ")
        process.type("\\config max_tokens 1000000\n")
        process.read_until("\n> ")
        process.type("speak\n")
        process.read_until("\x1b[1mspeak\x1b[0m")
        process.read_some(20)
        process.type("\x03")  # Ctrl-C, which stops the text only
        process.read_until("tokens]\n> ")
        process.type("half a line")
        process.read_until("half a line")
        process.interrupt_until("> ")  # and at the prompt drops the line
        process.type("\\config overflow\n")
        process.read_until("overflow = slide")
        process.read_until("\n> ")
        process.type("\x04")  # Ctrl-D
        shown, code = process.end()
    assert code == 0
    assert "Traceback" not in shown


def _ids(text: str) -> list[str]:
    from gptwo.tokenizer import Tokenizer

    return list(map(str, Tokenizer.load(os.environ["GPTWO_MODEL"]).encode(text)))


def _wait_until_it_reads(pid: int) -> None:
    """Wait until a process has come as far as reading its standard input: then it sleeps in a read of a pipe."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if "pipe" in Path(f"/proc/{pid}/wchan").read_text():
                return
            if Path(f"/proc/{pid}/syscall").read_text().startswith("0 0x0 "):  # read(0, ...)
                return
        time.sleep(0.05)
    pytest.skip("needs /proc/PID/syscall, which says what a process waits for")
