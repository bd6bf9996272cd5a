"""Our loss and gradients, by the path that training takes, beside those of transformers' GPT-2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gptwo.config import GPTConfig
from gptwo.model import GPT2
from gptwo.training.fast_blocks import can_run
from gptwo.training.loss import IGNORED, Objective

BATCH, LENGTH, VOCABULARY, STEPS = 3, 20, 150, 10
DOCUMENTS = [[0] * 7 + [1] * 13, [0] * 20, [0] + [1] * 9 + [2] * 10]


def pair(**changes: Any) -> tuple[GPT2, GPT2LMHeadModel]:
    """The same random weights as our model and as theirs, large enough that attention is far from even."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 24, "n_layer": 3, "n_head": 2}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    settings = {**shape, **dropout, "initializer_range": 0.2, "bos_token_id": 0, "eos_token_id": 0, **changes}
    theirs = GPT2LMHeadModel(GPT2Config(**settings)).train()
    ours = GPT2(GPTConfig(**settings)).train()
    ours.load_state_dict(
        {name.removeprefix("transformer."): tensor.clone() for name, tensor in theirs.state_dict().items()}
        if not ours.config.tie_word_embeddings
        else {name.removeprefix("transformer."): t.clone() for name, t in theirs.transformer.state_dict().items()}
    )
    return ours, theirs


def batch(number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets (B, T), a few of the targets IGNORED."""
    draw = torch.Generator().manual_seed(number)
    ids = torch.randint(VOCABULARY, (BATCH, LENGTH + 1), generator=draw)
    targets = ids[:, 1:].clone()
    targets[torch.rand(targets.shape, generator=draw) < 0.2] = IGNORED
    return ids[:, :-1], targets


def their_loss(model: GPT2LMHeadModel, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean over the targets that count; their labels would be shifted, so the logits are taken as they are."""
    logits = model(input_ids=inputs).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def their_gradients(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("transformer."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


CHANGES: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False, "scale_attn_by_inverse_layer_idx": True, "n_inner": 40},
    "relu, which the fast path leaves to the model": {"activation_function": "relu"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_loss_and_every_gradient_are_transformers(name: str) -> None:
    ours, theirs = pair(**CHANGES[name])
    assert can_run(ours) == ("relu" not in name)
    inputs, targets = batch()
    count = int((targets != IGNORED).sum())
    loss = Objective(ours, chunk_rows=16)(inputs, targets, divisor=float(count))
    loss.backward()
    expected = their_loss(theirs, inputs, targets)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    found = {name: parameter.grad for name, parameter in ours.named_parameters()}
    gradients = their_gradients(theirs)
    assert found.keys() == gradients.keys()
    for parameter, gradient in found.items():
        assert (gradient - gradients[parameter]).abs().max() < 1e-5, parameter


def test_packed_documents_have_the_gradients_of_documents_one_by_one() -> None:
    ours, theirs = pair()
    inputs, targets = batch()
    Objective(ours)(inputs, targets, torch.tensor(DOCUMENTS)).backward()
    for row, documents in enumerate(DOCUMENTS):
        for document in range(max(documents) + 1):
            first, count = documents.index(document), documents.count(document)
            part = slice(first, first + count)
            learned = (targets[row, part] != IGNORED).sum()
            if learned:
                (their_loss(theirs, inputs[row : row + 1, part], targets[row : row + 1, part]) * learned).backward()
    gradients = their_gradients(theirs)
    for name, parameter in ours.named_parameters():
        expected = gradients[name]
        assert (parameter.grad - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item()), name


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_ten_steps_of_adamw_end_with_transformers_weights(name: str) -> None:
    ours, theirs = pair(initializer_range=0.02, **CHANGES[name])
    objective = Objective(ours, chunk_rows=16)
    # An epsilon above the rounding of a gradient that is zero in truth: AdamW would make steps of its sign.
    optimizers = [
        torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-6, fused=fused)
        for model, fused in ((ours, True), (theirs, False))
    ]
    for step in range(STEPS):
        inputs, targets = batch(step)
        losses = [
            objective(inputs, targets, divisor=float((targets != IGNORED).sum())),
            their_loss(theirs, inputs, targets),
        ]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    expected = {name.removeprefix("transformer."): parameter for name, parameter in theirs.named_parameters()}
    for parameter_name, parameter in ours.named_parameters():
        assert (parameter - expected[parameter_name]).abs().max() < 1e-5, parameter_name
