"""The Core ML package: its specification anywhere that coremltools is, its predictions on macOS.

coremltools 9 needs a NumPy below 2.3, so it usually lives in an environment of its own: GPTWO_COREML_PYTHON names its
Python, where gptwo's base install and PyTorch are as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("GPTWO_COREML_PYTHON") or (sys.executable if find_spec("coremltools") else None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(PYTHON is None, reason="needs coremltools, here or in the environment of GPTWO_COREML_PYTHON"),
]

DESCRIBE = """
import json, sys, collections
import coremltools as ct
spec = ct.utils.load_spec(sys.argv[1])
main = spec.mlProgram.functions["main"]
operations = main.block_specializations[main.opset].operations
ranges = lambda v: [[r.lowerBound, r.upperBound] for r in v.type.multiArrayType.shapeRange.sizeRanges]
array = ct.proto.FeatureTypes_pb2.ArrayFeatureType
kind = lambda v: array.ArrayDataType.Name(v.type.multiArrayType.dataType)
json.dump({
    "inputs": {v.name: [kind(v), ranges(v)] for v in spec.description.input},
    "outputs": {v.name: kind(v) for v in spec.description.output},
    "states": {v.name: list(v.type.stateType.arrayType.shape) for v in spec.description.state},
    "operations": collections.Counter(operation.type for operation in operations),
    "opset": main.opset,
}, sys.stdout)
"""


def python(*arguments: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(PYTHON), *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def exported(model: Path, out: Path, dtype: str) -> dict[str, object]:
    report = json.loads(python("-m", "gptwo", "export", model, out, "--to", "coreml", "--dtype", dtype, "--json"))
    if sys.platform == "darwin":
        assert report["compared"]["largest_difference"] < {"f16": 0.05, "pal8": 0.5, "pal6": 1, "pal4": 5}[dtype]
    else:
        assert report["not_compared"] == "Core ML runs on Apple's systems only"
    return json.loads(python("-c", DESCRIBE, out / "model.mlpackage"))


def test_the_package_has_a_stateful_cache_and_free_lengths(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = exported(tiny_checkpoint, tmp_path / "out", "f16")
    assert found["inputs"] == {
        "input_ids": ["INT32", [[1, 1], [1, 64]]],
        "causal_mask": ["FLOAT16", [[1, 1], [1, 1], [1, 64], [1, 64]]],
    }
    assert found["outputs"] == {"logits": "FLOAT16"}
    assert found["states"] == {"key_cache": [2, 1, 2, 64, 8], "value_cache": [2, 1, 2, 64, 8]}
    assert found["opset"] == "CoreML8"  # macOS 15, iOS 18
    operations = found["operations"]
    assert isinstance(operations, dict)
    assert operations["linear"] == 2 * 4 + 1
    assert operations["layer_norm"] == 2 * 2 + 1
    assert operations["gelu"] == operations["softmax"] == 2
    assert operations["write_state"] == 2 * 2
    assert not any("palette" in name or "lut" in name for name in operations)


@pytest.mark.parametrize(("dtype", "count"), [("pal8", 2 * 3 + 2), ("pal4", 2 * 4 + 2)])
def test_matrices_become_palettes(tiny_checkpoint: Path, dtype: str, count: int, tmp_path: Path) -> None:
    # Those of the layers, wte and wpe; attn.c_proj has 256 elements, no more than the palette of pal8.
    found = exported(tiny_checkpoint, tmp_path / "out", dtype)
    operations = found["operations"]
    assert isinstance(operations, dict)
    assert operations["constexpr_lut_to_dense"] == count
    assert operations["write_state"] == 2 * 2
