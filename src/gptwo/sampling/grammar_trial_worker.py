"""The other side of `grammar_trial`: compiles grammars in a process of its own, which may hang or die of it.

Run as a script with the path of llguidance's compiled module and the limits as JSON. Reads grammars from standard
input, each a line of JSON, and answers each with a line: what is wrong with it, or null.
"""

from __future__ import annotations

import json
import sys
import threading
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
from typing import Any

STEPS = 24  # of a text that the grammar allows: what it costs to go on is tried out too
STACK_BYTES = 2 * 2**20  # a quarter of what threads have, so that what passes here passes there


def main() -> None:
    """Answer until standard input ends."""
    path, limits = sys.argv[1], json.loads(sys.argv[2])
    loader = ExtensionFileLoader("llguidance._lib", path)
    spec = spec_from_loader("llguidance._lib", loader)
    assert spec is not None
    library = module_from_spec(spec)
    loader.exec_module(library)
    tokenizer = library.LLTokenizer("byte", slices=[])
    parser_limits = library.LLParserLimits(**limits["parser"])
    _limit_memory(limits["bytes"])
    for line in sys.stdin.buffer:
        _set_timer(limits["seconds"])
        error = _tried(library, tokenizer, parser_limits, json.loads(line))
        _set_timer(0)
        sys.stdout.buffer.write(json.dumps(error).encode() + b"\n")
        sys.stdout.buffer.flush()


def _tried(library: Any, tokenizer: Any, limits: Any, grammar: str) -> str | None:
    matcher = library.LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if matcher.is_error():
        return str(matcher.get_error())
    draw = 1
    for _ in range(STEPS):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error() or matcher.is_stopped():
            break
        allowed = [token for token in range(256) if bits >> token & 1]
        if not allowed:
            break
        draw = draw * 1103515245 + 12345 & 0x7FFFFFFF
        matcher.consume_token(allowed[draw % len(allowed)])
    return None


def _limit_memory(size: int) -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, OSError, ValueError):  # a system without such a limit
        pass


def _set_timer(seconds: float) -> None:
    """End this process once it has used so much of a processor's time."""
    try:
        import signal

        signal.setitimer(signal.ITIMER_PROF, seconds)
    except (ImportError, AttributeError):  # a system without timers; the other side does not wait for ever
        pass


if __name__ == "__main__":
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=main)
    thread.start()
    thread.join()
