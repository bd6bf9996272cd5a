"""The processes of a run: one, or those that `torchrun` started, which work on the same steps.

R processes; each knows its rank, 0 to R - 1. Rank 0 alone writes and shows.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from gptwo.errors import GptwoError, TrainingError, one_line

Value = TypeVar("Value")

_FAILED = "gptwo/failed"


class ElsewhereError(TrainingError):
    """A process ends since another one did, which says why."""


@dataclass(frozen=True)
class World:
    """The processes, and what they tell each other. One alone says everything to itself."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among the processes of this machine."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and shows."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this process: with several, `cuda` is the graphics card of its local rank."""
        return f"{name}:{self.local_rank}" if self.size > 1 and name == "cuda" else name

    def sum(self, *values: float) -> list[float]:
        """The sums over all processes, each the same for all."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        return cast("list[float]", tensor.tolist())

    def from_first(self, value: Value) -> Value:
        """What rank 0 has, which all need."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return cast("Value", box[0])

    def gather(self, value: Value) -> list[Value]:
        """What each process has, in the order of ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Rank 0 alone in the block, and when it is done all others: for what is fetched once and then there."""
        if self.first:
            yield
            self.wait()
        else:
            self.wait()
            yield


def chosen_device(name: str) -> str:
    """The device that a setting means: for `auto` cuda, if PyTorch can use it here, and else the CPU."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def open_world(device: str) -> Iterator[World]:
    """The processes of this run, told apart by what `torchrun` put into the environment; they part at the end.

    device: the kind that they compute on. If one fails, the others do too: the error of the first to fail comes out of
    it as it is, out of the others as an ElsewhereError. Raises TrainingError if they do not find each other.
    """
    size, local_rank = _environment("WORLD_SIZE", 1), _environment("LOCAL_RANK", 0)
    if size == 1:
        yield World()
        return
    world = World(_environment("RANK", 0), size, local_rank)
    cuda = torch.device(device).type == "cuda"
    if cuda and world.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(world.local_rank)
    try:
        with _ended_by_signals():
            # A process writes a large checkpoint or evaluates alone while the others wait.
            dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=60))
    except (RuntimeError, ValueError) as error:
        raise TrainingError(
            f"{size} processes were to train together and did not find each other ({one_line(error)}); "
            "start them with torchrun"
        ) from error
    try:
        yield world
    except GptwoError as error:
        if _first_to_fail(world):
            raise
        raise ElsewhereError("another process of this run failed") from error
    except RuntimeError as error:
        if not _is_about_others(error):
            raise
        if _first_to_fail(world):
            raise TrainingError(
                "another process of this run has ended, and so does this one; the same command goes on from the "
                "newest checkpoint"
            ) from error
        raise ElsewhereError("another process of this run failed") from error
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once, whatever they do otherwise: no handler is called while it waits
    for the others, which may be for an hour if one never comes.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if callable(handler):  # one that is ignored stays so
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def _environment(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() else default


def _is_about_others(error: RuntimeError) -> bool:
    """Whether an error is that another process could not be reached, and none of our own."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or "gloo" in words or "nccl" in words


def _first_to_fail(world: World) -> bool:
    """Whether no process has failed before, by a note that all can read."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return store.add(_FAILED, 1) == 1
    except (RuntimeError, ValueError):  # the store went with the process that held it
        return world.first
