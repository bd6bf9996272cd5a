"""Packed weights at rest: the bits of packing on the fly, mapped without a copy, and every broken file an error."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from random_model import all_logits, native, random_arrays, stored, tiny_config

from gptwo import _native
from gptwo.checkpoint import Checkpoint, Packed, load_checkpoint, save_packed
from gptwo.checkpoint.packed_format import PACKED_WEIGHTS, WEIGHTS_FILE, is_matrix
from gptwo.config import ACTIVATIONS, GPTConfig
from gptwo.decoder import open_decoder
from gptwo.decoder.native import LAYOUT_VERSION, NativeDecoder
from gptwo.errors import CheckpointError, InvalidRequestError, NumericalError

CONFIG = tiny_config(n_embd=72, n_head=3)  # no multiple of 64: matrices end within a block and within a panel
IDS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def with_outliers(config: GPTConfig) -> dict[str, np.ndarray]:
    """Weights with a few large gains, which int8 and int4 move into the matrices."""
    arrays = random_arrays(config)
    for norm in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        arrays[f"{norm}.weight"][5] *= 100
    return arrays


ARRAYS = with_outliers(CONFIG)


def pack(directory: Path, config: GPTConfig, arrays: dict[str, np.ndarray], weights: str) -> Path:
    """A packed directory."""
    decoder = native(config, arrays, weights)
    save_packed(directory, config, decoder.packed_tensors(stored(arrays)), Packed(weights, LAYOUT_VERSION), None)
    return directory


def opened(checkpoint: Checkpoint) -> NativeDecoder:
    decoder = open_decoder(checkpoint, threads=2)
    assert isinstance(decoder, NativeDecoder)
    return decoder


@pytest.fixture(scope="module", params=PACKED_WEIGHTS)
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, pack(tmp_path_factory.mktemp("packed") / request.param, CONFIG, ARRAYS, request.param)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed directory that tests copy before they break it."""
    return pack(tmp_path_factory.mktemp("packed") / "int8", CONFIG, ARRAYS, "int8")


@pytest.fixture
def copy(int8: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8, tmp_path / "copy"))


@pytest.mark.parametrize("weights", PACKED_WEIGHTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False},
        {"n_embd": 24, "n_inner": 40, "vocab_size": 97},
        {"n_embd": 128, "n_head": 2, "vocab_size": 64, "n_layer": 1},
    ],
)
def test_a_packed_file_says_what_packing_on_the_fly_says(tmp_path: Path, weights: str, changes: dict) -> None:
    config = tiny_config(**{"n_embd": 72, **changes})
    arrays = with_outliers(config)
    checkpoint = load_checkpoint(pack(tmp_path / "out", config, arrays, weights))
    assert checkpoint.config == config.replace(extra=checkpoint.config.extra)
    assert checkpoint.packed == Packed(weights, LAYOUT_VERSION)
    assert_array_equal(all_logits(opened(checkpoint), IDS), all_logits(native(config, arrays, weights), IDS))


def test_matrices_and_positions_are_read_where_the_file_is_mapped(packed: tuple[str, Path]) -> None:
    checkpoint = load_checkpoint(packed[1])
    core = opened(checkpoint)._core
    for name, tensor in checkpoint.tensors.items():
        if is_matrix(name):
            assert core.packed(name).ctypes.data == tensor.raw.ctypes.data
            assert not core.packed(name).flags.writeable


def test_the_mapping_outlives_the_checkpoint(packed: tuple[str, Path]) -> None:
    expected = all_logits(native(CONFIG, ARRAYS, packed[0]), IDS)
    decoder = opened(load_checkpoint(packed[1]))  # the checkpoint is gone
    assert_array_equal(all_logits(decoder, IDS), expected)
    matrix = decoder._core.packed("wte.weight")
    first = matrix[:100].copy()
    del decoder
    assert_array_equal(matrix[:100], first)  # and what was handed out outlives the model


def test_the_layout_changes_only_with_its_version() -> None:
    """If this fails, the bytes of a packed matrix mean something else: raise kLayoutVersion, and pin the new ones."""
    config = tiny_config(vocab_size=50, n_embd=96, n_head=2, n_layer=1, n_positions=8)
    draw = np.random.default_rng(5)
    arrays = {name: np.ones_like(array) for name, array in random_arrays(config).items()}
    for name in filter(is_matrix, arrays):
        arrays[name] = (draw.integers(-999, 1000, arrays[name].shape) / 1024).astype(np.float32)
    digests = {}
    for weights in PACKED_WEIGHTS:
        core = native(config, arrays, weights)._core
        data = b"".join(core.packed(name).tobytes() for name in sorted(filter(is_matrix, arrays)))
        digests[weights] = hashlib.sha256(data).hexdigest()[:16]
    assert (LAYOUT_VERSION, digests) == (
        1,
        {"bf16": "912624e77ac23393", "int8": "f58968fc3709d0ac", "int4": "da8fdaa9c26f4dd8"},
    )


# ---- what is asked of a packed file


def test_the_format_is_that_of_the_file(packed: tuple[str, Path]) -> None:
    weights, directory = packed
    checkpoint = load_checkpoint(directory)
    assert opened(checkpoint).weights == weights
    assert open_decoder(checkpoint, weights=weights, backend="native").config == checkpoint.config
    other = "int4" if weights == "int8" else "int8"
    with pytest.raises(InvalidRequestError, match=f"is packed as {weights}; for another format load the checkpoint"):
        open_decoder(checkpoint, weights=other)
    for options in ({"backend": "reference"}, {"device": "cuda"}):
        with pytest.raises(InvalidRequestError, match="only the native backend reads"):
            open_decoder(checkpoint, **options)


def test_the_file_alone_is_enough_where_its_configuration_lies_beside_it(int8: Path) -> None:
    assert load_checkpoint(int8 / WEIGHTS_FILE).packed == Packed("int8", LAYOUT_VERSION)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_of_a_configuration_loses_no_nan(tmp_path: Path, activation: str) -> None:
    config = tiny_config(activation_function=activation)
    directory = pack(tmp_path / "out", config, random_arrays(config), "int8")
    broken = rewritten(directory, lambda header, data: poison(header, data, "h.0.mlp.c_fc.weight"))
    with pytest.raises(NumericalError, match=r"tensor h\.0\.mlp\.c_fc\.weight holds NaN"):
        all_logits(opened(load_checkpoint(broken)), IDS)


# ---- broken files


def read_parts(file: Path) -> tuple[dict, bytearray]:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), bytearray(data[8 + length :])


def rewritten(directory: Path, change, *, keep_alignment: bool = True) -> Path:
    """The directory, with its weights' header and data changed in place by a function."""
    file = directory / WEIGHTS_FILE
    header, data = read_parts(file)
    data = change(header, data) or data
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64 + (0 if keep_alignment else 4))
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return directory


def poison(header: dict, data: bytearray, name: str) -> None:
    """NaN as the first four bytes of a tensor: a scale, or a number itself."""
    begin = header[name]["data_offsets"][0]
    data[begin : begin + 4] = np.float32(np.nan).tobytes()


def drop(header: dict, data: bytearray, name: str) -> bytearray:
    begin, end = header.pop(name)["data_offsets"]
    for entry in header.values():
        if "data_offsets" in entry and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [offset - (end - begin) for offset in entry["data_offsets"]]
    return data[:begin] + data[end:]


def set_metadata(key: str, value: str | None):
    def change(header: dict, data: bytearray) -> None:
        if value is None:
            del header["__metadata__"][key]
        else:
            header["__metadata__"][key] = value

    return change


def retyped(name: str, dtype: str, shape: list[int]):
    def change(header: dict, data: bytearray) -> None:
        header[name] |= {"dtype": dtype, "shape": shape}

    return change


WTE = r"model\.packed\.safetensors: tensor wte\.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_metadata("gptwo.layout", None), "does not say which layout"),
        (set_metadata("gptwo.layout", "one"), "does not say which layout"),
        (set_metadata("gptwo.layout", "99999"), "packed in layout 99999, and this gptwo reads layout"),
        (set_metadata("gptwo.layout", "0"), "packed in layout 0"),
        (set_metadata("gptwo.weights", "int3"), "said to be int3, expected bf16, int8, int4"),
        (set_metadata("gptwo.weights", None), "said to be '', expected"),
        (set_metadata("gptwo.weights", "bf16"), r"tensor wte\.weight has \d+ bytes, but bf16 weights .* take \d+"),
        (set_metadata("gptwo.weights", "int4"), r"tensor h\.0\.attn\.c_attn\.weight has \d+ bytes, but int4"),
        (set_metadata("gptwo.config", None), "configuration in it cannot be read"),
        (set_metadata("gptwo.config", "{}"), r"says vocab_size is 61, but the weights were packed with None"),
        (lambda header, data: drop(header, data, "h.1.mlp.c_proj.weight"), r"h\.1\.mlp\.c_proj\.weight is missing"),
        (lambda header, data: drop(header, data, "ln_f.bias"), r"ln_f\.bias is missing"),
        (lambda header, data: header.update(more=header.pop("ln_f.bias")), r"ln_f\.bias is missing"),
        (retyped("wte.weight", "F32", [2176]), WTE + " is F32, expected U8"),
        (retyped("wte.weight", "U8", [136, 64]), WTE + r" has shape \(136, 64\), expected one dimension"),
        (retyped("ln_f.bias", "F32", [36, 2]), r"ln_f\.bias has shape \(36, 2\), expected \(72,\)"),
        (retyped("ln_f.bias", "U8", [288]), r"ln_f\.bias is U8, expected F32"),
        (retyped("unfold", "U8", [288]), r"unfold is U8, expected F32"),
        (lambda header, data: poison(header, data, "unfold"), "tensor unfold holds NaN"),
        (lambda header, data: poison(header, data, "ln_f.bias"), r"safetensors: tensor ln_f\.bias holds NaN"),
        (lambda header, data: data[:-1], "cut short"),
        (lambda header, data: data[: len(data) // 2], "cut short"),
        (lambda header, data: data + b"\0", "1 bytes follow its last tensor"),
    ],
)
def test_a_file_that_does_not_fit_is_an_error_that_says_where(copy: Path, change, message: str) -> None:
    rewritten(copy, change)
    with pytest.raises((CheckpointError, NumericalError), match=message) as caught:
        opened(load_checkpoint(copy))
    assert "\n" not in str(caught.value)


def test_tensors_of_another_length_are_refused(copy: Path) -> None:
    def swap(header: dict, data: bytearray) -> None:
        names = ["h.0.attn.c_proj.weight", "h.0.attn.c_attn.weight"]
        header[names[0]], header[names[1]] = header[names[1]], header[names[0]]

    rewritten(copy, swap)
    with pytest.raises(CheckpointError, match=r"tensor h\.0\.attn\.c_attn\.weight has \d+ bytes, but int8 weights"):
        opened(load_checkpoint(copy))


def test_a_tensor_off_the_cache_line_is_refused(copy: Path) -> None:
    rewritten(copy, lambda header, data: None, keep_alignment=False)
    with pytest.raises(CheckpointError, match=WTE + " does not begin on a cache line"):
        load_checkpoint(copy)


@pytest.mark.parametrize(
    ("field", "value"), [("n_head", 4), ("activation_function", "relu"), ("n_inner", 300), ("vocab_size", 62)]
)
def test_a_configuration_other_than_the_one_packed_with_is_refused(copy: Path, field: str, value: object) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {field: value}))
    name = "inner_size" if field == "n_inner" else field
    with pytest.raises(CheckpointError, match=f"config.json says {name} is {value}, but the weights were packed with"):
        load_checkpoint(copy)


def test_a_directory_without_a_configuration_is_refused(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"there is no config\.json beside it"):
        load_checkpoint(copy)


@pytest.mark.parametrize("name", ["wte.weight", "h.1.attn.c_attn.weight", "h.0.mlp.c_proj.weight", "wpe.weight"])
def test_a_scale_that_is_no_number_is_named_when_it_comes_out(copy: Path, name: str) -> None:
    rewritten(copy, lambda header, data: poison(header, data, name))
    decoder = opened(load_checkpoint(copy))
    with pytest.raises(NumericalError, match=rf"model\.packed\.safetensors: tensor {name} holds NaN"):
        all_logits(decoder, IDS)
    assert decoder.cache_blocks == 0


@pytest.mark.parametrize("tier", _native.tiers())
@pytest.mark.parametrize("half", [0x7C00, 0xFC00, 0x7E01])
def test_an_infinite_half_precision_scale_is_named_on_every_tier(tmp_path, monkeypatch, tier: str, half: int) -> None:
    monkeypatch.setenv("GPTWO_ISA", tier)
    directory = pack(tmp_path / "out", CONFIG, random_arrays(CONFIG), "int4")

    def break_scale(header: dict, data: bytearray) -> None:
        begin = header["h.0.attn.c_attn.weight"]["data_offsets"][0]
        data[begin : begin + 2] = half.to_bytes(2, "little")

    decoder = opened(load_checkpoint(rewritten(directory, break_scale)))
    with pytest.raises(NumericalError, match=r"tensor h\.0\.attn\.c_attn\.weight holds NaN or infinite"):
        all_logits(decoder, IDS)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spots=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    in_header=st.booleans(),
    cut=st.none() | st.floats(0, 1),
)
def test_a_damaged_file_is_an_error_or_gives_numbers_and_never_crashes(copy, int8, spots, in_header, cut) -> None:
    data = bytearray((int8 / WEIGHTS_FILE).read_bytes())
    length = 8 + int.from_bytes(data[:8], "little") if in_header else len(data)
    for place, value in spots:
        data[int(place * length)] = value
    (copy / WEIGHTS_FILE).write_bytes(data if cut is None else data[: int(cut * len(data))])
    with contextlib.suppress(CheckpointError, NumericalError):
        assert np.isfinite(all_logits(opened(load_checkpoint(copy)), IDS)).all()


# ---- memory

LITTLE_MEMORY = """
import resource, sys
sys.path.insert(0, {tests!r})
from random_model import random_arrays, stored, tiny_config
from gptwo.decoder.native import NativeDecoder
from gptwo.errors import GptwoError, OutOfMemoryError
config = tiny_config(vocab_size=40_000, n_embd=512, n_head=8, n_layer=1)
arrays = stored(random_arrays(config))
NativeDecoder(config, arrays, threads=2)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000,) * 2)
try:
    NativeDecoder(config, arrays, threads=2)
except OutOfMemoryError as error:
    assert isinstance(error, GptwoError) and isinstance(error, MemoryError)
    print("refused:", error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux counts it")
def test_too_little_memory_is_an_error_of_ours() -> None:
    tests = str(Path(__file__).parents[1])
    script = LITTLE_MEMORY.format(tests=tests)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "refused: there is not enough memory" in done.stdout
