"""The fast path of training beside the model that it stands for: the same hidden states, the same gradients."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_arrays, tiny_config

from gptwo.model import GPT2
from gptwo.training.fast_blocks import can_run, fast_body
from gptwo.training.gelu import APPROXIMATE
from gptwo.training.lora import add_lora

CONFIG = tiny_config(n_positions=24, embd_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0)
DOCUMENTS = torch.tensor([[0] * 5 + [1] * 1 + [2] * 12, [3] * 18])
IDS = torch.randint(300, (2, 18), generator=torch.Generator().manual_seed(3))
SHAPES = {
    "plain": {},
    "three heads, a narrow MLP": {"n_embd": 24, "n_head": 3, "n_inner": 20},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    "untied": {"tie_word_embeddings": False, "scale_attn_weights": False},
}


def model_of(dtype: torch.dtype = torch.float64, **changes: object) -> GPT2:
    config = CONFIG.replace(**changes)
    return GPT2.from_arrays(config, random_arrays(config)).to(dtype).train()


def gradients(model: GPT2, hidden: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a loss that every number of the hidden states takes part in, in its own way."""
    draw = torch.Generator().manual_seed(9)
    model.zero_grad()
    (hidden * torch.randn(hidden.shape, generator=draw).to(hidden)).sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one text", "documents"])
@pytest.mark.parametrize("activation", APPROXIMATE)
@pytest.mark.parametrize("shape", SHAPES)
def test_hidden_states_and_gradients_are_the_models(
    shape: str, activation: str, documents: torch.Tensor | None
) -> None:
    model = model_of(activation_function=activation, **SHAPES[shape])
    assert can_run(model)
    expected = model.body(IDS, documents=documents)[0]
    expected_gradients = gradients(model, expected)
    hidden = fast_body(model, IDS, documents=documents)
    torch.testing.assert_close(hidden, expected)
    found = gradients(model, hidden)
    assert found.keys() == expected_gradients.keys()
    assert len(found) >= 2 + 2 * 12 + 2
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-9, atol=1e-9)


def test_float32_is_as_near_as_the_model_is() -> None:
    exact = gradients(model := model_of(), model.body(IDS)[0])
    found = gradients(model := model_of(torch.float32), fast_body(model, IDS))
    for name, gradient in found.items():
        assert (gradient - exact[name]).abs().max() < 1e-5 * exact[name].abs().max() + 1e-6, name


def test_bf16_products_are_as_near_as_the_models_own() -> None:
    exact = gradients(model := model_of(), model.body(IDS)[0])
    model = model_of(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        hidden, plain = fast_body(model, IDS), model.body(IDS)[0]
    assert hidden.dtype == torch.float32
    found, theirs = gradients(model, hidden), gradients(model, plain)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        error, their_error = ((each[name] - exact[name]).norm() for each in (found, theirs))
        assert error < 1.5 * their_error + 0.01 * exact[name].norm(), name


def test_it_keeps_less_for_the_backward_pass() -> None:
    kept = []
    model = model_of(torch.float32)
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    for body in (lambda: model.body(IDS)[0], lambda: fast_body(model, IDS)):
        saved: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.__setitem__(t.data_ptr(), t.untyped_storage().nbytes() // 4), t)[1],  # type: ignore[misc]
            lambda t: t,
        ):
            result = body()
        kept.append(sum(numbers for place, numbers in saved.items() if place not in weights))
        del result
    rows, width, layers, heads = IDS.numel(), 16, 2, 2
    assert kept[1] <= rows * (layers * (10 * width + 4 + heads) + 2 * width + 2) + 2 * rows
    assert kept[1] < 0.75 * kept[0]


def test_a_tied_heads_gradient_takes_the_embeddings_rows_in_place() -> None:
    model = model_of()
    heads = model.head_weight.new_ones(300, 16)

    def loss(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.square().sum() + (model.head_weight * heads).sum()

    loss(fast_body(model, IDS)).backward()
    expected = model.wte.weight.grad
    model.zero_grad()
    loss(fast_body(model, IDS, head_follows=True)).backward()
    found = model.wte.weight.grad
    assert found is not None
    assert expected is not None
    assert not found.is_sparse
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "changes", [{"resid_pdrop": 0.1}, {"activation_function": "relu"}, {"reorder_and_upcast_attn": True}]
)
def test_what_it_does_not_know_it_leaves_to_the_model(changes: dict[str, object]) -> None:
    assert not can_run(model_of(**changes))


def test_a_model_with_lora_hooks_or_checkpointing_runs_as_it_is() -> None:
    model = model_of()
    add_lora(model, 2, 2.0)
    assert not can_run(model)
    model = model_of()
    model.activation_checkpointing = True
    assert not can_run(model)
    model = model_of()
    model.h[1].register_forward_hook(lambda *_: None)
    assert not can_run(model)
    assert can_run(model_of(resid_pdrop=0.1).eval())


def test_more_positions_than_the_model_has_are_refused() -> None:
    with pytest.raises(ValueError, match="25 positions"):
        fast_body(model_of(), torch.zeros(1, 25, dtype=torch.int64))
