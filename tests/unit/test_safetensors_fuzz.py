"""Whatever bytes a file holds, the readers give tensors or a typed error, and allocate no more than the file's size."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_checkpoint import CONFIG, arrays_as_bytes, random_arrays, safetensors_bytes

from gptwo.checkpoint.safetensors_file import read_safetensors
from gptwo.checkpoint.stored import STORED_AS
from gptwo.checkpoint.transformers_format import read
from gptwo.errors import CheckpointError, CheckpointWarning

SLACK = 200_000  # bytes: what Python itself needs to read and refuse any small file

fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)

counts = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 2**64 - 1, 10**40]),
)
anything = st.recursive(
    st.none() | st.booleans() | counts | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*STORED_AS, "F4", "f32", ""]) | anything,
        "shape": st.lists(counts, max_size=9) | anything,
        "data_offsets": st.lists(counts, min_size=2, max_size=2) | anything,
    }
)
names = st.sampled_from(["a", "b", "__metadata__", "wte.weight", "h.0.attn.c_attn.weight"]) | st.text(max_size=8)
headers = st.dictionaries(names, entries | anything, max_size=5) | anything


@pytest.fixture
def file(tmp_path: Path) -> Path:
    CONFIG.save(tmp_path / "config.json")
    return tmp_path / "model.safetensors"


def outcome(function: Callable[[Path], Any], file: Path, content: bytes) -> bool:
    """Whether the content was read. Fails on any error but CheckpointError, and on a large allocation."""
    file.write_bytes(content)
    tracemalloc.start()
    try:
        function(file)
        read = True
    except CheckpointError as error:
        message = str(error)
        assert str(file) in message or str(file.parent) in message
        assert "\n" not in message.replace(str(file), "")
        message.encode("utf-8")
        read = False
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak <= len(content) + SLACK
    return read


def read_values(file: Path) -> None:
    """Read every tensor to its last element, in its own type."""
    for tensor in read_safetensors(file).values():
        assert tensor.raw.nbytes <= file.stat().st_size
        tensor.raw.tobytes()


@fuzz
@given(header=headers, data=st.binary(max_size=64))
def test_any_header_is_read_or_refused(file: Path, header: Any, data: bytes) -> None:
    outcome(read_values, file, safetensors_bytes(header, data))


@fuzz
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(file: Path, content: bytes) -> None:
    outcome(read_values, file, content)


@fuzz
@given(header=st.binary(max_size=200), data=st.binary(max_size=16), lie=st.integers(-8, 8))
def test_any_bytes_as_a_header_are_read_or_refused(file: Path, header: bytes, data: bytes, lie: int) -> None:
    outcome(read_values, file, safetensors_bytes(header, data, length=max(0, len(header) + lie)))


@fuzz
@given(
    shapes=st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=4),
    dtypes=st.lists(st.sampled_from(sorted(STORED_AS)), min_size=4, max_size=4),
    order=st.permutations(range(4)),
    padding=st.integers(0, 9),
)
def test_every_header_that_is_right_is_read(
    file: Path, shapes: list[list[int]], dtypes: list[str], order: list[int], padding: int
) -> None:
    header, end = {}, 0
    for number, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=False)):
        size = STORED_AS[dtype].itemsize
        for length in shape:
            size *= length
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    shuffled = {f"t{number}": header[f"t{number}"] for number in order if f"t{number}" in header}
    content = safetensors_bytes(json.dumps(shuffled).encode() + b" " * padding, bytes(end))
    assert outcome(read_values, file, content)
    assert {name: list(tensor.shape) for name, tensor in read_safetensors(file).items()} == {
        name: entry["shape"] for name, entry in header.items()
    }


@pytest.mark.filterwarnings(f"ignore::{CheckpointWarning.__module__}.{CheckpointWarning.__name__}")
@pytest.mark.parametrize("seed", range(4))
def test_any_damage_to_a_whole_checkpoint_is_read_or_refused(file: Path, seed: int) -> None:
    generator = random.Random(seed)
    whole = arrays_as_bytes({f"transformer.{name}": array for name, array in random_arrays().items()})
    end_of_header = 8 + int.from_bytes(whole[:8], "little")
    outcomes = []
    for _ in range(400):
        content = bytearray(whole)
        kind = generator.randrange(5)
        reach = generator.choice([8, end_of_header, end_of_header, len(content)])
        if kind == 0:
            del content[generator.randrange(len(content)) :]
        elif kind == 1:
            content += generator.randbytes(generator.randrange(1, 50))
        elif kind == 2:
            start = generator.randrange(reach)
            del content[start : start + generator.randrange(1, 9)]
        elif kind == 3:
            start = generator.randrange(reach)
            content[start:start] = generator.choice(
                [b"0", b"9", b",", b"{", b"[", b'"', b"-", b"e9", b"\\ud800", b"\0"]
            )
        else:
            for _ in range(generator.choice([1, 2, 20])):
                content[generator.randrange(reach)] = generator.randrange(256)
        outcomes.append(outcome(read_all, file, bytes(content)))
    assert 0 < sum(outcomes) < len(outcomes)


def read_all(file: Path) -> None:
    for tensor in read(file).tensors.values():
        assert tensor.float32().nbytes <= file.stat().st_size


@fuzz
@given(index=st.fixed_dictionaries({"weight_map": st.dictionaries(names, anything, max_size=4) | anything}) | anything)
def test_any_index_is_read_or_refused(tmp_path: Path, index: Any) -> None:
    CONFIG.save(tmp_path / "config.json")
    assert not outcome(read, tmp_path / "model.safetensors.index.json", json.dumps(index).encode())
