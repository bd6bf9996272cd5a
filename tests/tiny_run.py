"""What the tests of training share: a text, data prepared from it, and the settings of a run that takes a moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import gptwo.training.pieces as cutting
import gptwo.training.prepare as prepare_module
from gptwo.training.prepare import prepare

WORDS = ("the", "king", "sword", "night", "is", "shall", "speak", "of", "to", "and", "blood", "crown", "O", "more")


def make_text(characters: int, seed: int = 0) -> str:
    """Sentences that have some order to learn: each word is followed by one of three."""
    draw = random.Random(seed)
    text, word = "", 0
    while len(text) < characters:
        text += WORDS[word] + draw.choice([" ", " ", " ", ", ", ".\n", "\n\n"])
        word = (word * 3 + draw.randrange(3)) % len(WORDS)
    return text[:characters]


def make_data(
    directory: Path, *, tokenizer: str = "bpe:280", characters: int = 4000, val_fraction: float = 0.1
) -> Path:
    """The directory of prepared data."""
    directory.mkdir(parents=True, exist_ok=True)
    text = directory / "text.txt"
    text.write_text(make_text(characters), encoding="utf-8", newline="")
    prepare([text], directory / "data", tokenizer=tokenizer, val_fraction=val_fraction)
    return directory / "data"


SETTINGS: dict[str, Any] = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "batch_size": 4,
    "steps": 12,
    "lr": 0.01,
    "warmup_steps": 3,
    "dropout": 0.1,
    "eval_every": 3,
    "save_every": 5,
    "seed": 2**40 + 3,
    "device": "cpu",
}


def flags(**changes: Any) -> list[str]:
    """SETTINGS for the command line, some of them changed; None leaves one out."""
    values = {name: value for name, value in {**SETTINGS, **changes}.items() if value is not None}
    return [word for name, value in values.items() for word in ("--" + name.replace("_", "-"), str(value))]


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics without the figures that hang on the clock."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: v for name, v in json.loads(line).items() if not name.endswith("_per_second")} for line in lines]


# Processes for tests that kill them: all are forked from one that has imported what takes long.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["gptwo.training.trainer", "torch._dynamo", "pytest"])


def prepare_and_die(
    texts: list[Path], out: Path, options: dict[str, Any], pieces: int | None, writings: int | None
) -> None:
    """The target of a process that kills itself after so many pieces, or at a writing to the disk."""
    left = {"pieces": pieces, "writings": writings}

    def count(what: str) -> None:
        if left[what] is not None:
            left[what] -= 1
            if left[what] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            count("writings")
            return function(*arguments, **named)

        return call

    for name in ("replace", "fsync", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))
    cutting.PIECE_CHARACTERS = 500
    prepare_module.SAVE_SECONDS = 0.0
    prepare(texts, out, progress=lambda share: count("pieces"), **options)


def train_in_a_process(data: Path, out: Path, settings: dict[str, Any]) -> None:
    """The target of a process that a test kills."""
    import torch

    from gptwo.training.config import TrainConfig
    from gptwo.training.trainer import train

    torch.set_num_threads(1)
    os.fsync = lambda _: None  # type: ignore[assignment]
    train(data, out, TrainConfig(**settings))
