"""What transformers writes, gptwo reads; what gptwo writes, transformers reads. Tiny random models, no downloads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPT2Model

from gptwo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gptwo.checkpoint.safetensors_file import encode
from gptwo.errors import CheckpointError, CheckpointWarning

TINY = {
    "vocab_size": 101,
    "n_positions": 16,
    "n_embd": 12,
    "n_layer": 3,
    "n_head": 3,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def tiny_model(**changes: object) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**{**TINY, **changes})).eval()
    for parameter in model.parameters():  # the initial biases are all zeros, which would hide a mistake
        parameter.data.normal_(std=0.5)
    return model


def reference_arrays(model: GPT2LMHeadModel) -> dict[str, np.ndarray]:
    """The model's parameters as float32 under the canonical names."""
    state = {name.removeprefix("transformer."): t.detach().float().numpy() for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def assert_holds(checkpoint: Checkpoint, expected: dict[str, np.ndarray]) -> None:
    assert checkpoint.tensors.keys() == expected.keys()
    for name, tensor in checkpoint.tensors.items():
        assert tensor.name == name
        assert tensor.shape == expected[name].shape
        assert tensor.float32().dtype == np.float32
        assert_array_equal(tensor.float32(), expected[name], err_msg=name)


def save_pickle(directory: Path, model: GPT2LMHeadModel, state: dict[str, object], **config: object) -> Path:
    """A directory with config.json and pytorch_model.bin, as older versions of transformers wrote it."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**model.config.to_dict(), **config}))
    torch.save(state, directory / "pytorch_model.bin")
    return directory


def mask_buffers(model: GPT2LMHeadModel, prefix: str) -> dict[str, torch.Tensor]:
    size = model.config.n_positions
    mask = torch.tril(torch.ones(size, size, dtype=torch.bool)).view(1, 1, size, size)
    return {
        f"{prefix}h.{layer}.attn.{name}": value
        for layer in range(model.config.n_layer)
        for name, value in (("bias", mask), ("masked_bias", torch.tensor(-1e4)))
    }


def test_a_saved_model_is_read_as_it_is(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    checkpoint = load_checkpoint(tmp_path)
    assert_holds(checkpoint, reference_arrays(model))
    assert checkpoint.format == "transformers"
    assert checkpoint.tokenizer_path is None
    assert checkpoint.config.n_layer == 3
    assert checkpoint.config.tie_word_embeddings


def test_the_path_of_the_weights_file_is_as_good_as_its_directory(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert_holds(load_checkpoint(tmp_path / "model.safetensors"), reference_arrays(model))


def test_a_sharded_model_is_read_whole(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_holds(load_checkpoint(tmp_path), reference_arrays(model))
    assert_holds(load_checkpoint(tmp_path / "model.safetensors.index.json"), reference_arrays(model))


def test_a_sharded_pickle_is_read_whole(tmp_path: Path) -> None:
    model = tiny_model()
    state = model.state_dict()
    names = list(state)
    model.config.save_pretrained(tmp_path)
    index: dict[str, str] = {}
    for number, part in enumerate((names[:10], names[10:]), start=1):
        shard = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, tmp_path / shard)
        index |= dict.fromkeys(part, shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    assert_holds(load_checkpoint(tmp_path), reference_arrays(model))


@pytest.mark.parametrize(
    "prefix", ["transformer.", "", "model.transformer.", "module.transformer.", "_orig_mod.module."]
)
def test_a_pickle_is_read_under_any_prefix(tmp_path: Path, prefix: str) -> None:
    model = tiny_model()
    state = {prefix + name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    assert_holds(load_checkpoint(save_pickle(tmp_path / "m", model, state)), reference_arrays(model))


def test_parameters_that_want_gradients_are_read(tmp_path: Path) -> None:
    model = tiny_model()
    assert_holds(
        load_checkpoint(save_pickle(tmp_path / "m", model, dict(model.named_parameters()))), reference_arrays(model)
    )


@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_mask_buffers_are_left_out(tmp_path: Path, prefix: str) -> None:
    model = tiny_model()
    state = {prefix + name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    directory = save_pickle(tmp_path / "m", model, state | mask_buffers(model, prefix))
    assert_holds(load_checkpoint(directory), reference_arrays(model))


def test_a_pickle_without_a_head_is_tied(tmp_path: Path) -> None:
    model = tiny_model()
    state = model.state_dict()
    del state["lm_head.weight"]
    assert_holds(load_checkpoint(save_pickle(tmp_path / "m", model, state)), reference_arrays(model))


def test_a_file_that_kept_only_the_head_of_two_tied_tensors_is_read(tmp_path: Path) -> None:
    model = tiny_model()
    state = model.state_dict()
    del state["transformer.wte.weight"]
    assert_holds(load_checkpoint(save_pickle(tmp_path / "m", model, state)), reference_arrays(model))


def test_a_model_saved_without_its_head_is_read(tmp_path: Path) -> None:
    model = tiny_model()
    bare = GPT2Model(model.config)
    bare.load_state_dict(model.transformer.state_dict())
    bare.save_pretrained(tmp_path)
    assert_holds(load_checkpoint(tmp_path), reference_arrays(model))


def test_a_pickle_in_the_old_container_is_read(tmp_path: Path) -> None:
    model = tiny_model()
    directory = save_pickle(tmp_path / "m", model, {})
    torch.save(model.state_dict(), directory / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_holds(load_checkpoint(directory), reference_arrays(model))


def test_a_padded_vocabulary_is_cut_to_the_real_one(tmp_path: Path) -> None:
    model = tiny_model()
    state = model.state_dict()
    padding = torch.full((27, 12), 7.0)
    padded = torch.cat([state["transformer.wte.weight"], padding])
    state |= {"transformer.wte.weight": padded, "lm_head.weight": padded.clone()}
    assert_holds(load_checkpoint(save_pickle(tmp_path / "m", model, state)), reference_arrays(model))


def test_an_untied_padded_head_is_cut_too(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False)
    state = model.state_dict()
    for name in ("transformer.wte.weight", "lm_head.weight"):
        state[name] = torch.cat([state[name], torch.zeros(27, 12)])
    assert_holds(load_checkpoint(save_pickle(tmp_path / "m", model, state)), reference_arrays(model))


def test_an_old_configuration_that_says_n_ctx_is_read(tmp_path: Path) -> None:
    model = tiny_model()
    directory = save_pickle(tmp_path / "m", model, model.state_dict())
    values = json.loads((directory / "config.json").read_text())
    values["n_ctx"] = values.pop("n_positions")
    (directory / "config.json").write_text(json.dumps(values))
    checkpoint = load_checkpoint(directory)
    assert checkpoint.config.n_positions == 16
    assert_holds(checkpoint, reference_arrays(model))


def test_an_untied_head_is_read(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    assert not checkpoint.config.tie_word_embeddings
    assert_holds(checkpoint, reference_arrays(model))


def test_an_unusual_inner_width_is_read(tmp_path: Path) -> None:
    model = tiny_model(n_inner=20)
    model.save_pretrained(tmp_path)
    assert_holds(load_checkpoint(tmp_path), reference_arrays(model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("pickled", [False, True])
def test_every_float_type_is_read_as_torch_widens_it(tmp_path: Path, dtype: torch.dtype, pickled: bool) -> None:
    model = tiny_model().to(dtype)
    if pickled:
        save_pickle(tmp_path / "m", model, model.state_dict())
    else:
        model.save_pretrained(tmp_path / "m")
    checkpoint = load_checkpoint(tmp_path / "m")
    expected_name = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}[dtype]
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {expected_name}
    assert_holds(checkpoint, reference_arrays(model))


def test_a_head_that_differs_from_a_tied_embedding_is_believed_as_transformers_does(tmp_path: Path) -> None:
    model = tiny_model(tie_word_embeddings=False)
    directory = save_pickle(tmp_path / "m", model, model.state_dict(), tie_word_embeddings=True)
    with pytest.warns(CheckpointWarning, match=r"ties lm_head.weight to wte.weight, but the two differ"):
        checkpoint = load_checkpoint(directory)
    assert not checkpoint.config.tie_word_embeddings
    assert_holds(checkpoint, reference_arrays(model))
    theirs = GPT2LMHeadModel.from_pretrained(directory, use_safetensors=False)
    assert_array_equal(theirs.lm_head.weight.detach().numpy(), checkpoint.tensors["lm_head.weight"].float32())


def test_a_missing_head_that_is_said_to_be_untied_is_an_error(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "tie_word_embeddings": False}))
    with pytest.raises(
        CheckpointError, match=r"lm_head.weight is missing, and its configuration says tie_word_embeddings"
    ):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_what_gptwo_saves_transformers_loads_with_the_same_logits(tmp_path: Path, tied: bool, dtype: str) -> None:
    torch_dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[dtype]
    model = tiny_model(tie_word_embeddings=tied).to(torch_dtype)
    model.save_pretrained(tmp_path / "theirs")
    checkpoint = load_checkpoint(tmp_path / "theirs")
    arrays = {name: tensor.float32() for name, tensor in checkpoint.tensors.items()}
    save_checkpoint(tmp_path / "ours", checkpoint.config, arrays, None, dtype=dtype)

    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.dtype == torch_dtype
    ids = torch.tensor([[5, 17, 100, 3, 0, 42]])
    with torch.no_grad():
        assert_array_equal(loaded(ids).logits.float().numpy(), model(ids).logits.float().numpy())
    assert_holds(load_checkpoint(tmp_path / "ours"), reference_arrays(model))


def test_a_configuration_that_names_another_type_does_not_change_how_the_saved_weights_load(tmp_path: Path) -> None:
    model = tiny_model().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs")  # its config.json says bfloat16
    checkpoint = load_checkpoint(tmp_path / "theirs")
    arrays = {name: tensor.float32() + np.float32(1e-6) for name, tensor in checkpoint.tensors.items()}
    save_checkpoint(tmp_path / "ours", checkpoint.config, arrays, None)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert loaded.dtype == torch.float32
    assert_array_equal(loaded.transformer.wpe.weight.detach().numpy(), arrays["wpe.weight"])


def test_rounding_to_bfloat16_is_torchs() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isnan(values) | (np.abs(values) < 3.38e38)]
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    ours = torch.from_numpy(encode(values, "BF16", "x").view(np.int16).copy()).view(torch.bfloat16)
    assert_array_equal(ours.float().numpy(), expected.float().numpy())  # NaN where torch has NaN


def test_reading_gives_no_warning(tmp_path: Path) -> None:
    model = tiny_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(save_pickle(tmp_path / "m", model, model.state_dict()))
