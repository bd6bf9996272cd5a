"""A run of gptwo's trainer beside the plainest loop over transformers' GPT-2 and PyTorch's AdamW, step by step."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from tiny_run import make_data, metrics_of
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from gptwo.checkpoint import load_checkpoint
from gptwo.tokenizer import Tokenizer
from gptwo.training.config import TrainConfig
from gptwo.training.loader import BatchLoader
from gptwo.training.shards import read_shard
from gptwo.training.token_data import TokenData
from gptwo.training.trainer import train

STEPS, BLOCK, BATCH, WARMUP, LR, DECAY, CLIP = 10, 12, 3, 3, 0.01, 0.2, 1.2
WIDTH = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("prepared"))


def start_from(directory: Path, data: Path, **changes: Any) -> GPT2LMHeadModel:
    """A random model of transformers' in float32 without dropout, saved for gptwo to start from."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 280, "n_positions": 16, "n_embd": WIDTH, "n_layer": 2, "n_head": 2}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**shape, **dropout, bos_token_id=279, eos_token_id=279, **changes))
    model.save_pretrained(directory)
    Tokenizer.load(data / "tokenizer").save(directory)
    return model


def rate_of(step: int) -> float:
    """Worked out anew: a line up over WARMUP steps, half a cosine from LR down to LR / 10."""
    if step < WARMUP:
        return LR * (step + 1) / WARMUP
    turn = math.pi * (step - WARMUP) / (STEPS - WARMUP)
    return LR / 10 + (LR - LR / 10) * (1 + math.cos(turn)) / 2


def train_plainly(model: GPT2LMHeadModel, data: Path, accumulation: int) -> tuple[list[float], list[float]]:
    """Train in place; the loss and the gradient's norm of each step."""
    loader = BatchLoader(TokenData.open([data / "train.bin"]), block_size=BLOCK, batch_size=BATCH, seed=7)
    named = dict(model.named_parameters())
    matrices = [parameter for parameter in named.values() if parameter.ndim == 2]
    vectors = [parameter for parameter in named.values() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=False, foreach=False)
    losses, norms = [], []
    model.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        total = 0.0
        for part in range(accumulation):
            batch = loader.batch(step * accumulation + part)
            ids = np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)  # it shifts the labels itself
            ids = torch.from_numpy(ids)
            loss = model(input_ids=ids, labels=ids).loss / accumulation
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses, norms


@pytest.mark.parametrize(
    ("accumulation", "changes"),
    [
        (1, {}),
        (2, {"tie_word_embeddings": False, "activation_function": "relu", "scale_attn_by_inverse_layer_idx": True}),
    ],
    ids=["tied", "untied"],
)
def test_ten_steps_are_those_of_a_plain_loop_over_transformers(
    accumulation: int, changes: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    model = start_from(tmp_path / "start", data, **changes)
    losses, norms = train_plainly(model, data, accumulation)
    config = TrainConfig(
        init=str(tmp_path / "start"),
        block_size=BLOCK,
        batch_size=BATCH,
        grad_accumulation=accumulation,
        steps=STEPS,
        lr=LR,
        warmup_steps=WARMUP,
        weight_decay=DECAY,
        grad_clip=CLIP,
        seed=7,
        device="cpu",
    )
    train(data, tmp_path / "run", config)
    lines = [line for line in metrics_of(tmp_path / "run") if "loss" in line]  # all but that of the start
    assert max(norms) > CLIP > min(norms)  # so that clipping matters, and not always
    assert_allclose([line["loss"] for line in lines], losses, atol=1e-5)
    assert_allclose([line["grad_norm"] for line in lines], norms, rtol=1e-4)
    assert [line["lr"] for line in lines] == pytest.approx([rate_of(step) for step in range(STEPS)], rel=1e-12)
    path = tmp_path / "run" / "checkpoints" / "step-00000010" / "state.pt"
    tensors = torch.load(path, weights_only=True)
    state = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    expected = {name.removeprefix("transformer."): value for name, value in model.state_dict().items()}
    if "tie_word_embeddings" not in changes:
        del expected["lm_head.weight"]
    assert state.keys() == expected.keys()
    for name, value in state.items():
        difference = np.abs(value.numpy() - expected[name].numpy())
        if name.endswith("c_attn.bias"):
            # A softmax does not feel what is added to all keys alike: the gradient of their bias is zero but for
            # rounding, whose sign AdamW makes a step of.
            assert difference[WIDTH : 2 * WIDTH].max() < 1e-3
            difference[WIDTH : 2 * WIDTH] = 0.0
        assert difference.max() < 1e-5, name


def test_transformers_loads_the_result_and_finds_the_validation_loss_that_was_reported(
    data: Path, tmp_path: Path
) -> None:
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": BLOCK, "device": "cpu"}
    result = train(data, tmp_path / "run", TrainConfig(**shape, steps=40, lr=LR, warmup_steps=5, dropout=0.1, seed=3))
    model = AutoModelForCausalLM.from_pretrained(result.model)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.dtype == torch.float32
    assert (model.config.embd_pdrop, model.config.attn_pdrop) == (0.1, 0.1)
    shard = read_shard(data / "val.bin")
    nats = 0.0
    model.eval()
    for start in range(0, len(shard) - 1, BLOCK):
        ids = torch.from_numpy(shard.window(start, BLOCK + 1))
        with torch.no_grad():
            logits = model(input_ids=ids[None, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
    assert nats / (len(shard) - 1) == pytest.approx(result.best_val_loss, abs=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(result.model)
    text = "the king's sword, shall speak.\n\n  of blood"
    assert tokenizer(text)["input_ids"] == Tokenizer.load(data / "tokenizer").encode(text)
    assert model.config.eos_token_id == tokenizer.eos_token_id == 279


def test_what_a_checkpoint_of_transformers_says_of_itself_is_kept(data: Path, tmp_path: Path) -> None:
    start_from(tmp_path / "start", data, pad_token_id=5, layer_norm_epsilon=1e-6, summary_type="mean", n_inner=24)
    config = TrainConfig(
        init=str(tmp_path / "start"), block_size=BLOCK, device="cpu", steps=2, dropout=0.2, save_dtype="bf16"
    )
    train(data, tmp_path / "run", config)
    before, after = (
        json.loads((path / "config.json").read_text()) for path in (tmp_path / "start", tmp_path / "run/model")
    )
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed <= {"resid_pdrop", "embd_pdrop", "attn_pdrop", "dtype", "transformers_version"}
    assert (after["attn_pdrop"], after["dtype"]) == (0.2, "bfloat16")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").dtype == torch.bfloat16


def test_the_first_weights_are_drawn_as_transformers_draws_them(data: Path, tmp_path: Path) -> None:
    """Not the same numbers, but the same spread: 0.02, and 0.02 / sqrt(2 layers) where the residual stream is fed."""
    config = TrainConfig(n_layer=8, n_head=2, n_embd=64, block_size=BLOCK, device="cpu", steps=1, lr=1e-12)
    train(data, tmp_path / "run", config)
    ours = load_checkpoint(tmp_path / "run" / "model")
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config(**{**ours.config.to_dict(), "extra": None})).state_dict()
    for name, tensor in ours.tensors.items():
        reference = theirs[f"transformer.{name}"].numpy()
        spread = np.sqrt(np.mean((tensor.float32() - reference.mean()) ** 2))
        assert spread == pytest.approx(reference.std(), rel=0.15, abs=1e-6), name
        assert tensor.float32().mean() == pytest.approx(reference.mean(), abs=2e-3), name
