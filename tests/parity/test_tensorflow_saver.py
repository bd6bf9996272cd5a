"""What TensorFlow itself saves is read to the same bits, without TensorFlow.

It lives in an environment of its own: GPTWO_TENSORFLOW_PYTHON names its Python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tensorflow_checkpoint import their_name
from tiny_models import random_arrays, tiny_config

from gptwo.checkpoint import load_checkpoint
from gptwo.errors import CheckpointError

PYTHON = os.environ.get("GPTWO_TENSORFLOW_PYTHON")
CONFIG = tiny_config(n_layer=11)  # h10 sorts before h2
ARRAYS = random_arrays(CONFIG)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(PYTHON is None, reason="needs TensorFlow, in the environment of GPTWO_TENSORFLOW_PYTHON"),
    pytest.mark.filterwarnings("ignore:.*no GPT-2 has them. global_step:gptwo.errors.CheckpointWarning"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tensorflow")
    arrays = {
        their_name(name): array[None] if name.startswith("h.") and array.ndim == 2 else array
        for name, array in ARRAYS.items()
    }
    np.savez(directory / "arrays.npz", **arrays)
    sizes = {"n_vocab": CONFIG.vocab_size, "n_ctx": CONFIG.n_positions}
    sizes |= {"n_embd": CONFIG.n_embd, "n_head": CONFIG.n_head, "n_layer": CONFIG.n_layer}
    (directory / "hparams.json").write_text(json.dumps(sizes))
    worker = Path(__file__).with_name("tensorflow_saver.py")
    done = subprocess.run(
        [str(PYTHON), worker, directory / "arrays.npz", directory], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return directory


@pytest.mark.parametrize(("name", "files"), [("one", 1), ("three", 3)])
def test_every_variable_has_the_same_bits_in_one_file_or_in_several(saved: Path, name: str, files: int) -> None:
    assert len(list(saved.glob(f"{name}.data-*-of-{files:05d}"))) == files
    found = load_checkpoint(saved / f"{name}.index").tensors
    assert found.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert_array_equal(found[key].float32().view(np.uint32), array.view(np.uint32), err_msg=key)


def test_bfloat16_is_what_tensorflow_rounded_to(saved: Path) -> None:
    found = load_checkpoint(saved / "half.index").tensors
    assert {tensor.dtype for tensor in found.values()} == {"BF16"}
    for key, array in ARRAYS.items():
        np.testing.assert_allclose(found[key].float32(), array, rtol=2**-8, err_msg=key)


def test_a_variable_in_slices_is_refused_in_one_sentence(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sliced\.index: .* variable .* is in slices"):
        load_checkpoint(saved / "sliced.index")
