"""LoRA: what it leaves alone, what it learns, and the ordinary model that a merge gives."""

from __future__ import annotations

import pytest
import torch
from numpy.testing import assert_array_equal
from tiny_models import random_arrays, tiny_config

from gptwo.checkpoint.canonical import expected_shapes
from gptwo.errors import InvalidRequestError
from gptwo.model import GPT2, Conv1D
from gptwo.training.lora import TARGETS, LoRAConv1D, add_lora, lora_state_dict, merge_lora
from gptwo.training.loss import Objective

CONFIG = tiny_config(n_positions=24, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
IDS = torch.randint(300, (2, 9), generator=torch.Generator().manual_seed(5))


def model_of(*, tied: bool = True) -> GPT2:
    config = CONFIG.replace(tie_word_embeddings=tied)
    return GPT2.from_arrays(config, random_arrays(config))


def learn(model: GPT2, steps: int = 3) -> None:
    """A few steps that move everything that may move."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.1)
    for _ in range(steps):
        Objective(model)(IDS[:, :-1], IDS[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()


def test_the_first_step_is_the_unchanged_models() -> None:
    model = model_of()
    before = model(IDS).logits
    add_lora(model, 4, 8.0, generator=torch.Generator().manual_seed(1))
    assert_array_equal(model(IDS).logits.detach(), before.detach())


@pytest.mark.parametrize("tied", [True, False])
def test_only_what_lora_added_learns(tied: bool) -> None:
    model = model_of(tied=tied)
    add_lora(model, 4, 8.0, generator=torch.Generator().manual_seed(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn(model)
    for name, tensor in model.state_dict().items():
        learnt = name.endswith(("lora_a", "lora_b"))
        assert model.get_parameter(name).requires_grad == learnt
        assert torch.equal(tensor, before[name]) != learnt, name
    # Four matrices in each of two layers.
    assert lora_state_dict(model).keys() == {name for name in before if "lora_" in name}
    assert len(lora_state_dict(model)) == 2 * 4 * 2


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [TARGETS, ("c_attn",), ("c_proj", "c_fc")])
def test_a_merged_model_says_the_same_under_a_checkpoints_names(tied: bool, targets: tuple[str, ...]) -> None:
    model = model_of(tied=tied)
    shapes = dict(expected_shapes(model.config))
    untouched = {n: t.clone() for n, t in model.state_dict().items() if n.startswith(("wte", "wpe", "lm_head"))}
    add_lora(model, 3, 6.0, targets=targets, generator=torch.Generator().manual_seed(1))
    learn(model)
    unmerged = model(IDS).logits.detach()
    merge_lora(model)
    assert {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()} == shapes
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(isinstance(module, LoRAConv1D) for module in model.modules())
    assert (unmerged - model_of(tied=tied)(IDS).logits).abs().max() > 1e-2  # it learnt something
    torch.testing.assert_close(model(IDS).logits, unmerged, rtol=0, atol=1e-5 * unmerged.abs().max().item())
    for name, tensor in untouched.items():
        assert_array_equal(model.state_dict()[name], tensor)  # the embedding, and with it a tied head


def test_alpha_over_rank_is_how_much_is_added() -> None:
    weights = []
    for alpha in (2.0, 6.0):
        model = model_of()
        base = model.h[0].attn.c_attn.weight.detach().clone()
        add_lora(model, 2, alpha, targets=["c_attn"], generator=torch.Generator().manual_seed(1))
        torch.nn.init.ones_(model.h[0].attn.c_attn.lora_b)
        merge_lora(model)
        weights.append(model.h[0].attn.c_attn.weight.detach() - base)
    torch.testing.assert_close(3 * weights[0], weights[1], rtol=1e-3, atol=1e-5)


def test_dropout_is_on_what_lora_reads_and_only_in_training() -> None:
    model = model_of()
    add_lora(model, 4, 8.0, 0.5, generator=torch.Generator().manual_seed(1))
    plain = model_of()(IDS).logits
    assert_array_equal(model.train()(IDS).logits.detach(), plain.detach())  # B is zero: the base has no dropout
    learn(model)
    one, other = (model(IDS).logits.detach() for _ in range(2))
    assert not torch.equal(one, other)
    model.eval()
    one, other = (model(IDS).logits.detach() for _ in range(2))
    assert_array_equal(one, other)


def test_a_seed_draws_the_same_and_another_draws_others() -> None:
    states = []
    for seed in (1, 1, 2):
        model = model_of()
        add_lora(model, 2, 2.0, generator=torch.Generator().manual_seed(seed))
        states.append(lora_state_dict(model)["h.1.mlp.c_fc.lora_a"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_what_was_learnt_is_taken_up_by_another_copy_of_the_base() -> None:
    model, other = model_of(), model_of()
    for each in (model, other):
        add_lora(each, 2, 2.0)
    learn(model)
    other.load_state_dict(lora_state_dict(model), strict=False)
    assert_array_equal(other(IDS).logits.detach(), model(IDS).logits.detach())


def test_bf16_weights_stay_bf16() -> None:
    model = model_of().bfloat16()
    add_lora(model, 2, 2.0)
    torch.nn.init.ones_(model.h[0].attn.c_attn.lora_b)
    merge_lora(model)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_layers_are_of_the_checkpoints_kind_after_a_merge() -> None:
    model = model_of()
    add_lora(model, 2, 2.0)
    assert isinstance(model.h[0].mlp.c_fc, LoRAConv1D)
    merge_lora(model)
    assert type(model.h[0].mlp.c_fc) is Conv1D


@pytest.mark.parametrize(
    ("tied", "options", "words"),
    [
        (True, {"targets": ["c_attn", "lm_head"]}, "tied to the token embedding"),
        (True, {"targets": ["wte"]}, "tied to the token embedding"),
        (False, {"targets": ["lm_head"]}, "trained in whole or not at all"),
        (True, {"targets": ["c_atn"]}, "did you mean 'c_attn'"),
        (True, {"targets": []}, "names no matrix"),
        (True, {"rank": 0}, "lora_rank is 0"),
        (True, {"dropout": 1.0}, "lora_dropout is 1.0"),
    ],
)
def test_a_wrong_wish_is_refused_in_a_sentence_and_nothing_changes(
    tied: bool, options: dict[str, object], words: str
) -> None:
    model = model_of(tied=tied)
    with pytest.raises(InvalidRequestError, match=words):
        add_lora(model, **{"rank": 2, "alpha": 2.0, **options})  # type: ignore[arg-type]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert lora_state_dict(model) == {}


def test_lora_is_added_once() -> None:
    model = model_of()
    add_lora(model, 2, 2.0)
    with pytest.raises(InvalidRequestError, match="already"):
        add_lora(model, 2, 2.0)
