"""Everything that a run has learnt, as tensors by name: the weights, and what the optimizers keep for each of them.

`model.NAME` is a weight, `optimizer.NAME.KEY` what an optimizer keeps for it. The names are those of the model, so that
the same state fits any number of processes, sharded or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from gptwo.model import GPT2

MODEL, OPTIMIZER = "model.", "optimizer."


def run_state(model: GPT2, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The tensors themselves, not copies."""
    state = {MODEL + name: tensor.detach() for name, tensor in model.state_dict().items()}
    for name, parameter, optimizer in _trained(model, optimizers):
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{OPTIMIZER}{name}.{key}"] = value
    return state


def empty_state(
    model: GPT2, optimizers: Sequence[torch.optim.Optimizer], shapes: Mapping[str, Sequence[int]]
) -> dict[str, Tensor]:
    """A state to read one of these shapes into: the model's own weights, and for the optimizers new tensors.

    What has a weight's shape is sharded as that weight is. Raises ValueError for shapes that are not this model's.
    """
    state = {MODEL + name: tensor.detach() for name, tensor in model.state_dict().items()}
    parameters = {name: parameter for name, parameter, _ in _trained(model, optimizers)}
    for name, shape in shapes.items():
        if name.startswith(OPTIMIZER):
            owner = name.removeprefix(OPTIMIZER).rpartition(".")[0]
            like = parameters.get(owner)
            if like is None:
                raise ValueError(f"no parameter {owner}")
            own = tuple(shape) == tuple(like.shape)
            if not own and math.prod(shape) > 1:  # but for a count of steps; nothing else is to take memory
                raise ValueError(f"{name} has shape {tuple(shape)}, expected {tuple(like.shape)}")
            state[name] = torch.zeros_like(like) if own else torch.zeros(tuple(shape), device=like.device)
    _check(state, shapes)
    return state


@torch.no_grad()
def load_run_state(model: GPT2, optimizers: Sequence[torch.optim.Optimizer], state: Mapping[str, Tensor]) -> None:
    """Put a state in the place of the model's and the optimizers'. Raises ValueError if it is not this model's."""
    target = empty_state(model, optimizers, {name: tensor.shape for name, tensor in state.items()})
    for name, tensor in state.items():
        if tensor is not target[name]:
            target[name].copy_(_sharded_like(target[name], tensor))
    for name, parameter, optimizer in _trained(model, optimizers):
        prefix = f"{OPTIMIZER}{name}."
        kept = {key.removeprefix(prefix): value for key, value in target.items() if key.startswith(prefix)}
        if kept:
            optimizer.state[parameter] = {key: value.detach() for key, value in kept.items()}


def _trained(
    model: GPT2, optimizers: Sequence[torch.optim.Optimizer]
) -> Iterator[tuple[str, torch.nn.Parameter, torch.optim.Optimizer]]:
    """Each parameter that is trained, its name, and the optimizer that does."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield names[parameter], parameter, optimizer


def _check(state: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    if state.keys() != shapes.keys():
        raise ValueError(f"other tensors, such as {min(state.keys() ^ shapes.keys())}")
    for name, tensor in state.items():
        if tuple(tensor.shape) != tuple(shapes[name]):
            raise ValueError(f"{name} has shape {tuple(shapes[name])}, expected {tuple(tensor.shape)}")


def _sharded_like(target: Tensor, whole: Tensor) -> Tensor:
    """Of a tensor that all have whole, the shard of this process, if the target is sharded."""
    if not hasattr(target, "device_mesh") or hasattr(whole, "device_mesh"):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(target, DTensor)
    return distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
