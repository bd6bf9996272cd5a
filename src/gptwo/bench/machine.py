"""What a result was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gptwo import _native
from gptwo.cpus import available_cpus
from gptwo.version import __version__

_MOST_BYTES = 256 << 20
_NOTED_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "asimddp", "i8mm", "bf16")


@dataclass(frozen=True)
class Machine:
    """A machine and the moment of a measurement."""

    processor: str
    cpus: int
    """Those that this process may use."""
    instructions: tuple[str, ...]
    """Of the instruction sets that matter here, those that the processor has."""
    tier: str
    """What the core uses of them."""
    memory_bytes: int
    system: str
    gptwo: str
    date: str
    """UTC, ISO 8601."""
    load: float
    """Processes that wanted a CPU in the last minute; more than nearly none before a measurement spoils it."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def __str__(self) -> str:
        instructions = ", ".join(self.instructions) or "no vector instructions known"
        return (
            f"{self.processor}, {self.cpus} CPUs ({instructions}), {self.memory_bytes / 2**30:.0f} GiB, {self.system}"
        )


def this_machine() -> Machine:
    """The machine that this runs on."""
    text = _text("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(re.sub(r"^(?!(flags|Features)\s*:).*$", "", text, flags=re.MULTILINE).split())
    total = re.search(r"^MemTotal:\s*(\d+) kB", _text("/proc/meminfo"), re.MULTILINE)
    return Machine(
        processor=name[1] if name else platform.processor() or platform.machine(),
        cpus=available_cpus(),
        instructions=tuple(flag for flag in _NOTED_FLAGS if flag in flags),
        tier=os.environ.get("GPTWO_ISA") or _native.tiers()[-1],
        memory_bytes=int(total[1]) * 1024 if total else 0,
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        gptwo=__version__,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    )


def read_bandwidth(threads: int, seconds: float = 1.0, size: int = _MOST_BYTES) -> float:
    """Bytes per second that `threads` threads of the core's pool read together from `size` bytes, at best."""
    return _native.read_bandwidth(bytes=size, threads=threads, seconds=seconds)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""
