"""The fast path of training beside the model that it stands for: the same hidden states, the same gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tiny_models import random_arrays, tiny_config
from torch import nn

from gptwo.model import GPT2, Block
from gptwo.training.dropout import Dropout
from gptwo.training.fast_blocks import _dropouts, can_run, fast_body
from gptwo.training.gelu import APPROXIMATE
from gptwo.training.lora import add_lora
from gptwo.training.loss import chunked_cross_entropy

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
    targets = torch.arange(36)

    def loss(**shared: list[torch.Tensor]) -> torch.Tensor:
        hidden = fast_body(model, IDS, **shared)
        return chunked_cross_entropy(hidden.flatten(0, 1), model.head_weight, targets, **shared)  # type: ignore[arg-type]

    loss().backward()
    expected = model.wte.weight.grad
    model.zero_grad()
    shared: list[torch.Tensor] = []
    made = loss(head_gradient=shared)
    model.ln_f.weight.register_hook(lambda _: places.append(shared[0].data_ptr()))
    places: list[int] = []
    made.backward()
    found = model.wte.weight.grad
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, expected)
    assert places == [found.data_ptr()]  # and no other array as large was made
    assert shared == []


@pytest.mark.parametrize("changes", [{"activation_function": "relu"}, {"reorder_and_upcast_attn": True}])
def test_what_it_does_not_know_it_leaves_to_the_model(changes: dict[str, object]) -> None:
    assert not can_run(model_of(**changes))


def test_a_model_with_lora_or_hooks_runs_as_it_is() -> None:
    model = model_of()
    add_lora(model, 2, 2.0)
    assert not can_run(model)
    model = model_of()
    model.h[1].register_forward_hook(lambda *_: None)
    assert not can_run(model)


def test_more_positions_than_the_model_has_are_refused() -> None:
    with pytest.raises(ValueError, match="25 positions"):
        fast_body(model_of(), torch.zeros(1, 25, dtype=torch.int64))


@pytest.mark.parametrize("changes", [{}, {"embd_pdrop": 0.2, "resid_pdrop": 0.3, "attn_pdrop": 0.4}])
def test_activation_checkpointing_changes_no_bit_and_keeps_the_blocks_inputs(changes: dict[str, float]) -> None:
    model, found, kept = model_of(torch.float32, **changes), [], []
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    for model.activation_checkpointing in (False, True):
        saved: dict[int, int] = {}
        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.__setitem__(t.data_ptr(), t.untyped_storage().nbytes() // 4), t)[1],  # type: ignore[misc]
            lambda t: t,
        ):
            hidden = fast_body(model, IDS)
        kept.append(sum(numbers for place, numbers in saved.items() if place not in weights))
        found.append(gradients(model, hidden))
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
    rows, width, layers = IDS.numel(), 16, 2
    assert kept[1] <= rows * ((layers + 2) * width + 2) + 4 * rows < kept[0] / 3


# ---- dropout

DROPOUT = {
    "embedding": {"embd_pdrop": 0.2},
    "residual": {"resid_pdrop": 0.3},
    "attention": {"attn_pdrop": 0.4},
    "all": {"embd_pdrop": 0.2, "resid_pdrop": 0.3, "attn_pdrop": 0.4},
}


class Given(nn.Module):
    """In the place of a model's dropout, one whose numbers are known."""

    def __init__(self, dropout: Dropout) -> None:
        super().__init__()
        self.kept, self.share = dropout.kept, 1.0 - round(dropout.probability * 2**16) / 2**16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.kept(torch.Size((x.shape[:-1].numel(), x.shape[-1]))).view(x.shape) / self.share


def with_given_dropout(model: GPT2, seed: int) -> GPT2:
    """The same model, written out, which drops what `fast_body` drops after this seed."""
    torch.manual_seed(seed)
    model.drop, *given = (Given(dropout) for dropout in _dropouts(model))
    for layer, block in enumerate(model.h):
        assert isinstance(block, Block)
        weights, block.attn.resid_dropout, block.mlp.dropout = given[3 * layer : 3 * layer + 3]
        block.attn.attend = partial(attend, block.attn.scale, weights)  # type: ignore[method-assign]
    return model


def attend(
    scale: float,
    drop: Given,
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    weights = torch.zeros(q.shape[0], q.shape[1], q.shape[2], q.shape[2]).to(q)
    for i in range(q.shape[2]):
        scores = scale * torch.einsum("bhd,bhsd->bhs", q[:, :, i], keys[:, :, : i + 1])
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, i, : i + 1], -torch.inf)
        weights[:, :, i, : i + 1] = scores.softmax(-1)
    return drop(weights) @ values


@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["one text", "documents"])
@pytest.mark.parametrize("where", DROPOUT)
def test_with_dropout_they_are_the_models_with_the_same_numbers_dropped(
    where: str, documents: torch.Tensor | None
) -> None:
    model = model_of(**DROPOUT[where])
    assert can_run(model)
    torch.manual_seed(5)
    hidden = fast_body(model, IDS, documents=documents)
    torch.manual_seed(99)  # the backward pass draws nothing
    found = gradients(model, hidden)
    assert torch.initial_seed() == 99
    expected = with_given_dropout(model, 5).body(IDS, documents=documents)[0]
    torch.testing.assert_close(hidden, expected)
    assert not torch.equal(hidden, fast_body(model_of(), IDS, documents=documents))
    for name, gradient in gradients(model, expected).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9)


def test_with_bf16_products_dropout_stays_as_near() -> None:
    model = model_of(**DROPOUT["all"])
    torch.manual_seed(5)
    exact = gradients(model, fast_body(model, IDS))
    model = model_of(torch.float32, **DROPOUT["all"])
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(model, fast_body(model, IDS))
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[name]).norm() < 0.05 * exact[name].norm() + 0.01, name


def test_what_is_dropped_follows_from_the_generator_and_differs_everywhere() -> None:
    model = model_of(torch.float32, **DROPOUT["all"])
    torch.manual_seed(1)
    first, second = fast_body(model, IDS), fast_body(model, IDS)
    torch.manual_seed(1)
    again = fast_body(model, IDS)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    masks = [dropout.kept(torch.Size((64,))).tolist() for dropout in _dropouts(model)]
    assert len({tuple(mask) for mask in masks}) == 1 + 3 * 2


def test_evaluation_drops_nothing_and_draws_nothing() -> None:
    model = model_of(**DROPOUT["all"]).eval()
    state = torch.get_rng_state()
    torch.testing.assert_close(fast_body(model, IDS), model.body(IDS)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.95])
def test_the_share_that_is_kept_and_its_scale_are_those_of_the_probability(probability: float) -> None:
    dropped = Dropout(probability, 7)(torch.ones(1000, 1001))
    kept = dropped[dropped != 0]
    share = kept.numel() / dropped.numel()
    assert abs(share - (1 - probability)) < 4 * (probability * (1 - probability) / dropped.numel()) ** 0.5 + 2**-17
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - probability)), rtol=2e-4, atol=0)
    # Neither rows, columns nor neighbours are dropped together.
    zeros = (dropped == 0).float() - (1 - share)
    for a, b in ((zeros[1:], zeros[:-1]), (zeros[:, 1:], zeros[:, :-1]), (zeros[:, 4:], zeros[:, :-4])):
        assert (a * b).mean().abs() < 5 * probability * (1 - probability) / dropped.numel() ** 0.5


def test_a_probability_of_nothing_gives_the_tensor_itself() -> None:
    x = torch.ones(3, 5)
    assert Dropout(0.0, 1)(x) is x
    assert Dropout(1e-6, 1)(x) is x
    assert Dropout(0.5, 1)(torch.ones(0, 5)).shape == (0, 5)
