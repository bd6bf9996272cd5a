"""Which backend and which format of weights a checkpoint gets."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from random_model import all_logits, random_arrays, tiny_config

from gptwo.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from gptwo.config import ACTIVATIONS
from gptwo.decoder import native, open_decoder
from gptwo.decoder.native import NativeDecoder, unsupported
from gptwo.decoder.reference import ReferenceDecoder
from gptwo.errors import BackendWarning, InvalidRequestError

CONFIG = tiny_config()


def checkpoint(directory: Path, dtype: str = "F32") -> Checkpoint:
    save_checkpoint(directory / "model", CONFIG, random_arrays(CONFIG), None, dtype=dtype)
    return load_checkpoint(directory / "model")


@pytest.mark.parametrize(("dtype", "held"), [("F32", "f32"), ("F16", "f32"), ("BF16", "bf16")])
def test_auto_is_the_core_with_what_the_file_holds(tmp_path: Path, dtype: str, held: str) -> None:
    decoder = open_decoder(checkpoint(tmp_path, dtype), threads=1)
    assert isinstance(decoder, NativeDecoder)
    assert decoder.weights == held


def test_bfloat16_in_the_core_is_exactly_what_the_file_holds(tmp_path: Path) -> None:
    opened = checkpoint(tmp_path, "BF16")
    kept, widened = (open_decoder(opened, weights=weights, cache="f32", threads=1) for weights in ("auto", "f32"))
    np.testing.assert_array_equal(all_logits(kept, range(20)), all_logits(widened, range(20)))


def test_a_wrong_format_for_a_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="the reference backend has f32 and bf16"):
        open_decoder(checkpoint(tmp_path), backend="reference", weights="int8")
    with pytest.raises(InvalidRequestError, match="the native backend runs on the CPU only"):
        open_decoder(checkpoint(tmp_path), backend="native", device="cuda")


def test_the_core_runs_every_activation_that_a_configuration_can_name() -> None:
    assert [name for name in ACTIVATIONS if unsupported(tiny_config(activation_function=name))] == []


def test_what_the_core_cannot_run_the_reference_does_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = checkpoint(tmp_path)
    expected = all_logits(open_decoder(opened, backend="reference", threads=1), range(20))
    monkeypatch.setattr(native, "ACTIVATIONS", {})  # as if gelu_new had just been invented
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decoder = open_decoder(opened, threads=1)
    assert isinstance(decoder, ReferenceDecoder)
    assert [w.category for w in caught] == [BackendWarning]
    assert "the core has no activation 'gelu_new'" in str(caught[0].message)
    np.testing.assert_array_equal(all_logits(decoder, range(20)), expected)
    for options in ({"backend": "native"}, {"weights": "int8"}):
        with pytest.raises(InvalidRequestError, match="cannot run this model: the core has no activation"):
            open_decoder(opened, **options)


def test_without_the_compiled_core_the_reference_runs_the_model_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = checkpoint(tmp_path)
    monkeypatch.delitem(sys.modules, "gptwo.decoder.native")
    monkeypatch.delattr("gptwo.decoder.native")
    monkeypatch.setitem(sys.modules, "gptwo._native", None)
    monkeypatch.delattr("gptwo._native")
    with pytest.warns(BackendWarning, match="the compiled core cannot be imported"):
        assert isinstance(open_decoder(opened, threads=1), ReferenceDecoder)
