"""TorchScript, torch.export and AOTInductor, beside the reference."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import ALL, greedy, greedy_with, prompts, random_checkpoint, reference, reference_logits
from limited_files import files_limited_to
from tiny_models import tiny_config

from gptwo.errors import ExportError, NumericalError
from gptwo.export.coreml import causal_mask, traced
from gptwo.export.torch_program import (
    COMPILED_FILE,
    PROGRAM_FILE,
    TorchScriptModel,
    exported_model,
    write_script,
    write_torch,
)

PARTS = (1, 1, 7, 1, 5)  # how many tokens at a time


def script_of(directory: Path, dtype: str = "f32", **changes: Any) -> TorchScriptModel:
    write_script(directory, exported_model(random_checkpoint(tiny_config(**changes)), dtype))
    return TorchScriptModel(directory)


@pytest.mark.parametrize("changes", [{}, ALL])
def test_torchscript_says_what_the_reference_says_for_every_configuration(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = script_of(tmp_path, **changes)
    ids = np.random.default_rng(1).integers(0, 300, (1, 12))
    found = [*model.start(ids[0, :7].tolist()), *(model.step(int(token)) for token in ids[0, 7:])]
    expected = reference_logits(random_checkpoint(tiny_config(**changes)), ids)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow  # TorchScript optimises for every new length
def test_torchscripts_greedy_texts_are_the_references(tmp_path: Path) -> None:
    model = script_of(tmp_path)
    for prompt in prompts(300):
        assert greedy_with(model, prompt, 32) == greedy(random_checkpoint(), prompt, 32)


def test_a_batch_with_padding_on_the_left_says_what_its_rows_say_alone(tmp_path: Path) -> None:
    script_of(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(str(tmp_path / "model.ts"))
    ids, mask = torch.tensor([[1, 2, 3, 4, 5], [0, 0, 0, 8, 9]]), torch.tensor([[1] * 5, [0, 0, 0, 1, 1]])
    together, past = script.prefill(ids[:, :4], mask[:, :4])
    last, _ = script.decode(ids[:, 4:], mask, past)
    alone = reference_logits(random_checkpoint(), [[8, 9]])[0]
    np.testing.assert_allclose(np.stack([together[1, 3], last[1, 0]]), alone, atol=1e-5)


def test_the_scripts_parameters_have_the_checkpoints_names(tmp_path: Path) -> None:
    checkpoint = random_checkpoint()
    write_script(tmp_path, exported_model(checkpoint, "f32"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.load(str(tmp_path / "model.ts"))
    found = {name: parameter.numpy() for name, parameter in script.named_parameters()}
    assert found.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(found[name], tensor.float32())


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.2), ("f16", 0.02)])
def test_lower_types_are_near(dtype: str, most: float, tmp_path: Path) -> None:
    model = script_of(tmp_path, dtype, reorder_and_upcast_attn=True)
    expected = reference_logits(random_checkpoint(tiny_config(reorder_and_upcast_attn=True)), [[5, 6, 7]])[0]
    found = model.start([5, 6, 7])
    assert found.dtype == np.float32
    assert 0 < np.abs(found - expected).max() < most


def test_where_there_is_no_room_pytorch_is_not_let_near_the_disk(tmp_path: Path) -> None:
    with files_limited_to(100_000), pytest.raises(OSError, match="large"):
        write_torch(tmp_path, random_checkpoint(), "f32")
    assert list(tmp_path.iterdir()) == []


def test_values_beyond_float16_are_refused() -> None:
    checkpoint = random_checkpoint()
    checkpoint.tensors["ln_f.bias"].raw[3] = 1e6
    with pytest.raises(NumericalError, match=r"ln_f\.bias holds values that f16 cannot hold"):
        exported_model(checkpoint, "f16")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_program_takes_any_batch_length_and_past(compiled: bool, tmp_path: Path) -> None:
    if compiled and shutil.which("c++") is None:
        pytest.skip("AOTInductor needs a C++ compiler")
    checkpoint = random_checkpoint(tiny_config(n_layer=3))
    write_torch(tmp_path, checkpoint, "f32", compiled=compiled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if compiled:
            program: Any = torch._inductor.aoti_load_package(str(tmp_path / COMPILED_FILE))
        else:
            program = torch.export.load(tmp_path / PROGRAM_FILE).module()
        for batch in (1, 3):
            ids = torch.randint(0, 300, (batch, sum(PARTS)), generator=torch.Generator().manual_seed(batch))
            past = tuple((torch.zeros((batch, 2, 0, 8)), torch.zeros((batch, 2, 0, 8))) for _ in range(3))
            found, held = [], 0
            for part in PARTS:
                mask = torch.ones((batch, held + part), dtype=torch.int64)
                logits, past = program(ids[:, held : held + part].contiguous(), mask, past)
                found.append(logits)
                held += part
            expected = reference_logits(checkpoint, ids.numpy())
            np.testing.assert_allclose(torch.cat(found, dim=1).numpy(), expected, atol=1e-4)


def test_a_model_of_too_few_positions_is_not_compiled(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="only models of 8 positions or more can be compiled"):
        write_torch(tmp_path, random_checkpoint(tiny_config(n_positions=7)), "f32", compiled=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{}, ALL])
def test_what_core_ml_is_given_says_what_the_reference_says_from_its_own_state(changes: dict[str, Any]) -> None:
    checkpoint = random_checkpoint(tiny_config(**changes))
    model = traced(reference(checkpoint).requires_grad_(False))
    ids = np.random.default_rng(1).integers(0, 300, (1, sum(PARTS)))
    found, held = [], 0
    for part in PARTS:
        with torch.no_grad():
            chunk = torch.tensor(ids[:, held : held + part], dtype=torch.int32)
            found.append(model(chunk, torch.tensor(causal_mask(part, held)))[0].numpy())
        held += part
    np.testing.assert_allclose(np.concatenate(found), reference_logits(checkpoint, ids)[0], atol=1e-5)
