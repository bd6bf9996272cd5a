"""Checkpoints of sharded runs as a hostile or failing disk may leave them, though their hashes are right."""

from __future__ import annotations

import os
import pickle
import random
import tracemalloc
import warnings
from pathlib import Path

import pytest
import torch
from tiny_trainer import sign

from gptwo.config import GPTConfig
from gptwo.errors import CheckpointWarning, TrainingError
from gptwo.model import GPT2
from gptwo.training.run_checkpoint import Progress, RunCheckpoint, newest_run_checkpoint, save_run_checkpoint
from gptwo.training.run_state import empty_state, run_state
from gptwo.training.world import World


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a single process, whose shards are like those of several."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    state = {"model.a": torch.zeros(3, 5), "optimizer.a.step": torch.zeros(())}
    return save_run_checkpoint(tmp_path, Progress(7), state, data={}, keep=1, world=World(), sharded=True)


def found(checkpoint: Path) -> RunCheckpoint | None:
    """The checkpoint if it is taken for a good one, its manifest signed anew."""
    sign(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheckpointWarning)
        try:
            return newest_run_checkpoint(checkpoint.parent)
        except TrainingError as error:
            assert "none of its checkpoints can be read" in str(error)  # noqa: PT017 - or it is taken for a good one
            return None


def test_no_damage_to_the_description_of_shards_makes_another_error_than_ours(checkpoint: Path) -> None:
    assert found(checkpoint) is not None
    path = checkpoint / ".metadata"
    good = path.read_bytes()
    draw = random.Random(1)
    for _ in range(150):
        content = bytearray(good)
        for _ in range(draw.choice([1, 2, 9])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])
        found(checkpoint)


def test_a_description_of_shards_takes_no_memory_beyond_its_size(checkpoint: Path) -> None:
    remembered = pickle.NONE + pickle.LONG_BINPUT + (5_000_000).to_bytes(4, "little")
    (checkpoint / ".metadata").write_bytes(pickle.PROTO + b"\2" + remembered + pickle.STOP)
    found(checkpoint)  # so that what is imported is not counted
    tracemalloc.start()
    try:
        assert found(checkpoint) is None
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_state_of_other_shapes_takes_no_memory() -> None:
    model = GPT2(GPTConfig(vocab_size=7, n_positions=4, n_embd=4, n_layer=1, n_head=1))
    optimizer = torch.optim.AdamW(model.parameters())
    shapes = {name: tuple(tensor.shape) for name, tensor in run_state(model, [optimizer]).items()}
    assert empty_state(model, [optimizer], {**shapes, "optimizer.ln_f.bias.step": ()}).keys() > shapes.keys()
    name, _ = next(iter(model.named_parameters()))
    with pytest.raises(ValueError, match=r"exp_avg has shape \(1000000000000, 1000000\), expected"):
        empty_state(model, [optimizer], {**shapes, f"optimizer.{name}.exp_avg": (10**12, 10**6)})
