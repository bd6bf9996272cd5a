"""The configuration: what config.json may say, what it means, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from gptwo.config import ACTIVATIONS, MAX_BYTES, PUBLISHED_MODELS, GPTConfig
from gptwo.errors import ConfigError


def test_the_defaults_are_the_124m_model() -> None:
    config = GPTConfig()
    assert config == GPTConfig.published("gpt2") == GPTConfig.from_dict({})
    assert (config.vocab_size, config.n_positions, config.head_size, config.inner_size) == (50257, 1024, 64, 3072)
    assert config.bos_token_id == config.eos_token_id == 50256


@pytest.mark.parametrize("model", PUBLISHED_MODELS, ids=lambda model: model.name)
def test_the_published_sizes_have_their_published_parameters(model: Any) -> None:
    config = GPTConfig.published(model.name)
    assert config.parameter_count == model.parameters
    assert (config.n_embd, config.n_layer, config.n_head, config.head_size) == (
        model.n_embd,
        model.n_layer,
        model.n_head,
        64,
    )


def test_a_name_that_was_not_published_is_answered_with_those_that_were() -> None:
    with pytest.raises(ConfigError, match="'gpt5': distilgpt2, gpt2, gpt2-medium, gpt2-large, gpt2-xl"):
        GPTConfig.published("gpt5")


def test_the_parameters_of_an_untied_head_and_an_unusual_inner_width_are_counted() -> None:
    config = GPTConfig(vocab_size=10, n_positions=5, n_embd=4, n_layer=1, n_head=2, n_inner=6)
    block = (4 * 12 + 12) + (4 * 4 + 4) + (4 * 6 + 6) + (6 * 4 + 4) + 4 * 4
    assert config.parameter_count == 10 * 4 + 5 * 4 + block + 8
    assert config.replace(tie_word_embeddings=False).parameter_count == config.parameter_count + 40


def test_the_attention_scale_follows_its_two_switches() -> None:
    config = GPTConfig()
    assert config.attention_scale(3) == 1 / 8
    by_layer = config.replace(scale_attn_by_inverse_layer_idx=True)
    assert by_layer.attention_scale(0) == 1 / 8
    assert by_layer.attention_scale(3) == 1 / 32
    assert by_layer.replace(scale_attn_weights=False).attention_scale(3) == 1 / 4
    assert config.replace(scale_attn_weights=False).attention_scale(3) == 1.0


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_gpt2_is_kept(name: str) -> None:
    assert GPTConfig.from_dict({"activation_function": name}).activation_function == name


def test_what_transformers_writes_is_read_and_written_back_unchanged(tmp_path: Path) -> None:
    values = {
        "_name_or_path": "x",
        "architectures": ["GPT2DoubleHeadsModel"],
        "model_type": "gpt2",
        **{
            field.name: getattr(GPTConfig(), field.name)
            for field in dataclasses.fields(GPTConfig)
            if field.name != "extra"
        },
        "n_inner": 20,
        "reorder_and_upcast_attn": True,
        "summary_type": "cls_index",
        "task_specific_params": {"text-generation": {"max_length": 50}},
        "use_cache": True,
        "extra": {"a key that happens to be called so": 1},
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    config = GPTConfig.load(tmp_path / "config.json")
    assert config.to_dict() == values
    config.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == values
    assert GPTConfig.load(tmp_path / "again.json") == config


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("n_ctx", "n_positions"),
        ("max_position_embeddings", "n_positions"),
        ("hidden_size", "n_embd"),
        ("num_hidden_layers", "n_layer"),
        ("num_attention_heads", "n_head"),
    ],
)
def test_other_names_of_a_field_are_read_but_its_own_is_believed(alias: str, name: str) -> None:
    assert getattr(GPTConfig.from_dict({alias: 96}), name) == 96
    assert getattr(GPTConfig.from_dict({alias: 96, name: 48}), name) == 48
    assert alias not in GPTConfig.from_dict({alias: 96}).to_dict()


def test_a_list_of_one_end_token_is_that_token() -> None:
    assert GPTConfig.from_dict({"eos_token_id": [7]}).eos_token_id == 7
    with pytest.raises(ConfigError, match=r"eos_token_id is \[7, 8\], expected an integer"):
        GPTConfig.from_dict({"eos_token_id": [7, 8]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama'; gptwo reads 'gpt2' only"),
        ({"model_type": None}, "model_type is None; gptwo reads"),
        ({"model_type": "x" * 10_000}, r"model_type is 'xxx.*\.\.\.x+'; gptwo reads"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        (
            {"activation_function": "gelu_fancy"},
            "activation_function is 'gelu_fancy', expected one of gelu, gelu_new, ",
        ),
        ({"activation_function": ["gelu"]}, r"activation_function is \['gelu'\], expected one of"),
        ({"vocab_size": 0}, "vocab_size is 0, expected 1 to 2147483647"),
        ({"n_positions": -1}, "n_positions is -1, expected 1 to"),
        ({"n_layer": 2**31}, "n_layer is 2147483648, expected 1 to 2147483647"),
        ({"n_layer": 10**5000}, "n_layer is an integer of over 40 digits, expected 1 to"),
        ({"n_embd": 768.0}, "n_embd is 768.0, expected an integer"),
        ({"n_embd": "768"}, "n_embd is '768', expected an integer"),
        ({"n_head": True}, "n_head is True, expected an integer"),
        ({"n_head": None}, "n_head is None, expected an integer"),
        ({"n_embd": 10, "n_head": 3}, "n_embd 10 is not a multiple of n_head 3"),
        ({"n_inner": 0}, "n_inner is 0, expected 1 to"),
        ({"resid_pdrop": 1.0}, "resid_pdrop is 1.0, expected a probability from 0 to below 1"),
        ({"embd_pdrop": -0.1}, "embd_pdrop is -0.1, expected a probability"),
        ({"attn_pdrop": "0.1"}, "attn_pdrop is '0.1', expected a number"),
        ({"layer_norm_epsilon": 0}, "layer_norm_epsilon is 0, expected more than 0"),
        ({"layer_norm_epsilon": math.nan}, "layer_norm_epsilon is nan, expected a finite number"),
        (
            {"layer_norm_epsilon": 10**400},
            "layer_norm_epsilon is an integer of over 40 digits, expected a finite number",
        ),
        ({"initializer_range": -1}, "initializer_range is -1, expected 0 or more"),
        ({"initializer_range": math.inf}, "initializer_range is inf, expected a finite number"),
        ({"scale_attn_weights": 1}, "scale_attn_weights is 1, expected true or false"),
        ({"scale_attn_by_inverse_layer_idx": None}, "scale_attn_by_inverse_layer_idx is None, expected true or false"),
        ({"reorder_and_upcast_attn": "yes"}, "reorder_and_upcast_attn is 'yes', expected true or false"),
        ({"tie_word_embeddings": ["x" * 10_000]}, r"tie_word_embeddings is \['xxx.*\.\.\., expected true or false"),
        ({"bos_token_id": -1}, "bos_token_id is -1, expected 0 to"),
        ({"pad_token_id": 0.5}, "pad_token_id is 0.5, expected an integer"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        GPTConfig.from_dict(values)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"[]", "a configuration is a JSON object, got list"),
        (b"null", "a configuration is a JSON object, got NoneType"),
        (b"\xff\xfe\xfd", "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b'{"n_layer": ' + b"9" * 5000 + b"}", "not a JSON file"),
        (b'{"n_layer": 0}', "n_layer is 0"),
        (b" " * (MAX_BYTES + 1), "not a JSON file .it has over 250000 bytes"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        GPTConfig.load(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.json: cannot be read \(No such file or directory\)"):
        GPTConfig.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        GPTConfig.load(tmp_path)


def test_a_very_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(10**9)
    tracemalloc.start()
    with pytest.raises(ConfigError, match="it has over 250000 bytes"):
        GPTConfig.load(tmp_path / "config.json")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * MAX_BYTES


def test_a_configuration_cannot_be_changed_but_replaced() -> None:
    config = GPTConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_layer = 3  # type: ignore[misc]
    assert config.replace(n_layer=3).n_layer == 3
    with pytest.raises(ConfigError, match="n_layer is 0"):
        config.replace(n_layer=0)


def test_what_is_nested_too_deeply_to_be_written_is_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConfigError, match=r"config.json: a value that gptwo does not read is nested too deeply"):
        GPTConfig(extra={"strange": deep}).save(tmp_path / "config.json")
    assert not (tmp_path / "config.json").exists()
