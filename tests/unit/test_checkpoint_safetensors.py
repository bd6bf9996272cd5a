"""The reader and the writer of safetensors files."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from numpy.testing import assert_array_equal
from tiny_checkpoint import safetensors_bytes

from gptwo.checkpoint import safetensors_file
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.safetensors_file import encode, read_safetensors, write_safetensors
from gptwo.checkpoint.stored import StoredTensor
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError

F32 = np.arange(6, dtype="<f4")


def entry(dtype: object = "F32", shape: object = (6,), offsets: object = (0, 24)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


# Every way in which a file can be broken, and what is said of it. {file} is the file's path.
BROKEN = {
    "empty": (b"", "checkpoint {file}: it has 0 bytes, too few"),
    "shorter than the length": (b"\x08\0\0\0\0\0\0", "checkpoint {file}: it has 7 bytes, too few"),
    "no header": (bytes(8), "checkpoint {file}: its header cannot be read"),
    "header longer than the file": (safetensors_bytes({}, length=999), "should end at byte 1007, but the file has 10"),
    "header of 2**63 bytes": (safetensors_bytes({}, length=2**63), "more than 10000000"),
    "header of 2**64 - 1 bytes": (safetensors_bytes({}, length=2**64 - 1), "more than 10000000"),
    "not UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "its header cannot be read: it is not UTF-8 at byte 2"),
    "not JSON": (safetensors_bytes(b"{x"), "its header cannot be read: Expecting property name"),
    "a list": (safetensors_bytes([1]), "it is not an object"),
    "a number of many digits": (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "its header cannot be read"),
    "repeated key": (safetensors_bytes(b'{"a": {}, "a": {}}'), "it repeats the key 'a'"),
    "repeated key within": (safetensors_bytes(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "repeats the key 'dtype'"),
    "deeply nested": (safetensors_bytes(b'{"a": ' + b"[" * 90_000 + b"]" * 90_000 + b"}"), "it is nested too deeply"),
    "many values": (safetensors_bytes(b'{"a": [' + b"[]," * 300_000 + b"[]]}"), "it holds more than 200000 values"),
    "metadata of numbers": (safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__ is not an object of strings"),
    "metadata that is a list": (safetensors_bytes({"__metadata__": []}), "__metadata__ is not an object of strings"),
    "entry of another type": (safetensors_bytes({"a": 3}), "tensor a has an entry that is not an object"),
    "entry without dtype": (safetensors_bytes({"a": {}}), "tensor a has the unknown dtype of type NoneType"),
    "unknown dtype": (safetensors_bytes({"a": entry("F4")}, bytes(24)), "tensor a has the unknown dtype F4"),
    "dtype that is a list": (safetensors_bytes({"a": entry([["F32"]])}, bytes(24)), "unknown dtype of type list"),
    "shape of no list": (safetensors_bytes({"a": entry(shape=6)}, bytes(24)), "shape that is not a list of sizes"),
    "negative size": (safetensors_bytes({"a": entry(shape=(-6,))}, bytes(24)), "shape that is not a list of sizes"),
    "size of a fraction": (safetensors_bytes({"a": entry(shape=(6.0,))}, bytes(24)), "shape that is not a list of"),
    "size that is true": (
        safetensors_bytes({"a": entry(shape=(True,))}, bytes(24)),
        "shape that is not a list of sizes",
    ),
    "size of 2**63": (safetensors_bytes({"a": entry(shape=(2**63,))}, bytes(24)), "shape that is not a list of sizes"),
    "sizes that overflow": (
        safetensors_bytes({"a": entry(shape=(2**62, 2**62, 16))}, bytes(24)),
        "tensor a takes 24 bytes, but F32",
    ),
    "sizes that overflow to the right number": (
        safetensors_bytes({"a": entry("U8", (2**32, 2**32, 1), (0, 0))}),
        "tensor a takes 0 bytes, but U8",
    ),
    "zero beside sizes that overflow": (
        safetensors_bytes({"a": entry("F32", (0, 2**62, 2**62), (0, 0))}),
        "tensor a has a shape that cannot be held",
    ),
    "nine dimensions": (safetensors_bytes({"a": entry(shape=[1] * 8 + [6])}, bytes(24)), "9 dimensions, more than 8"),
    "no offsets": (safetensors_bytes({"a": entry(offsets=None)}, bytes(24)), "data_offsets that are not two positions"),
    "one offset": (safetensors_bytes({"a": entry(offsets=[0])}, bytes(24)), "data_offsets that are not two positions"),
    "negative offset": (safetensors_bytes({"a": entry(offsets=[-24, 0])}, bytes(24)), "that are not two positions"),
    "offset of 2**64": (safetensors_bytes({"a": entry(offsets=[2**64, 2**64 + 24])}), "that are not two positions"),
    "offsets in reverse": (safetensors_bytes({"a": entry(offsets=[24, 0])}, bytes(24)), "after its end at 0"),
    "size that is not shape times dtype": (
        safetensors_bytes({"a": entry("F16")}, bytes(24)),
        "tensor a takes 24 bytes, but F16 (6,) needs 12",
    ),
    "cut short": (safetensors_bytes({"a": entry()}, bytes(23)), "tensor a ends at byte 24 of the data, which has 23"),
    "far beyond the end": (
        safetensors_bytes({"a": entry(offsets=[2**62, 2**62 + 24])}, bytes(24)),
        f"tensor a ends at byte {2**62 + 24} of the data, which has 24 bytes",
    ),
    "trailing bytes": (safetensors_bytes({"a": entry()}, bytes(25)), "1 bytes follow its last tensor"),
    "data without tensors": (safetensors_bytes({}, bytes(3)), "3 bytes follow its last tensor"),
    "overlap": (
        safetensors_bytes({"a": entry(), "b": entry(offsets=[20, 44])}, bytes(44)),
        "tensor b begins at byte 20 of the data, inside tensor a",
    ),
    "twice the same range": (
        safetensors_bytes({"a": entry(), "b": entry()}, bytes(24)),
        "tensor b begins at byte 0 of the data, inside tensor a",
    ),
    "gap": (
        safetensors_bytes({"a": entry(), "b": entry(offsets=[28, 52])}, bytes(52)),
        "tensor b begins at byte 28 of the data, leaving a gap after byte 24",
    ),
    "gap before the first": (safetensors_bytes({"a": entry(offsets=[4, 28])}, bytes(28)), "leaving a gap after byte 0"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_in_one_line_without_a_large_allocation(file: Path, what: str) -> None:
    content, message = BROKEN[what]
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=re.escape(message.format(file=file))) as caught:
            read_safetensors(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(file))
    assert peak < 3 * len(content) + 200_000


def test_a_hostile_name_is_shown_harmlessly(file: Path) -> None:
    file.write_bytes(safetensors_bytes(b'{"a\\nb\\ud800' + b"x" * 1000 + b'": 1}'))
    with pytest.raises(CheckpointError, match=r"tensor 'a\\nb\\ud800xxx") as caught:
        read_safetensors(file)
    str(caught.value).encode("ascii")
    assert len(str(caught.value)) < 300 + len(str(file))


def test_an_absent_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_safetensors(path)


def test_what_the_safetensors_library_writes_is_read(file: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "f4": generator.standard_normal((3, 4), np.float32),
        "f2": generator.standard_normal((5,)).astype(np.float16),
        "f8": generator.standard_normal((2, 2, 2)),
        "i8": np.arange(-4, 4, dtype=np.int64),
        "b": np.array([True, False]),
        "none": np.zeros((0, 7), np.float32),
        "one": np.array(3.5, np.float32),
        "é": np.ones(1, np.float32),
    }
    safetensors.numpy.save_file(arrays, file, metadata={"a": "b"})
    tensors = read_safetensors(file)
    assert tensors.keys() == arrays.keys()
    for name in ("f4", "f2", "f8", "none", "one", "é"):
        assert tensors[name].shape == arrays[name].shape
        assert_array_equal(tensors[name].float32(), arrays[name].astype(np.float32))
    assert_array_equal(tensors["i8"].raw, arrays["i8"])
    assert_array_equal(tensors["b"].raw, [1, 0])
    for name in ("i8", "b"):
        with pytest.raises(CheckpointError, match=f"tensor {name} is (I64|BOOL), expected F32, F16, BF16, F64"):
            tensors[name].float32()


def test_tensors_may_lie_in_another_order_than_the_header(file: Path) -> None:
    header = {"second": entry(shape=(2,), offsets=(8, 16)), "first": entry(shape=(2,), offsets=(0, 8))}
    file.write_bytes(safetensors_bytes(header, F32[:4].tobytes()))
    tensors = read_safetensors(file)
    assert_array_equal(tensors["first"].float32(), [0, 1])
    assert_array_equal(tensors["second"].float32(), [2, 3])


def test_float32_is_a_view_of_the_mapped_file(file: Path) -> None:
    write_safetensors(file, {"a": F32}, "F32")
    tensor = read_safetensors(file)["a"]
    assert np.shares_memory(tensor.float32(), tensor.raw)
    assert not tensor.float32().flags.writeable
    with file.open("r+b") as changed:
        changed.seek(-4, os.SEEK_END)
        changed.write(np.float32(99).tobytes())
    assert tensor.float32()[-1] == 99


def test_mapping_a_file_reads_none_of_its_data(file: Path) -> None:
    size = 200_000_000
    header = safetensors_bytes({"a": entry("F32", (size // 4,), (0, size))})
    with file.open("wb") as sparse:
        sparse.write(header)
        sparse.truncate(len(header) + size)
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tensors = read_safetensors(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tensors["a"].float32()[-1] == 0
    assert peak < 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@pytest.mark.parametrize("padding", range(8))
def test_unaligned_data_is_read_into_aligned_arrays(file: Path, padding: int) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}' + b" " * padding
    file.write_bytes(safetensors_bytes(header, F32.tobytes()))
    values = read_safetensors(file)["a"].float32()
    assert values.flags.aligned
    assert_array_equal(values, F32)


def test_bfloat16_is_widened_exactly(file: Path) -> None:
    bits = np.arange(2**16, dtype="<u2")
    file.write_bytes(safetensors_bytes({"a": entry("BF16", (2**16,), (0, 2**17))}, bits.tobytes()))
    tensor = read_safetensors(file)["a"]
    assert tensor.raw.dtype == np.uint16
    assert_array_equal(tensor.float32().view(np.uint32), bits.astype(np.uint32) << 16)
    assert tensor.float32()[0x3F80] == 1.0


def test_float16_is_widened_exactly(file: Path) -> None:
    bits = np.arange(2**16, dtype="<u2")
    file.write_bytes(safetensors_bytes({"a": entry("F16", (2**16,), (0, 2**17))}, bits.tobytes()))
    values = read_safetensors(file)["a"].float32()
    number = ~np.isnan(values)
    assert_array_equal(values[number].astype(np.float16).view(np.uint16), bits[number])
    assert values[0x0001] == 2.0**-24


def test_float64_is_rounded_and_what_is_too_large_becomes_infinite(file: Path) -> None:
    data = np.array([1 / 3, 1e300, -1e300, 1e-300, np.nan])
    file.write_bytes(safetensors_bytes({"a": entry("F64", (5,), (0, 40))}, data.tobytes()))
    assert_array_equal(read_safetensors(file)["a"].float32(), np.float32([1 / 3, np.inf, -np.inf, 0, np.nan]))


def test_bytes_are_read_as_little_endian_whatever_the_host() -> None:
    big_endian = StoredTensor("a", Path("f"), "F32", F32.astype(">f4"))
    assert big_endian.float32().dtype.isnative
    assert_array_equal(big_endian.float32(), F32)


@pytest.mark.parametrize(("dtype", "numpy_type"), [("F32", np.float32), ("F16", np.float16)])
def test_what_is_written_the_safetensors_library_reads(file: Path, dtype: str, numpy_type: type) -> None:
    arrays = {
        "w": np.random.default_rng(1).standard_normal((4, 3)),
        "t": np.arange(12, dtype=np.float32).reshape(3, 4).T,
        "none": np.zeros((0, 2), np.float32),
    }
    write_safetensors(file, arrays, dtype)
    theirs = safetensors.numpy.load_file(file)
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        assert theirs[name].dtype == numpy_type
        assert_array_equal(theirs[name], array.astype(np.float32).astype(numpy_type))
    with safetensors.safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_the_data_of_a_written_file_is_aligned_to_cache_lines(file: Path) -> None:
    for count in range(1, 9):
        write_safetensors(file, {"a" * count: F32}, "F32")
        assert (8 + int.from_bytes(file.read_bytes()[:8], "little")) % 64 == 0


def test_bfloat16_is_rounded_to_the_nearest_and_ties_go_to_even() -> None:
    step = 2.0**-7  # between neighbours from 1 to 2
    values = np.float32([1 + 0.4 * step, 1 + 0.5 * step, 1 + 0.6 * step, 1 + 1.5 * step, -1 - 0.5 * step, 0.0, -0.0])
    expected = np.float32([1, 1, 1 + step, 1 + 2 * step, -1, 0.0, -0.0])
    stored = encode(values, "BF16", "a")
    assert_array_equal(stored.astype(np.uint32) << 16, expected.view(np.uint32))


def test_not_a_number_stays_one_in_bfloat16_even_if_its_payload_is_cut_off() -> None:
    values = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(StoredTensor("a", Path("f"), "BF16", encode(values, "BF16", "a")).float32()).all()


@pytest.mark.parametrize(("dtype", "too_large"), [("F16", 65520.0), ("BF16", 3.4e38), ("F32", 1e39)])
def test_a_value_that_would_become_infinite_is_refused(dtype: str, too_large: float) -> None:
    with pytest.raises(CheckpointError, match=f"tensor a has values beyond the range of {dtype}"):
        encode(np.array([1.0, too_large]), dtype, "a")
    assert np.isinf(np.array(encode(np.array([np.inf]), "F32", "a")))


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_large_tensor_is_converted_piece_by_piece(file: Path, dtype: str) -> None:
    array = np.random.default_rng(0).standard_normal((3001, 2000), np.float32)
    tracemalloc.start()
    write_safetensors(file, {"a": array}, dtype)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < array.nbytes
    assert_array_equal(read_safetensors(file)["a"].raw, encode(array, dtype, "a"))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(file: Path) -> None:
    file.write_bytes(b"old")
    program = (
        "import resource, sys, numpy as np; from pathlib import Path\n"
        "from gptwo.checkpoint.safetensors_file import write_safetensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try: write_safetensors(Path(sys.argv[1]), {'a': np.zeros(100_000, np.float32)}, 'F32')\n"
        "except OSError as error: print('refused', error.errno)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("refused")
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_a_header_is_bounded_well_above_that_of_the_largest_gpt2(file: Path) -> None:
    config = GPTConfig(vocab_size=7, n_positions=2, n_embd=1, n_head=1, n_layer=1000)
    arrays = {f"transformer.{name}": np.zeros(shape, np.float32) for name, shape in expected_shapes(config)}
    write_safetensors(file, arrays, "F32")
    assert len(read_safetensors(file)) == len(arrays) == 12_004
    assert safetensors_file.MAX_BYTES == 10_000_000
