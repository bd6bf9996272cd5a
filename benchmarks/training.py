"""A training step of gptwo beside nanoGPT's model, turn by turn: tokens per second, share of the matrix peak, memory.

    python benchmarks/training.py --nanogpt PATH/TO/nanoGPT      # the whole table, GPT-2's shape: about ten minutes
    python benchmarks/training.py --shape tiny --rounds 1        # does it work? ours alone, half a minute

Each contender is a process of its own with random weights and batches, AdamW (fused) and clipping at 1, as both
projects train. One round is a step of each; the first is not counted, for in it things are compiled. Memory is the most
that a process held after that round, its libraries included. nanoGPT is not part of gptwo: give your own checkout.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from gptwo.bench.machine import this_machine
from gptwo.bench.random_model import SHAPES, shape_config
from gptwo.bench.timing import Times, turn_by_turn
from gptwo.cpus import available_cpus
from gptwo.model import GPT2
from gptwo.training.clipping import clip_gradients
from gptwo.training.config import TrainConfig
from gptwo.training.flops import flops_per_token
from gptwo.training.lora import add_lora
from gptwo.training.loss import Objective
from gptwo.training.memory import kept_memory
from gptwo.training.optimizer import make_optimizers
from gptwo.training.peak import matrix_peak

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
LORA_RANK = 8


@dataclass(frozen=True)
class Contender:
    """One way to make a step."""

    engine: str
    dtype: str
    block_size: int
    compiled: bool = False
    lora: bool = False
    shape: str = "gpt2"
    batch_size: int = 4
    nanogpt: str = ""
    """The checkout, for that engine."""

    @property
    def title(self) -> str:
        """For example `nanogpt compiled f32`."""
        return " ".join([self.engine, *["compiled"] * self.compiled, self.dtype, *["LoRA"] * self.lora])


# ---- in the process of a contender


def our_step(contender: Contender) -> Callable[[], float]:
    """The step that `gptwo train` makes, without its files."""
    config = shape_config(contender.shape).replace(embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2(config).initialize(torch.Generator().manual_seed(0)).train()
    if contender.lora:
        add_lora(model, LORA_RANK, 2.0 * LORA_RANK)
    objective = Objective(model, compiled=contender.compiled)
    (optimizer,) = make_optimizers(model, TrainConfig())
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inputs, targets = batch_of(contender, config.vocab_size)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=contender.dtype == "bf16"):
            loss = objective(inputs, targets, divisor=float(targets.numel()))
        loss.backward()
        clip_gradients(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step


def nanogpt_step(contender: Contender) -> Callable[[], float]:
    """The step of nanoGPT's train.py: the model of its model.py, its loss, its groups, clipping."""
    theirs = _module(Path(contender.nanogpt) / "model.py")
    shape = shape_config(contender.shape)
    # Its own vocabulary is GPT-2's, rounded up.
    vocabulary = -(-shape.vocab_size // 64) * 64
    names = {"n_layer": shape.n_layer, "n_head": shape.n_head, "n_embd": shape.n_embd}
    config = theirs.GPTConfig(block_size=shape.n_positions, vocab_size=vocabulary, dropout=0.0, bias=True, **names)
    model = theirs.GPT(config).train()
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    run = torch.compile(model) if contender.compiled else model
    inputs, targets = batch_of(contender, shape.vocab_size)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=contender.dtype == "bf16"):
            _, loss = run(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.item())

    return step


def batch_of(contender: Contender, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random inputs and targets, int64 (B, T) each: the time of a step does not hang on what they are."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(vocabulary, (contender.batch_size, contender.block_size + 1), generator=draw)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def work(contender: Contender) -> None:
    """Make a step for each line on standard input, and answer with a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what a model prints is no answer
    step = {"gptwo": our_step, "nanogpt": nanogpt_step}[contender.engine](contender)
    with ExitStack() as stack:
        for number, _ in enumerate(sys.stdin):
            if number == 1 and contender.engine == "gptwo":
                stack.enter_context(kept_memory())  # as the trainer does, when the optimizer has its state
            started = time.perf_counter()
            loss = step()
            seconds = time.perf_counter() - started
            answers.write(json.dumps({"seconds": seconds, "loss": loss, "peak": _most_memory()}) + "\n")
            answers.flush()
            Path("/proc/self/clear_refs").write_text("5")  # from here on the most memory counts anew


def _most_memory() -> int:
    """Bytes. Not `getrusage`: what it says includes the process that this one was forked from."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


# ---- in the process that compares


class StepError(Exception):
    """A contender's process ended; the message is the last line that it wrote."""


class Process:
    """A contender at work, seen from here."""

    def __init__(self, contender: Contender, threads: int, log: Path) -> None:
        self.contender, self.log, self.answers = contender, log, list[dict[str, float]]()
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--worker", json.dumps(asdict(contender))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
                text=True,
            )

    def step(self) -> float:
        """Seconds of one step. Raises StepError."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write("step\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer is missing too
        line = self.process.stdout.readline()
        if not line:
            raise StepError((self.log.read_text(errors="replace").strip().splitlines() or ["no word"])[-1])
        self.answers.append(json.loads(line))
        return self.answers[-1]["seconds"]

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class Row:
    """What was found of a contender."""

    contender: Contender
    times: Times
    peak_bytes: int
    loss: float
    of_matrix_peak: float

    @property
    def tokens_per_second(self) -> float:
        """Of the fastest step."""
        return self.contender.batch_size * self.contender.block_size / self.times.minimum

    def line(self) -> str:
        """One line for people."""
        return (
            f"B={self.contender.batch_size} T={self.contender.block_size:<4} {self.contender.title:24}"
            f"{self.tokens_per_second:8.1f} tokens/s  {self.times.minimum:7.3f} s (median {self.times.median:.3f})"
            f"  {100 * self.of_matrix_peak:3.0f}% of matrix peak  {self.peak_bytes / 2**20:6.0f} MiB"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "contender": {k: v for k, v in asdict(self.contender).items() if k != "nanogpt"},
            "seconds": list(self.times.seconds),
            "tokens_per_second": self.tokens_per_second,
            "of_matrix_peak": self.of_matrix_peak,
            "peak_bytes": self.peak_bytes,
            "loss": self.loss,
        }


@contextmanager
def processes(contenders: list[Contender], threads: int, logs: Path) -> Iterator[dict[Contender, Process]]:
    """All of them, ended at the end."""
    with ExitStack() as stack:
        running = {}
        for number, contender in enumerate(contenders):
            running[contender] = Process(contender, threads, logs / f"{number}.log")
            stack.callback(running[contender].close)
        yield running


def compare(contenders: list[Contender], options: argparse.Namespace, peaks: dict[str, float], logs: Path) -> list[Row]:
    """A row for each contender that works; the others are named."""
    rows = []
    with processes(contenders, options.threads, logs) as running:
        for contender in contenders:
            try:
                running[contender].step()
            except StepError as failure:
                print(f"{contender.title}: skipped, {failure}", flush=True)
                del running[contender]
        tasks = {contender: process.step for contender, process in running.items()}
        times = turn_by_turn(tasks, options.rounds, pause=options.pause)
        for contender, process in running.items():
            config = shape_config(contender.shape)
            flops = flops_per_token(config, contender.block_size, frozen=contender.lora)
            row = Row(
                contender,
                times[contender],
                peak_bytes=int(max(answer["peak"] for answer in process.answers[2:])),
                loss=process.answers[0]["loss"],
                of_matrix_peak=0.0,
            )
            share = row.tokens_per_second * flops / peaks[contender.dtype]
            rows.append(replace(row, of_matrix_peak=share))
            print(rows[-1].line(), flush=True)
    return rows


def ratio_line(rows: list[Row]) -> str | None:
    """Ours against the fastest of nanoGPT's, of one block size."""
    ours = [row for row in rows if row.contender.engine == "gptwo"]
    theirs = [row for row in rows if row.contender.engine == "nanogpt"]
    if not ours or not theirs:
        return None
    best, other = (max(group, key=lambda row: row.tokens_per_second) for group in (ours, theirs))
    leanest = min(theirs, key=lambda row: row.peak_bytes)
    return (
        f"T={best.contender.block_size}: {best.contender.title} makes"
        f" {best.tokens_per_second / other.tokens_per_second:.2f} times the tokens of the fastest nanoGPT"
        f" ({other.contender.title}) in {best.peak_bytes / other.peak_bytes:.2f} of its memory"
        f" ({best.peak_bytes / leanest.peak_bytes:.2f} of that of {leanest.contender.title})"
    )


def main(arguments: list[str] | None = None) -> None:
    """See the module."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--nanogpt", metavar="DIR", default="", help="a checkout of nanoGPT, to compare with")
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--dtype", choices=tuple(DTYPES), action="append", help="default: those that are fast here")
    parser.add_argument("--block-size", type=int, action="append", help="may be given again; default 64 and 512")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--pause", type=float, default=0.3, help="seconds of rest before each step")
    parser.add_argument("--no-compile", action="store_true", help="leave out what is compiled")
    parser.add_argument("--no-fine-tuning", action="store_true", help="leave out full fine-tuning and LoRA at T=256")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.worker:
        work(Contender(**json.loads(options.worker)))
        return
    machine = this_machine()
    print(f"{machine}; load {machine.load:.1f}; torch {torch.__version__}, {options.threads} threads")
    peaks = {name: matrix_peak(dtype) for name, dtype in DTYPES.items()}
    print("matrix peak: " + ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in peaks.items()), flush=True)
    dtypes = options.dtype or [name for name in DTYPES if peaks[name] > 0.8 * peaks["f32"]]
    common = {"shape": options.shape, "batch_size": options.batch_size}
    positions = shape_config(options.shape).n_positions
    groups = []
    for block_size in dict.fromkeys(min(size, positions) for size in options.block_size or (64, 512)):
        for dtype in dtypes:
            groups.append(
                [
                    Contender(engine, dtype, block_size, compiled, nanogpt=options.nanogpt, **common)
                    for engine in ("gptwo", *["nanogpt"] * bool(options.nanogpt))
                    for compiled in (False, *[True] * (not options.no_compile))
                ]
            )
    if not options.no_fine_tuning:
        fastest = max(dtypes, key=peaks.__getitem__)
        groups.append([Contender("gptwo", fastest, min(256, positions), lora=lora, **common) for lora in (False, True)])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as logs:
        for group in groups:
            rows += compare(group, options, peaks, Path(logs))
    by_size: dict[int, list[Row]] = {}
    for row in rows:
        by_size.setdefault(row.contender.block_size, []).append(row)
    for line in filter(None, map(ratio_line, by_size.values())):
        print(line)
    found = {"machine": machine.as_dict(), "matrix_peak": peaks, "rows": [row.as_dict() for row in rows]}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
