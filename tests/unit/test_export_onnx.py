"""The ONNX graph in ONNX Runtime, beside the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exports import VARIANTS, greedy, greedy_with, prompts, random_checkpoint, reference_logits
from tiny_models import tiny_config

from gptwo.checkpoint import Checkpoint, StoredTensor
from gptwo.errors import NumericalError
from gptwo.export.onnx_model import MODEL_FILE, OnnxModel, write_onnx
from gptwo.export.onnx_weights import EXTERNAL_FILE


def exported(checkpoint: Checkpoint, directory: Path, dtype: str = "f32", **options: Any) -> OnnxModel:
    write_onnx(directory, checkpoint, dtype, **options)
    return OnnxModel(directory, checkpoint.config.n_layer, threads=1)


def logits_in_parts(model: OnnxModel, ids: np.ndarray, mask: np.ndarray, parts: list[int]) -> np.ndarray:
    """The logits (B, T, V) of a batch read in parts of these sizes, positions counted as transformers counts them."""
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    found, past, at = [], None, 0
    for size in parts:
        to = at + size
        logits, past = model.forward(ids[:, at:to], mask[:, :to], positions[:, at:to], past)
        assert past[0].shape[2] == to
        found.append(logits)
        at = to
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_are_the_references_for_every_configuration(changes: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(**changes))
    model = exported(checkpoint, tmp_path)
    ids = np.random.default_rng(1).integers(0, 300, (1, 12))
    found = logits_in_parts(model, ids, np.ones_like(ids), [5, 1, 6])
    np.testing.assert_allclose(found, reference_logits(checkpoint, ids), atol=1e-4)


def test_greedy_texts_are_the_references(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    model = exported(checkpoint, tmp_path)
    for prompt in prompts(300):
        assert greedy_with(model, prompt, 32) == greedy(checkpoint, prompt, 32)


def test_a_batch_with_padding_on_the_left_says_what_its_rows_say_alone(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    model = exported(checkpoint, tmp_path)
    ids = np.random.default_rng(2).integers(0, 300, (3, 9))
    mask = np.ones_like(ids)
    mask[1, :4] = mask[2, :8] = 0
    for parts in ([9], [3, 6], [1] * 9):
        together = logits_in_parts(model, ids, mask, parts)
        for row, start in enumerate([0, 4, 8]):
            alone = reference_logits(checkpoint, ids[row : row + 1, start:])
            np.testing.assert_allclose(together[row : row + 1, start:], alone, atol=1e-4)
        assert np.isfinite(together).all()


def test_inputs_and_outputs_have_optimums_names_and_shapes(tmp_path: Path) -> None:
    write_onnx(tmp_path, random_checkpoint(), "f16")
    graph = onnx.load(tmp_path / MODEL_FILE).graph

    def described(values: Any) -> dict[str, tuple[int, list[Any]]]:
        return {
            v.name: (v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
            for v in values
        }

    int64, f16, f32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    batch, new, past, every = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
    kinds = [f"{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]
    assert described(graph.input) == {
        "input_ids": (int64, [batch, new]),
        "attention_mask": (int64, [batch, every]),
        "position_ids": (int64, [batch, new]),
        **{f"past_key_values.{kind}": (f16, [batch, 2, past, 8]) for kind in kinds},
    }
    assert described(graph.output) == {
        "logits": (f32, [batch, new, 300]),
        **{f"present.{kind}": (f16, [batch, 2, every, 8]) for kind in kinds},
    }


@pytest.mark.parametrize("dtype", ["f32", "f16", "int8"])
def test_the_graph_is_valid_and_its_shapes_can_be_inferred(dtype: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(reorder_and_upcast_attn=True, activation_function="quick_gelu"))
    write_onnx(tmp_path, checkpoint, dtype)
    onnx.checker.check_model(str(tmp_path / MODEL_FILE), full_check=True)
    assert {node.domain for node in onnx.load(tmp_path / MODEL_FILE).graph.node} == {""}


@pytest.mark.parametrize("dtype", ["f32", "f16", "int8"])
def test_weights_beside_the_graph_say_the_same(dtype: str, tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(tie_word_embeddings=False))
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    inside = exported(checkpoint, tmp_path / "one", dtype)
    beside = exported(checkpoint, tmp_path / "two", dtype, largest=0)
    assert not (tmp_path / "one" / EXTERNAL_FILE).exists()
    assert (tmp_path / "two" / EXTERNAL_FILE).stat().st_size > (tmp_path / "two" / MODEL_FILE).stat().st_size
    np.testing.assert_array_equal(inside.start([5, 6, 7]), beside.start([5, 6, 7]))


def test_lower_types_are_near_and_smaller(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tiny_config(n_embd=64, reorder_and_upcast_attn=True), deviation=0.1)
    ids = np.random.default_rng(1).integers(0, 300, 40)
    expected = reference_logits(checkpoint, ids[None])[0]
    sizes = []
    for dtype, most in (("f32", 1e-5), ("f16", 1e-2), ("int8", 0.3)):
        (tmp_path / dtype).mkdir()
        difference = np.abs(exported(checkpoint, tmp_path / dtype, dtype).start(ids.tolist()) - expected)
        assert difference.max() < most
        sizes.append((tmp_path / dtype / MODEL_FILE).stat().st_size)
    assert sizes[1] < 0.55 * sizes[0]
    assert sizes[2] < 0.4 * sizes[0]


def test_a_row_of_zeros_is_quantised_to_zeros(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    zeros = {
        name: StoredTensor(name, Path("FILE"), "F32", np.zeros(t.shape, np.float32))
        for name, t in checkpoint.tensors.items()
    }
    nothing = Checkpoint(checkpoint.config, zeros, Path("FILE"), "random", None)
    assert not exported(nothing, tmp_path, "int8").start([1, 2]).any()


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    checkpoint.tensors["ln_f.bias"].raw[3] = 1e6
    with pytest.raises(NumericalError, match=r"ln_f\.bias holds values that float16 cannot hold"):
        write_onnx(tmp_path, checkpoint, "f16")
