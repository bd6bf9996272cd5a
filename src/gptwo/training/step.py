"""One step of training: gradients of some batches, one move of the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gptwo.training.batch import Batch
from gptwo.training.clipping import clip_gradients
from gptwo.training.config import TrainConfig
from gptwo.training.loader import BatchLoader
from gptwo.training.optimizer import set_learning_rate
from gptwo.training.parallel import sync_gradients_at_the_end
from gptwo.training.world import World


class Stepper:
    """Makes the steps of a run. With R processes, rank r takes batches r, r + R, ... of each step.

    A batch, and the dropout in it, follow from the seed and the batch's number: so a step is the same, but for
    rounding, however many processes share it, and a run goes on from no more than a step's number.
    """

    def __init__(
        self,
        objective: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        loader: BatchLoader,
        config: TrainConfig,
        world: World,
    ) -> None:
        """objective: of inputs, targets, documents and a divisor, as `Objective`."""
        self.objective, self.optimizers, self.loader = objective, list(optimizers), loader
        self.config, self.world = config, world
        self.device = world.device(config.device)
        self.trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]

    def step(self, number: int, rate: float) -> tuple[float, float]:
        """Step `number` (from 0) with this learning rate: the mean loss of its targets, and the gradient's norm.

        The norm is that before clipping, of all gradients together. If one of the two is no finite number, the weights
        are left as they were.
        """
        config, world = self.config, self.world
        numbers = range(
            number * config.grad_accumulation + world.rank, (number + 1) * config.grad_accumulation, world.size
        )
        batches = [self.loader.batch(k) for k in numbers]
        (targets,) = world.sum(sum(batch.target_count for batch in batches))
        # DDP and FSDP make the mean over the processes of what we want the sum of.
        divisor = max(targets, 1.0) / world.size
        self.objective.train()
        total = torch.zeros((), dtype=torch.float64)
        for k, batch in zip(numbers, batches, strict=True):
            torch.manual_seed(int(np.random.SeedSequence([config.seed, k]).generate_state(1, np.uint64)[0]))
            with sync_gradients_at_the_end(self.objective, last=k == numbers[-1]):
                loss = self.loss(batch, divisor)
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        (loss_sum,) = world.sum(total.item())
        loss_mean, norm = loss_sum / world.size, clip_gradients(self.trained, config.grad_clip).item()
        if math.isfinite(loss_mean) and math.isfinite(norm):
            set_learning_rate(self.optimizers, rate)
            for optimizer in self.optimizers:
                optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return loss_mean, norm

    def loss(self, batch: Batch, divisor: float) -> torch.Tensor:
        """The loss of a batch summed over its targets, over `divisor`."""
        inputs, targets, documents = (
            None if ids is None else torch.from_numpy(ids).to(self.device)
            for ids in (batch.inputs, batch.targets, batch.documents)
        )
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.dtype == "bf16"):
            loss: torch.Tensor = self.objective(inputs, targets, documents, divisor)
        return loss
