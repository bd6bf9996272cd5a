"""The loss on the validation data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from gptwo.training.batch import Batch
from gptwo.training.step import Stepper


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
