"""Runs of several processes, as torchrun starts them, but forked from one that has imported what takes long."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tiny_run import PROCESSES

from gptwo.training.report import TrainResult

SECONDS = 240


def run_of_several(size: int, data: Path, out: Path, settings: dict[str, Any], **where: Any) -> list[Any]:
    """Train with `size` processes; what `train` returned in each, or the error that it raised.

    where: `stop`, a step after which the processes of `stop_ranks` (all, unless given) raise StopRun; `kill`, a step
    at which the process of rank `kill_rank` kills itself.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    answers = PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=_train, args=(rank, size, store.port, data, out, settings, where, answers))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    expected = size - ("kill" in where)
    try:
        while len(found) < expected:
            rank, answer = answers.get(timeout=SECONDS)
            found[rank] = answer
        for process in processes:
            process.join(SECONDS)
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [found.get(rank) for rank in range(size)]


def _train(
    rank: int,
    size: int,
    port: int,
    data: Path,
    out: Path,
    settings: dict[str, Any],
    where: dict[str, Any],
    answers: Any,
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # which is the test's own process
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    import torch

    from gptwo.training.config import TrainConfig
    from gptwo.training.report import StepReport, StopRun
    from gptwo.training.trainer import train

    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]

    def on_step(report: StepReport) -> None:
        if report.step == where.get("stop") and rank in where.get("stop_ranks", range(size)):
            raise StopRun(report.step)
        if report.step == where.get("kill") and rank == where["kill_rank"]:
            os.kill(os.getpid(), 9)

    answer: TrainResult | BaseException
    try:
        answer = train(data, out, TrainConfig(**settings), on_step)
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        answer = error
        with contextlib.suppress(Exception):
            answer.__cause__ = answer.__context__ = None
    answers.put((rank, answer))
