"""nanoGPT's ckpt.pt, from a small module of our own that has its names and its orientation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.errors import CheckpointError, ConfigError

ARGUMENTS: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "block_size": 6,
    "bias": True,
    "vocab_size": 64,
    "dropout": 0.2,
}


class Norm(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width))
        self.bias = nn.Parameter(torch.randn(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.c_attn(x).chunk(3, dim=2))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(nn.functional.gelu(self.c_fc(x)))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = Norm(width, bias), Attention(width, heads, bias)
        self.ln_2, self.mlp = Norm(width, bias), FeedForward(width, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Lookalike(nn.Module):
    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        width, bias = arguments["n_embd"], arguments["bias"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(arguments["vocab_size"], width),
                "wpe": nn.Embedding(arguments["block_size"], width),
                "h": nn.ModuleList(Layer(width, arguments["n_head"], bias) for _ in range(arguments["n_layer"])),
                "ln_f": Norm(width, bias),
            }
        )
        self.lm_head = nn.Linear(width, arguments["vocab_size"], bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.transformer["wte"](ids) + self.transformer["wpe"].weight[: ids.shape[1]]
        for layer in self.transformer["h"]:
            x = layer(x)
        return self.lm_head(self.transformer["ln_f"](x))


def write(directory: Path, arguments: dict[str, Any] = ARGUMENTS, prefix: str = "", **changes: Any) -> Lookalike:
    """A ckpt.pt with all that train.py puts into it."""
    directory.mkdir(parents=True, exist_ok=True)
    model = Lookalike(arguments)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    optimizer.step()
    content = {
        "model": {prefix + name: tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": arguments,
        "iter_num": 5,
        "best_val_loss": torch.tensor(3.2),
        "config": {"out_dir": "out", "learning_rate": 6e-4, "compile": True, "betas": (0.9, 0.95)},
    }
    torch.save({**content, **changes}, directory / "ckpt.pt")
    return model


def assert_same_model(path: Path, model: Lookalike) -> None:
    """The checkpoint, put into transformers' GPT-2, gives the lookalike's logits."""
    checkpoint = load_checkpoint(path)
    theirs = GPT2LMHeadModel(
        GPT2Config(**{k: v for k, v in checkpoint.config.to_dict().items() if k != "architectures"})
    )
    state = {
        name if name == "lm_head.weight" else f"transformer.{name}": torch.from_numpy(tensor.float32().copy())
        for name, tensor in checkpoint.tensors.items()
    }
    theirs.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})
    ids = torch.tensor([[3, 1, 63, 0, 7, 7]])
    with torch.no_grad():
        assert_allclose(theirs.eval()(ids).logits.numpy(), model(ids).numpy(), atol=2e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module."])
def test_a_checkpoint_is_the_model_that_was_trained(tmp_path: Path, bias: bool, prefix: str) -> None:
    model = write(tmp_path, {**ARGUMENTS, "bias": bias}, prefix)
    for path in (tmp_path, tmp_path / "ckpt.pt"):
        assert_same_model(path, model)


def test_the_configuration_is_nanogpts(tmp_path: Path) -> None:
    write(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    config = checkpoint.config
    assert checkpoint.format == "nanogpt"
    assert checkpoint.tokenizer_path is None
    assert (config.n_layer, config.n_head, config.n_embd, config.n_positions, config.vocab_size) == (2, 2, 8, 6, 64)
    assert config.activation_function == "gelu"
    assert config.layer_norm_epsilon == 1e-5
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0.2, 0.2, 0.2)
    assert config.tie_word_embeddings
    assert config.bos_token_id is None
    assert config.eos_token_id is None


def test_linear_weights_are_turned_without_a_copy(tmp_path: Path) -> None:
    model = write(tmp_path)
    tensors = load_checkpoint(tmp_path).tensors
    assert list(tensors) == [name for name, _ in expected_shapes(load_checkpoint(tmp_path).config)]
    weight = tensors["h.1.mlp.c_fc.weight"]
    assert weight.shape == (8, 32)
    assert weight.raw.flags.f_contiguous
    assert_array_equal(weight.float32(), model.transformer["h"][1].mlp.c_fc.weight.detach().numpy().T)


@pytest.mark.parametrize(("vocab_size", "end"), [(50256, None), (50257, 50256), (50304, 50256)])
def test_a_vocabulary_of_gpt2s_size_or_more_ends_with_gpt2s_token_and_keeps_its_padding(
    tmp_path: Path, vocab_size: int, end: int | None
) -> None:
    write(tmp_path, {**ARGUMENTS, "vocab_size": vocab_size})
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config.vocab_size == vocab_size
    assert checkpoint.tensors["wte.weight"].shape == (vocab_size, 8)
    assert checkpoint.config.bos_token_id == checkpoint.config.eos_token_id == end


def test_biases_are_zeros_only_where_the_arguments_say_there_are_none(tmp_path: Path) -> None:
    bare = {**ARGUMENTS, "bias": False}
    write(tmp_path, bare)
    tensors = load_checkpoint(tmp_path).tensors
    for name in ("ln_f.bias", "h.0.ln_1.bias", "h.1.attn.c_attn.bias", "h.1.mlp.c_proj.bias"):
        assert_array_equal(tensors[name].float32(), np.zeros(tensors[name].shape))
    write(tmp_path, bare, model_args={**bare, "bias": True})
    with pytest.raises(CheckpointError, match=r"ckpt.pt: tensor h.0.ln_1.bias is missing"):
        load_checkpoint(tmp_path)


def test_the_arguments_of_the_first_releases_had_neither_bias_nor_dropout(tmp_path: Path) -> None:
    arguments = {name: value for name, value in ARGUMENTS.items() if name not in ("bias", "dropout")}
    model = write(tmp_path, model_args=arguments)
    assert_same_model(tmp_path, model)
    assert load_checkpoint(tmp_path).config.resid_pdrop == 0.0


def test_mask_buffers_are_left_out(tmp_path: Path) -> None:
    model = write(tmp_path)
    state = model.state_dict() | {f"transformer.h.{n}.attn.bias": torch.ones(1, 1, 6, 6) for n in range(2)}
    write(tmp_path, model=state)
    assert_same_model(tmp_path, model)


def test_a_tokenizer_beside_it_is_found(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    assert load_checkpoint(tmp_path).tokenizer_path == tmp_path
    assert load_checkpoint(tmp_path / "ckpt.pt").tokenizer_path == tmp_path


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ([], CheckpointError, "not a nanoGPT checkpoint, which holds 'model' and 'model_args'"),
        ({"wte.weight": torch.ones(1)}, CheckpointError, "not a nanoGPT checkpoint"),
        ({"model": {}, "model_args": []}, CheckpointError, "its model_args are no dictionary"),
        ({"model": {}, "model_args": {"n_layer": 1}}, CheckpointError, "lack n_head, n_embd, block_size, vocab_size"),
        (
            {"model": {}, "model_args": {**ARGUMENTS, "rope": True}},
            CheckpointError,
            "hold rope, which nanoGPT's do not",
        ),
        ({"model": {}, "model_args": {**ARGUMENTS, "bias": 1}}, CheckpointError, "bias in its model_args is no true"),
        (
            {"model": {}, "model_args": {**ARGUMENTS, "n_head": 3}},
            ConfigError,
            "model_args: n_embd 8 is not a multiple",
        ),
        ({"model": {}, "model_args": {**ARGUMENTS, "vocab_size": None}}, ConfigError, "vocab_size is None"),
        ({"model": {}, "model_args": {**ARGUMENTS, "dropout": "x"}}, ConfigError, "resid_pdrop is 'x'"),
        ({"model": {}, "model_args": ARGUMENTS}, CheckpointError, "tensor wte.weight is missing"),
        ({"model": [], "model_args": ARGUMENTS}, CheckpointError, "it holds no state dict but one list"),
        ({"model": {"a": 1}, "model_args": ARGUMENTS}, CheckpointError, "a in its state dict is no tensor but one int"),
    ],
)
def test_a_broken_checkpoint_is_refused_with_its_file(
    tmp_path: Path, content: object, error: type[Exception], message: str
) -> None:
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(tmp_path)
    assert str(tmp_path / "ckpt.pt") in str(caught.value)


def test_a_wrong_shape_is_shown_as_input_by_output(tmp_path: Path) -> None:
    model = write(tmp_path)
    state = model.state_dict() | {"transformer.h.0.mlp.c_fc.weight": torch.zeros(31, 8)}
    write(tmp_path, model=state)
    with pytest.raises(CheckpointError, match=r"h.0.mlp.c_fc.weight has shape \(8, 31\), expected \(8, 32\)"):
        load_checkpoint(tmp_path)
