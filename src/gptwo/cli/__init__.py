"""The command line. `main` turns what a command raises into one line on standard error and an exit code.

Exit codes: 0, 1 for a user's error, 2 for wrong usage, 130 for Ctrl-C. Anything else that escapes is a defect and shows
its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence

# What writing to a standard output that is a file can meet.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. arguments: those of the process, unless given."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has gone away is no error
    except BrokenPipeError:
        _discard_output()
        return 0
    except KeyboardInterrupt:
        if arguments is None:  # the process ends
            _end_by_interrupt()
        return 130
    except OSError as error:
        if error.errno not in _DISK_ERRORS or error.filename is not None:
            raise
        _discard_output()
        _say(f"standard output cannot be written ({error.strerror})")
        return 1
    return code


def _run(arguments: list[str]) -> int:
    # Imported here, so that Ctrl-C is quiet while they load.
    import io
    import warnings

    import click

    from gptwo.cli.commands import program
    from gptwo.errors import BackendWarning, CheckpointWarning, GptwoError, TrainingWarning

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows "?", and no traceback
    show = warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
        if issubclass(category, (BackendWarning, CheckpointWarning, TrainingWarning)):
            _say(f"warning: {message}")
        else:
            show(message, category, *place, **more)  # type: ignore[arg-type]

    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            return program.run(arguments)
        except GptwoError as error:
            _say(str(error))
            return error.exit_code
        except click.ClickException as error:
            if sys.stderr is not None:
                with contextlib.suppress(OSError):
                    error.show()
            return error.exit_code


def _say(message: str) -> None:
    """One line on standard error, if there is one: print would take standard output instead."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):  # nobody reads it; the exit code still tells
            print(f"gptwo: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _end_by_interrupt() -> None:
    """End the process by SIGINT itself: only so does a shell know that its loop or script is to end too."""
    from gptwo.cli.terminal import is_terminal, note

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would only make what follows noisy
    if is_terminal(sys.stderr):
        note("")  # the terminal has shown ^C
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if sys.platform != "win32":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def _discard_output() -> None:
    """Let the interpreter's last flush go nowhere, where it would complain otherwise."""
    try:
        descriptor = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
