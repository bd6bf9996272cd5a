"""A model and its loss as the processes of a run share them: whole in each (DDP), or in shards (FSDP2)."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gptwo.errors import TrainingError
from gptwo.model import GPT2
from gptwo.training.config import TrainConfig
from gptwo.training.lora import add_lora
from gptwo.training.loss import Objective
from gptwo.training.world import World


def is_sharded(config: TrainConfig, world: World) -> bool:
    """Whether each process has a part of the weights only."""
    return world.size > 1 and config.distributed == "fsdp"


def parallelize(model: GPT2, config: TrainConfig, world: World) -> nn.Module:
    """The objective of a model that lies on its device, shared and compiled as the settings say.

    The model is changed in place: with FSDP its parameters are sharded from here on. Raises TrainingError for settings
    that the processes do not fit.
    """
    if config.distributed != "auto" and world.size == 1:
        raise TrainingError(
            f"distributed is {config.distributed!r}, and this is one process: start several with torchrun"
        )
    model.activation_checkpointing = config.activation_checkpointing
    objective = Objective(model, compiled=config.compile)
    if is_sharded(config, world):
        _shard(objective, config)
    if world.size > 1 and not is_sharded(config, world):
        return DistributedDataParallel(objective, gradient_as_bucket_view=True)
    return objective


def sync_gradients_at_the_end(objective: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """For a forward and backward pass: DDP adds up gradients over the processes in the last one of a step only.

    FSDP does so in each, since whole gradients would be what it is there to avoid.
    """
    if isinstance(objective, DistributedDataParallel) and not last:
        return objective.no_sync()
    return contextlib.nullcontext()


def part(objective: nn.Module) -> None:
    """Take from DDP what holds the processes' group, so that the group can end. It computes nothing after that.

    Whoever lets go of the group last waits for its threads. DDP's reducer would do that with Python's lock held, which
    a thread that is just done with a gradient may need: both would wait for ever.
    """
    if isinstance(objective, DistributedDataParallel):
        objective.logger = objective.reducer = None  # type: ignore[assignment]  # the logger holds the reducer too


def whole_model(model: GPT2, config: TrainConfig, world: World) -> GPT2 | None:
    """The model with all of its weights: itself, or where it is sharded a copy on rank 0's CPU, and None elsewhere."""
    if not is_sharded(config, world):
        return model
    whole = {}
    for name, tensor in model.state_dict().items():  # in the same order everywhere: all take part
        full = tensor.full_tensor()
        if world.first:
            whole[name] = full.cpu()
    if not world.first:
        return None
    with torch.device("meta"):
        copy = GPT2(model.config)
    if config.lora_rank:
        add_lora(copy, config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets)
    copy.load_state_dict(whole, assign=True)
    return copy.eval()


def _shard(objective: Objective, config: TrainConfig) -> None:
    """Shard each block by itself, and embeddings, head and last norm together, over all processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    # A block returns its keys and values, views of one array, which nothing here changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    kind = torch.device(config.device).type
    mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),))
    bf16 = config.dtype == "bf16"
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if bf16 else None, reduce_dtype=torch.float32)
    for module in (*objective.model.h, objective):
        sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
        if kind == "cpu":  # gloo adds, and cannot average
            sharded.set_force_sum_reduction_for_comms(True)
