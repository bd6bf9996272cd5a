"""Muon: what it does to singular values, and that it is the method that PyTorch has too."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from numpy.testing import assert_allclose

from gptwo.config import GPTConfig
from gptwo.model import GPT2
from gptwo.training.config import TrainConfig
from gptwo.training.muon import RMS, Muon, orthogonalize
from gptwo.training.optimizer import make_optimizers


def matrix(*shape: int, seed: int = 0, condition: float = 100.0) -> torch.Tensor:
    """A matrix whose singular values go from 1 down to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(*shape, generator=generator, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0.0, -math.log10(condition), u.shape[-1], dtype=torch.float64)
    return u @ torch.diag_embed(values) @ v


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (1, 8), (8, 1), (3, 24, 40)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_every_singular_value_comes_near_to_one(shape: tuple[int, ...], scale: float) -> None:
    made = orthogonalize(matrix(*shape[-2:], condition=50.0).expand(shape) * scale, torch.float64)
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_the_singular_vectors_stay() -> None:
    given = matrix(12, 20)
    u, _, v = torch.linalg.svd(given, full_matrices=False)
    made = u.T @ orthogonalize(given, torch.float64) @ v.T
    assert_allclose(made - torch.diag(made.diagonal()), 0.0, atol=1e-9)


def test_a_gradient_of_zero_gives_a_step_of_zero() -> None:
    assert_allclose(orthogonalize(torch.zeros(4, 6), torch.float32), 0.0)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_the_step_is_that_of_torchs_own_muon(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its scale "match_rms_adamw" is ours. It always computes in bfloat16; here that stays float32."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)
    ours, theirs = (torch.nn.Parameter(matrix(*shape).float()) for _ in range(2))
    mine = Muon([ours], 0.02, momentum=0.9, weight_decay=0.1)
    torchs = torch.optim.Muon([theirs], 0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        ours.grad = torch.randn(shape, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        mine.step()
        torchs.step()
        assert_allclose(ours.detach(), theirs.detach(), atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_an_update_has_the_root_mean_square_of_adamws(shape: tuple[int, int]) -> None:
    parameter = torch.nn.Parameter(torch.zeros(shape))
    parameter.grad = matrix(*shape, condition=5.0).float()
    Muon([parameter], 1.0).step()
    assert parameter.detach().square().mean().sqrt() == pytest.approx(RMS, rel=0.2)


def test_parts_are_orthogonal_each_by_itself() -> None:
    whole = torch.nn.Parameter(torch.zeros(8, 24))
    parts = [torch.nn.Parameter(torch.zeros(8, 8)) for _ in range(3)]
    whole.grad = torch.cat([matrix(8, 8, seed=seed) * 10**seed for seed in range(3)], dim=1).float()
    for part, grad in zip(parts, whole.grad.split(8, dim=1), strict=True):
        part.grad = grad.clone()
    Muon([{"params": [whole], "parts": 3}], 0.1).step()
    Muon(parts, 0.1).step()
    assert_allclose(whole.detach(), torch.cat([part.detach() for part in parts], dim=1), atol=1e-6)


@pytest.mark.parametrize(("shape", "parts"), [((8,), 1), ((2, 3, 4), 1), ((8, 10), 3)])
def test_what_is_no_matrix_or_has_no_such_parts_is_refused(shape: tuple[int, ...], parts: int) -> None:
    with pytest.raises(ValueError, match="Muon is for matrices"):
        Muon([{"params": [torch.nn.Parameter(torch.zeros(shape))], "parts": parts}])


def test_a_state_that_was_saved_goes_on_with_the_same_bits() -> None:
    one = torch.nn.Parameter(matrix(8, 12).float())
    first = Muon([one], 0.02)

    def step(parameter: torch.nn.Parameter, optimizer: Muon, seed: int) -> None:
        parameter.grad = torch.randn(8, 12, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    step(one, first, 1)
    other = torch.nn.Parameter(one.detach().clone())
    second = Muon([other], 0.02)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    step(one, first, 2)
    step(other, second, 2)
    assert torch.equal(one, other)


@pytest.mark.parametrize("tied", [True, False])
def test_the_matrices_of_blocks_are_muons_and_the_rest_adamws(tied: bool) -> None:
    shape = GPTConfig(vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, tie_word_embeddings=tied)
    network = GPT2(shape).initialize(torch.Generator().manual_seed(0))
    config = TrainConfig(optimizer="muon", lr=0.01, muon_lr=0.03, muon_momentum=0.8, weight_decay=0.2)
    muon, adamw = make_optimizers(network, config)
    names = {parameter: name for name, parameter in network.named_parameters()}
    of_muon = {names[parameter]: group for group in muon.param_groups for parameter in group["params"]}
    of_adamw = {names[parameter]: group for group in adamw.param_groups for parameter in group["params"]}
    assert of_muon.keys() == {
        f"h.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert of_muon.keys() | of_adamw.keys() == set(names.values())
    assert of_muon.keys() & of_adamw.keys() == set()
    assert {name: group["parts"] for name, group in of_muon.items() if group["parts"] != 1} == {
        "h.0.attn.c_attn.weight": 3,
        "h.1.attn.c_attn.weight": 3,
    }
    assert {(group["rate"], group["momentum"], group["weight_decay"]) for group in muon.param_groups} == {
        (0.03 / 0.01, 0.8, 0.2)
    }
