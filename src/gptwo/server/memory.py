"""How much memory there is for the texts that a server works on."""

from __future__ import annotations

from pathlib import Path

from gptwo.config import GPTConfig
from gptwo.engine.engine import block_bytes
from gptwo.engine.prefix_cache import BLOCK

SHARE = 2  # the free memory is divided by this: answers, logits and other programs take some too


def blocks_in_memory(config: GPTConfig, workers: int = 1, root: Path = Path("/")) -> int | None:
    """How many blocks a worker's share of the free memory holds, enough for one whole context at least; None where the
    system does not say. root: where its files are.
    """
    free = free_memory(root)
    if free is None:
        return None
    return max(free // SHARE // workers // block_bytes(config), -(-config.n_positions // BLOCK))


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process may still take, by the machine and by its control group; None where nobody says."""
    found = []
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(1024 * int(line.split()[1]))
    group = root / "sys/fs/cgroup"
    for place, most, used in (
        (group, "memory.max", "memory.current"),
        (group / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, taken = _read(place / most).strip(), _read(place / used).strip()
        if limit.isdecimal() and taken.isdecimal():
            found.append(max(0, int(limit) - int(taken) + _file_cache(place)))
    return min(found, default=None)


def _file_cache(group: Path) -> int:
    """Bytes that a control group has taken for files only, and would give back."""
    fields = dict(line.split(maxsplit=1) for line in _read(group / "memory.stat").splitlines() if " " in line)
    return sum(int(fields.get(name, 0)) for name in ("active_file", "inactive_file"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
