"""The loss on the validation data, or on a part of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from gptwo.training.batch import Batch
from gptwo.training.config import TrainConfig
from gptwo.training.loader import validation_windows
from gptwo.training.step import Stepper
from gptwo.training.token_data import TokenData


def validation_share(data: TokenData, config: TrainConfig) -> float | None:
    """How much of the validation data is evaluated; None for all of it."""
    taken, there = validation_windows(
        data, block_size=config.block_size, batch_size=config.batch_size, most=config.eval_batches
    )
    return taken / there if taken < there else None


@torch.no_grad()
def validation_loss(stepper: Stepper, batches: Iterable[Batch]) -> float | None:
    """Nats per target over all batches, which the processes share; None if nothing is to be predicted."""
    world, remaining = stepper.world, iter(batches)
    stepper.objective.eval()
    nats, targets = 0.0, 0
    while turn := list(itertools.islice(remaining, world.size)):
        # Shards of a model compute together: where batches run out, a process repeats one, which does not count.
        batch = turn[min(world.rank, len(turn) - 1)]
        loss = stepper.loss(batch, 1.0).item()
        if world.rank < len(turn):
            nats += loss
            targets += batch.target_count
    nats, count = world.sum(nats, targets)
    return nats / count if count else None
