"""The cross-entropy in chunks: PyTorch's own figures and gradients, in a fraction of the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import random_arrays, tiny_config
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gptwo.model import GPT2
from gptwo.training.loss import IGNORED, Objective, chunked_cross_entropy


def case(
    rows: int, width: int = 8, vocabulary: int = 30, *, spread: float = 1.0, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states (rows, width) and a head that want gradients, and targets, every third of them IGNORED."""
    draw = torch.Generator().manual_seed(rows)
    hidden = (spread * torch.randn(rows, width, generator=draw, dtype=torch.float64)).to(dtype).requires_grad_()
    head = torch.randn(vocabulary, width, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=draw)
    targets[2::3] = IGNORED
    return hidden, head, targets


def plain(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """PyTorch's own, with all logits at once."""
    return F.cross_entropy(hidden @ head.t(), targets, reduction="sum", ignore_index=IGNORED)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), chunk=st.integers(1, 14), spread=st.sampled_from([0.0, 1.0, 30.0]))
def test_loss_and_gradients_are_those_of_the_plain_cross_entropy(rows: int, chunk: int, spread: float) -> None:
    hidden, head, targets = case(rows, spread=spread)
    expected = plain(hidden, head, targets)
    expected_gradients = torch.autograd.grad(expected, (hidden, head))
    loss = chunked_cross_entropy(hidden, head, targets, chunk_rows=chunk)
    gradients = torch.autograd.grad(loss, (hidden, head))
    assert loss.shape == ()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(loss, expected)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_the_gradients_are_those_of_finite_differences() -> None:
    hidden, head, targets = case(5, 3, 7)
    gradients = torch.autograd.grad(chunked_cross_entropy(hidden, head, targets, chunk_rows=2), (hidden, head))
    for variable, gradient in zip((hidden, head), gradients, strict=True):
        numbers = variable.detach().flatten()  # a view
        for place in range(numbers.numel()):
            losses = []
            for step in (1e-6, -2e-6):
                numbers[place] += step
                losses.append(chunked_cross_entropy(hidden, head, targets, chunk_rows=2).item())
            numbers[place] += 1e-6
            assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(gradient.flatten()[place].item(), abs=1e-7)


def test_a_divisor_divides_the_loss_and_the_gradients_and_so_does_whoever_divides_the_loss() -> None:
    hidden, head, targets = case(7)
    one = chunked_cross_entropy(hidden, head, targets, chunk_rows=3, divisor=5.0)
    other = chunked_cross_entropy(hidden, head, targets, chunk_rows=3) / 5.0
    torch.testing.assert_close(one, other)
    for a, b in zip(torch.autograd.grad(one, (hidden, head)), torch.autograd.grad(other, (hidden, head)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_target_whose_probability_is_too_small_for_a_float_has_an_exact_loss() -> None:
    head = torch.eye(3)
    loss = chunked_cross_entropy(torch.tensor([[500.0, 0.0, -200.0]]), head, torch.tensor([2]))
    assert loss.item() == 700.0


def test_nothing_to_learn_is_a_loss_of_zero_without_gradients() -> None:
    hidden, head, targets = case(6)
    loss = chunked_cross_entropy(hidden, head, torch.full_like(targets, IGNORED), chunk_rows=4)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad is not None and not hidden.grad.any()  # noqa: PT018
    assert head.grad is not None and not head.grad.any()  # noqa: PT018


def test_half_precision_keeps_the_loss_in_float32_and_sums_the_heads_gradient_in_float32() -> None:
    hidden, head, targets = case(64, dtype=torch.float32)
    exact = chunked_cross_entropy(hidden, head, targets)
    exact_hidden, exact_head = torch.autograd.grad(exact, (hidden, head))
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(hidden, head, targets, chunk_rows=1)
    got_hidden, got_head = torch.autograd.grad(loss, (hidden, head))
    assert loss.dtype == got_hidden.dtype == got_head.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=5e-3)
    # 2^-8 is the spacing of bfloat16; 64 sums rounded to it would add up.
    torch.testing.assert_close(got_hidden, exact_hidden, rtol=0, atol=0.03 * exact_hidden.abs().max().item())
    torch.testing.assert_close(got_head, exact_head, rtol=0, atol=0.02 * exact_head.abs().max().item())


def test_bf16_weights_get_bf16_gradients() -> None:
    hidden, head, targets = case(9, dtype=torch.bfloat16)
    loss = chunked_cross_entropy(hidden, head, targets, chunk_rows=4)
    got = torch.autograd.grad(loss, (hidden, head))
    assert loss.dtype == torch.float32
    assert {gradient.dtype for gradient in got} == {torch.bfloat16}


@pytest.mark.parametrize("frozen", ["hidden", "head"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    hidden, head, targets = case(5)
    {"hidden": hidden, "head": head}[frozen].requires_grad_(False)
    chunked_cross_entropy(hidden, head, targets, chunk_rows=2).backward()
    assert (hidden.grad is None) == (frozen == "hidden")
    assert (head.grad is None) == (frozen == "head")


def test_the_gradients_are_handed_over_once() -> None:
    hidden, head, targets = case(5)
    loss = chunked_cross_entropy(hidden, head, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


@pytest.mark.parametrize("learning", [True, False], ids=["training", "evaluation"])
def test_no_array_is_larger_than_a_chunk_of_logits_or_the_heads_gradient(learning: bool) -> None:
    rows, width, vocabulary, chunk = 64, 4, 500, 8
    hidden, head, targets = case(rows, width, vocabulary, dtype=torch.float32)
    with Largest() as largest, torch.set_grad_enabled(learning):
        loss = chunked_cross_entropy(hidden, head, targets, chunk_rows=chunk)
        if learning:
            loss.backward()
    assert vocabulary * chunk <= largest.numbers <= (vocabulary + 31) * chunk  # rows are a little longer
    assert loss.requires_grad == learning
    with Largest() as largest:  # that the measure sees what it should
        plain(hidden, head, targets)
    assert largest.numbers == vocabulary * rows


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_with_its_loss_is_one_module(tied: bool) -> None:
    config = tiny_config(n_positions=12, tie_word_embeddings=tied)
    model = GPT2.from_arrays(config, random_arrays(config))
    inputs = torch.randint(config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(1))
    targets = torch.randint(config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(2))
    targets[0, 3] = IGNORED
    Objective(model, chunk_rows=7)(inputs, targets, divisor=23.0).backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    expected = F.cross_entropy(model(inputs).logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    expected.backward()
    assert found.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
