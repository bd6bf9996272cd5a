"""Whatever bytes a file of another program's holds: tensors or a typed error, in no more memory than the file's."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorflow_checkpoint import table, write_tensorflow
from tiny_checkpoint import random_arrays

from gptwo import gguf_file
from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.checkpoint.tensorflow_bundle import _entries
from gptwo.config import GPTConfig
from gptwo.conversion import convert
from gptwo.errors import CheckpointError, CheckpointWarning, ConfigError, TokenizerError
from gptwo.gguf_file import GGUFFile, read_gguf_vocabulary
from gptwo.tokenizer import Tokenizer
from gptwo.vocabulary_files import read_vocabulary

pytestmark = pytest.mark.filterwarnings(f"ignore::{CheckpointWarning.__module__}.{CheckpointWarning.__name__}")

SLACK = 300_000  # bytes: what Python itself needs to read and refuse any small file
TOKENIZER = Tokenizer.train(["Speak, speak. " * 4], 262)
CONFIG = GPTConfig(vocab_size=263, n_positions=5, n_embd=32, n_layer=1, n_head=2, eos_token_id=None, bos_token_id=None)
NUMBERS = (0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)


def read_all(path: Path) -> None:
    """Read a model to the last element."""
    for tensor in load_checkpoint(path).tensors.values():
        tensor.float32()


def outcome(function: Callable[[Path], Any], path: Path, size: int) -> bool:
    """Whether it was read. Fails on any error but ours, and on a large allocation."""
    tracemalloc.start()
    try:
        function(path)
        return True
    except (CheckpointError, ConfigError, TokenizerError) as error:
        said = str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # A vocabulary becomes Python's strings; blocks of four bits become floats, a tensor at a time.
        assert peak <= 12 * size + SLACK
    assert "\n" not in said
    said.encode("utf-8")
    return False


def damaged(whole: bytes, generator: random.Random, header: int) -> bytes:
    """The bytes with something cut off, put in, left out or changed, mostly in the header."""
    content = bytearray(whole)
    header = min(header, len(content))
    reach = generator.choice([header, header, len(content)])
    at = generator.randrange(reach)
    kind = generator.randrange(6)
    if kind == 0:
        del content[generator.randrange(len(content)) :]
    elif kind == 1:
        content += generator.randbytes(generator.randrange(1, 50))
    elif kind == 2:
        del content[at : at + generator.randrange(1, 9)]
    elif kind == 3:
        content[at:at] = generator.randbytes(generator.randrange(1, 9))
    elif kind == 4:
        content[at : at + 8] = struct.pack("<Q", generator.choice(NUMBERS))
    else:
        for _ in range(generator.choice([1, 2, 20])):
            content[generator.randrange(reach)] = generator.randrange(256)
    return bytes(content)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small model in every format."""
    directory = tmp_path_factory.mktemp("models")
    save_checkpoint(directory / "hf", CONFIG, random_arrays(CONFIG), TOKENIZER)
    convert(directory / "hf", directory / "llmc", "llmc")
    convert(directory / "hf", directory / "raw", "raw")
    write_tensorflow(directory / "tensorflow", CONFIG, random_arrays(CONFIG))
    return directory


@pytest.mark.parametrize(
    ("file", "whole", "header"),
    [
        ("llmc/model.bin", "llmc/model.bin", 40),
        ("raw/parameters.json", "raw", 1200),
        ("raw/parameters.bin", "raw", 64),
        ("tensorflow/model.ckpt.index", "tensorflow", 700),
        ("tensorflow/hparams.json", "tensorflow", 60),
    ],
)
def test_any_damage_to_a_file_is_read_or_refused(models: Path, file: str, whole: str, header: int) -> None:
    generator = random.Random(file)
    path = models / file
    before = path.read_bytes()
    size = sum(found.stat().st_size for found in path.parent.iterdir())
    outcomes = set()
    try:
        for _ in range(100):
            path.write_bytes(damaged(before, generator, header))
            outcomes.add(outcome(read_all, models / whole, size))
    finally:
        path.write_bytes(before)
    assert False in outcomes
    assert outcome(read_all, models / whole, size)


def test_any_damage_below_the_checksums_of_tensorflows_index_is_read_or_refused(models: Path, tmp_path: Path) -> None:
    directory = tmp_path / "m"
    write_tensorflow(directory, CONFIG, random_arrays(CONFIG))
    index = directory / "model.ckpt.index"
    entries = dict(_entries(index.read_bytes()))
    size = sum(found.stat().st_size for found in directory.iterdir())
    generator = random.Random(0)
    for _ in range(100):
        key = generator.choice(sorted(entries))
        value = damaged(entries[key], generator, 9)
        index.write_bytes(table(entries | {key: value}))
        outcome(read_all, directory, size)


@pytest.mark.parametrize("name", ["llmc/gpt2_tokenizer.bin", "raw/vocabulary.bin"])
def test_any_damage_to_a_vocabulary_is_read_or_refused(models: Path, tmp_path: Path, name: str) -> None:
    generator = random.Random(name)
    whole = (models / name).read_bytes()
    path = tmp_path / Path(name).name
    for _ in range(60):
        path.write_bytes(damaged(whole, generator, min(len(whole), 1100)))
        if outcome(read_vocabulary, path, len(whole)):
            outcome(Tokenizer.load, path, len(whole) + 200_000)


def test_a_vocabulary_of_nothing_but_empty_tokens_is_not_read_to_its_end(models: Path, tmp_path: Path) -> None:
    with (tmp_path / "vocabulary.bin").open("wb") as file:
        file.write((models / "raw" / "vocabulary.bin").read_bytes())
        file.truncate(16_000_000)
    with pytest.raises(TokenizerError, match=r"token \d+ in it is empty"):
        Tokenizer.load(tmp_path)
    with (tmp_path / "vocabulary.bin").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(TokenizerError, match="which no vocabulary has"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("dtype", ["f32", "q4_0"])
def test_any_damage_to_a_gguf_is_read_or_refused(models: Path, tmp_path: Path, dtype: str) -> None:
    pytest.importorskip("gguf", reason="needs the extra `gguf`")
    convert(models / "hf", tmp_path / "whole.gguf", "gguf", dtype=dtype)
    whole = (tmp_path / "whole.gguf").read_bytes()
    data = GGUFFile(tmp_path / "whole.gguf").data_start
    generator = random.Random(dtype)
    path = tmp_path / "m.gguf"
    outcomes = set()
    for number in range(60):
        path.write_bytes(damaged(whole, generator, data))
        outcomes.add(outcome(read_all, path, len(whole)))
        if number % 3 == 0:
            outcome(read_gguf_vocabulary, path, len(whole))
    assert outcomes == {True, False}


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(values: bytes = b"", tensors: bytes = b"", *, count: int = 0, of: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, of, count) + values + tensors


def test_a_gguf_whose_header_has_no_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_file, "_MOST_BYTES", 10_000)
    with (tmp_path / "m.gguf").open("wb") as file:
        file.write(gguf(text("a") + struct.pack("<IIQ", 9, 8, 2**36), count=1))
        file.truncate(2**40)  # which takes no room: strings without a letter, one after another
    with pytest.raises(CheckpointError, match="its header has over 10000 bytes"):
        GGUFFile(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few for a GGUF file"),
        (b"GGUF", "ends at byte 4, inside its header"),
        (b"GGML" + bytes(20), "does not begin as a GGUF file"),
        (gguf(version=1), "does not begin as a GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "does not begin as a GGUF file"),
        (gguf(count=10_000), "inside its header"),
        (gguf(count=2**63), "has 0 tensors and 9223372036854775808 values"),
        (gguf(of=10_001), "has 10001 tensors and 0 values"),
        (gguf(struct.pack("<Q", 2**62), count=1), "a name in it would have"),
        (gguf(text("") + bytes(8), count=1), "a key in it is empty"),
        (gguf(2 * (text("a") + struct.pack("<IB", 0, 1)), count=2), "the key 'a' is there twice"),
        (gguf(text("a") + struct.pack("<I", 99), count=1), "unknown type 99"),
        (gguf(text("a") + struct.pack("<IIQ", 9, 8, 2**61), count=1), "inside its header"),
        (gguf(text("a") + struct.pack("<IIQ", 9, 0, 2**64 - 1), count=1), "inside its header"),
        (gguf(text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 6, count=1), "nested too deeply"),
        (gguf(text("a") + struct.pack("<IQ", 8, 1) + b"\xff", count=1), "not UTF-8"),
        (gguf(text("general.alignment") + struct.pack("<II", 4, 33), count=1), "expected a power of two"),
        (gguf(tensors=text("t") + struct.pack("<I", 9), of=1), "has 9 dimensions"),
        (gguf(tensors=2 * (text("t") + struct.pack("<IQIQ", 1, 1, 0, 0)), of=2), "tensor 't' is there twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_gguf_that_contradicts_itself_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        GGUFFile(tmp_path / "m.gguf")


def model_of(tensors: bytes, of: int = 1, data: bytes = bytes(64)) -> bytes:
    content = gguf(text("general.architecture") + struct.pack("<I", 8) + text("gpt2"), tensors, count=1, of=of)
    return content + bytes(-len(content) % 32) + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gguf(), "its architecture is None; gptwo reads gpt2"),
        (model_of(text("t") + struct.pack("<IQIQ", 1, 1, 0, 32)), "begins at byte .*, expected"),
        (model_of(text("t") + struct.pack("<IQIQ", 1, 17, 0, 0)), "the file has .*; it is cut short"),
        (model_of(text("t") + struct.pack("<IQIQ", 1, 1, 0, 0)), "32 bytes follow its last tensor"),
        (model_of(text("t") + struct.pack("<IQQIQ", 2, 2**62, 2**62, 0, 0)), "it is cut short"),
        (model_of(text("t") + struct.pack("<IQQIQ", 2, 2**62, 0, 0, 0)), "cannot be held|follow its last"),
        (model_of(text("t") + struct.pack("<IQIQ", 1, 16, 0, 0)), "lacks gpt2.context_length"),
    ],
)
def test_tensors_of_a_gguf_that_do_not_fit_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize("kind", [24, 99, 4])  # I8, none, one that ggml no longer has
def test_types_that_are_no_floats_are_refused(tmp_path: Path, kind: int) -> None:
    pytest.importorskip("gguf", reason="needs the extra `gguf`")
    (tmp_path / "m.gguf").write_bytes(model_of(text("t") + struct.pack("<IQIQ", 1, 32, kind, 0)))
    with pytest.raises(CheckpointError, match=f"ggml's number {kind}"):
        load_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: 20240327}, "no known format|not a PyTorch file|there is no config.json"),
        ({1: 1}, "is of version 1; gptwo reads 3"),
        ({3: 2**31 - 1}, "it has .* bytes, but by its header"),
        ({4: -1}, "n_layer is -1"),
        ({7: 262}, "it has .* bytes, but by its header"),
        ({7: -5}, "it has .* bytes, but by its header"),
    ],
)
def test_an_llmc_header_that_contradicts_the_file_is_refused(
    models: Path, tmp_path: Path, change: dict[int, int], message: str
) -> None:
    data = bytearray((models / "llmc" / "model.bin").read_bytes())
    header = np.frombuffer(data, "<i4", 256)
    for place, value in change.items():
        header[place] = value
    (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        load_checkpoint(tmp_path / "model.bin")
    (tmp_path / "model.bin").write_bytes(data[:500])
    with pytest.raises(CheckpointError, match=r"too few|there is no config.json"):
        load_checkpoint(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "it is not a list"),
        ("[1]", "entry 0 of the list is no name, shape and size"),
        ('[{"name": "a", "shape": [-1], "size": -1}]', "entry 0 of the list"),
        ('[{"name": "a", "shape": [2], "size": 3}]', "its size is not that of its shape"),
        ('[{"name": "a", "shape": [2], "size": 2}]', "it has .* bytes, but the tensors of parameters.json take 8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_raw_list_that_contradicts_the_data_is_refused(
    models: Path, tmp_path: Path, content: str, message: str
) -> None:
    for name in ("config.json", "parameters.bin"):
        (tmp_path / name).write_bytes((models / "raw" / name).read_bytes())
    (tmp_path / "parameters.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_a_raw_file_without_the_other_says_so_and_waits_for_no_pipe(models: Path, tmp_path: Path) -> None:
    for name in ("config.json", "parameters.bin"):
        (tmp_path / name).write_bytes((models / "raw" / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"there is no file parameters.json beside it"):
        load_checkpoint(tmp_path / "parameters.bin")
    os.mkfifo(tmp_path / "parameters.json")
    with pytest.raises(CheckpointError, match=r"there is no file parameters.json beside it"):
        load_checkpoint(tmp_path / "parameters.bin")
