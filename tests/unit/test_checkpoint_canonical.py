"""From the names in files to canonical names, and what is said of tensors that do not fit."""

from __future__ import annotations

import re
import time
import tracemalloc
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_checkpoint import CONFIG, random_arrays, stored

from gptwo.checkpoint.canonical import canonical_name, canonical_tensors, expected_shapes
from gptwo.checkpoint.stored import StoredTensor
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, CheckpointWarning

FILE = Path("FILE")


def read(arrays: dict[str, np.ndarray], config: GPTConfig = CONFIG) -> dict[str, StoredTensor]:
    return canonical_tensors(config, stored(arrays), FILE)[1]


def test_expected_shapes_count_to_the_published_number_of_parameters() -> None:
    shapes = dict(expected_shapes(GPTConfig()))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 124_439_808
    assert shapes["h.11.attn.c_attn.weight"] == (768, 2304)
    assert shapes["h.0.mlp.c_proj.weight"] == (3072, 768)
    assert "lm_head.weight" not in shapes


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("wte.weight", "wte.weight"),
        ("transformer.wte.weight", "wte.weight"),
        ("model.transformer.h.3.ln_1.bias", "h.3.ln_1.bias"),
        ("module.transformer.h.3.attn.c_attn.bias", "h.3.attn.c_attn.bias"),
        ("_orig_mod.module.transformer.ln_f.weight", "ln_f.weight"),
        ("module._orig_mod.transformer.ln_f.weight", "ln_f.weight"),
        ("transformer.h.0._orig_mod.mlp.c_fc.weight", "h.0.mlp.c_fc.weight"),
        ("model.lm_head.weight", "lm_head.weight"),
        ("score.weight", "score.weight"),
    ],
)
def test_prefixes_fall_away_in_any_nesting(name: str, canonical: str) -> None:
    assert canonical_name(name) == canonical


def test_the_tensors_come_in_the_order_of_the_forward_pass_as_views_of_what_is_stored() -> None:
    arrays = random_arrays()
    backwards = dict(reversed(arrays.items()))
    tensors = read({f"transformer.{name}": array for name, array in backwards.items()})
    assert list(tensors) == [name for name, _ in expected_shapes(CONFIG)]
    for name, tensor in tensors.items():
        assert tensor.name == name
        assert np.shares_memory(tensor.float32(), arrays[name])


def test_the_mask_buffer_falls_away_and_the_bias_of_the_projection_stays() -> None:
    arrays = random_arrays()
    mask = np.zeros((1, 1, 6, 6), np.float32)
    extra = {"h.0.attn.bias": mask, "h.1.attn.bias": mask, "h.0.attn.masked_bias": np.float32(-1e4)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors = read(arrays | {name: np.asarray(array) for name, array in extra.items()})
    assert "h.0.attn.c_attn.bias" in tensors
    assert not extra.keys() & tensors.keys()


def test_a_wrong_shape_names_file_tensor_and_both_shapes() -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in expected_shapes(GPTConfig(n_layer=4, vocab_size=1))}
    arrays["h.3.attn.c_attn.weight"] = np.zeros((768, 2300), np.float32)
    message = "checkpoint FILE: tensor h.3.attn.c_attn.weight has shape (768, 2300), expected (768, 2304)"
    with pytest.raises(CheckpointError) as caught:
        read(arrays, GPTConfig(n_layer=4, vocab_size=1))
    assert str(caught.value) == message


@pytest.mark.parametrize("name", [name for name, _ in expected_shapes(CONFIG)])
def test_every_missing_tensor_is_named_with_its_file(name: str) -> None:
    arrays = random_arrays()
    del arrays[name]
    with pytest.raises(
        CheckpointError, match=rf"checkpoint FILE: tensor {re.escape(name)} is missing; the file holds 27:"
    ):
        read(arrays)


@pytest.mark.parametrize("name", [name for name, _ in expected_shapes(CONFIG)])
@pytest.mark.parametrize("change", ["one more dimension", "one column less", "scalar"])
def test_every_wrong_shape_is_named(name: str, change: str) -> None:
    arrays = random_arrays()
    array = arrays[name]
    arrays[name] = {"one more dimension": array[None], "one column less": array[..., :-1], "scalar": array.ravel()[0]}[
        change
    ]
    with pytest.raises(CheckpointError, match=rf"checkpoint FILE: tensor {re.escape(name)} has shape .*, expected \("):
        read({key: np.asarray(value) for key, value in arrays.items()})


@pytest.mark.parametrize("rows", [5, 7])
def test_another_number_of_positions_is_an_error(rows: int) -> None:
    arrays = random_arrays() | {"wpe.weight": np.zeros((rows, 4), np.float32)}
    with pytest.raises(CheckpointError, match=rf"tensor wpe.weight has shape \({rows}, 4\), expected \(6, 4\)"):
        read(arrays)


@pytest.mark.parametrize(("rows", "fits"), [(10, False), (11, True), (12, True), (64, True), (128, True), (129, False)])
def test_rows_up_to_the_next_multiple_of_128_are_padding(rows: int, fits: bool) -> None:
    embedding = np.random.default_rng(0).standard_normal((rows, 4), np.float32)
    arrays = random_arrays() | {"wte.weight": embedding}
    if fits:
        values = read(arrays)["wte.weight"].float32()
        assert_array_equal(values, embedding[:11])
        assert np.shares_memory(values, embedding)
    else:
        with pytest.raises(CheckpointError, match=rf"tensor wte.weight has shape \({rows}, 4\), expected \(11, 4\)"):
            read(arrays)


def test_the_head_that_repeats_the_embedding_is_tied_also_when_both_are_padded() -> None:
    arrays = random_arrays()
    padded = np.concatenate([arrays["wte.weight"], np.ones((53, 4), np.float32)])
    other_padding = np.concatenate([arrays["wte.weight"], np.zeros((53, 4), np.float32)])
    tensors = read(arrays | {"wte.weight": padded, "lm_head.weight": other_padding})
    assert "lm_head.weight" not in tensors
    assert_array_equal(tensors["wte.weight"].float32(), arrays["wte.weight"])


def test_a_head_is_compared_by_bits_so_that_not_a_number_equals_itself() -> None:
    arrays = random_arrays()
    arrays["wte.weight"][3, 2] = np.nan
    assert "lm_head.weight" not in read(arrays | {"lm_head.weight": arrays["wte.weight"].copy()})


def test_a_head_that_differs_anywhere_is_kept_with_one_warning() -> None:
    arrays = random_arrays()
    for row, column in ((0, 0), (10, 3)):
        head = arrays["wte.weight"].copy()
        head[row, column] += 1
        with pytest.warns(CheckpointWarning, match="the two differ; the head of the file is used") as caught:
            config, tensors = canonical_tensors(CONFIG, stored(arrays | {"lm_head.weight": head}), FILE)
        assert len(caught) == 1
        assert not config.tie_word_embeddings
        assert_array_equal(tensors["lm_head.weight"].float32(), head)


def test_a_large_head_is_compared_without_a_large_copy() -> None:
    config = GPTConfig(vocab_size=200_000, n_positions=1, n_embd=40, n_layer=1, n_head=1)
    arrays = random_arrays(config)
    arrays["lm_head.weight"] = arrays["wte.weight"].copy()
    tensors = stored(arrays)
    half = arrays["wte.weight"].view("<u2")[:, 1::2]
    halves = {name: StoredTensor(name, FILE, "BF16", half.copy()) for name in ("wte.weight", "lm_head.weight")}
    tracemalloc.start()
    assert "lm_head.weight" not in canonical_tensors(config, tensors, FILE)[1]
    assert "lm_head.weight" not in canonical_tensors(config, tensors | halves, FILE)[1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15_000_000 < arrays["wte.weight"].nbytes / 2


def test_an_untied_head_is_required() -> None:
    with pytest.raises(CheckpointError, match=r"tensor lm_head.weight is missing.* tie_word_embeddings is false"):
        read(random_arrays(), replace(CONFIG, tie_word_embeddings=False))


def test_the_same_tensor_under_two_prefixes_is_an_error() -> None:
    arrays = random_arrays()
    with pytest.raises(CheckpointError, match=r"checkpoint FILE: tensor wte.weight is there twice, under two prefixes"):
        read(arrays | {"transformer.wte.weight": arrays["wte.weight"]})


@pytest.mark.parametrize("dtype", ["I8", "I64", "BOOL", "F8_E4M3"])
def test_weights_that_are_no_floats_are_an_error(dtype: str) -> None:
    tensors = stored(random_arrays())
    tensors["h.1.mlp.c_fc.weight"] = replace(tensors["h.1.mlp.c_fc.weight"], dtype=dtype)
    with pytest.raises(CheckpointError, match=rf"tensor h.1.mlp.c_fc.weight is {dtype}, expected F32, F16, BF16, F64"):
        canonical_tensors(CONFIG, tensors, FILE)


@pytest.mark.parametrize("name", ["score.weight", "multiple_choice_head.summary.weight", "v_head.summary.bias"])
def test_heads_of_other_tasks_are_left_out_in_silence(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert name not in read(random_arrays() | {name: np.zeros(3, np.float32)})


def test_tensors_that_no_gpt2_has_are_left_out_with_one_warning_that_names_some() -> None:
    strange = {f"strange.{number}": np.zeros(3, np.float32) for number in range(5)}
    with pytest.warns(CheckpointWarning) as caught:
        tensors = read(random_arrays() | strange)
    assert [str(warning.message) for warning in caught] == [
        "checkpoint FILE: not used, since no GPT-2 has them: strange.0, strange.1, strange.2 and 2 more"
    ]
    assert not strange.keys() & tensors.keys()


def test_layers_beyond_those_of_the_configuration_are_an_error() -> None:
    arrays = random_arrays(replace(CONFIG, n_layer=3))
    with pytest.raises(CheckpointError, match=r"tensor h.2.ln_1.weight is there, but its configuration says n_layer 2"):
        read(arrays)


def test_a_missing_bias_is_an_error_unless_biases_are_optional() -> None:
    arrays = {name: array for name, array in random_arrays().items() if not name.endswith("bias")}
    with pytest.raises(CheckpointError, match=r"tensor h.0.ln_1.bias is missing"):
        read(arrays)
    _, tensors = canonical_tensors(CONFIG, stored(arrays), FILE, biases_optional=True)
    assert list(tensors) == [name for name, _ in expected_shapes(CONFIG)]
    assert_array_equal(tensors["h.1.attn.c_attn.bias"].float32(), np.zeros(12))
    del arrays["h.1.ln_2.weight"]
    with pytest.raises(CheckpointError, match=r"tensor h.1.ln_2.weight is missing"):
        canonical_tensors(CONFIG, stored(arrays), FILE, biases_optional=True)


@pytest.mark.parametrize("biases_optional", [False, True])
@pytest.mark.parametrize(
    "claim",
    [
        {"n_layer": 2**31 - 1},
        {"vocab_size": 2**31 - 1},
        {"n_positions": 2**31 - 1},
        {"n_embd": 2**31 - 2},
        {"n_inner": 2**31 - 1},
        {"n_layer": 10**9, "n_embd": 2 * 10**9, "n_head": 10**9, "vocab_size": 2 * 10**9, "n_positions": 2 * 10**9},
    ],
)
def test_a_configuration_that_claims_too_much_fails_at_once(claim: dict[str, int], biases_optional: bool) -> None:
    tensors = stored(random_arrays())
    config = replace(CONFIG, **claim)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=r"is missing|has shape"):
        canonical_tensors(config, tensors, FILE, biases_optional=biases_optional)
    elapsed = time.perf_counter() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert elapsed < 1
    assert peak < 100_000


def test_a_hostile_name_is_not_taken_apart() -> None:
    name = "." * 2_000_000
    tracemalloc.start()
    with pytest.warns(CheckpointWarning, match=r"no GPT-2 has them: '\.\.\.\.") as caught:
        read(random_arrays() | {name: np.zeros(1, np.float32)})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert len(str(caught[0].message)) < 300
