"""OpenAI's TensorFlow checkpoints, written by tests/tensorflow_checkpoint.py."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tensorflow_checkpoint import bundle, described, message, number, table, varint, write_tensorflow
from tiny_checkpoint import random_arrays

from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.tensorflow_bundle import masked_crc32c, read_bundle
from gptwo.config import GPTConfig
from gptwo.errors import CheckpointError, CheckpointWarning, ConfigError

CONFIG = GPTConfig(vocab_size=37, n_positions=6, n_embd=8, n_layer=11, n_head=2, bos_token_id=None, eos_token_id=None)
ARRAYS = random_arrays(CONFIG)


@pytest.mark.parametrize("shards", [1, 3])
def test_openais_directory_is_read_to_the_bit(tmp_path: Path, shards: int) -> None:
    checkpoint = load_checkpoint(write_tensorflow(tmp_path, CONFIG, ARRAYS, shards=shards))
    assert checkpoint.format == "tensorflow"
    assert checkpoint.config == CONFIG
    assert checkpoint.tensors.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert_array_equal(checkpoint.tensors[name].float32(), array, err_msg=name)


def test_a_checkpoint_of_several_is_named_by_its_index(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, CONFIG, random_arrays(CONFIG, seed=1), name="model-10")
    assert load_checkpoint(tmp_path).path == tmp_path
    write_tensorflow(tmp_path, CONFIG, ARRAYS, name="model-20")
    with pytest.raises(CheckpointError, match=r"several are there \(model-10.index, model-20.index\); name the one"):
        load_checkpoint(tmp_path)
    found = load_checkpoint(tmp_path / "model-20.index")
    assert_array_equal(found.tensors["wte.weight"].float32(), ARRAYS["wte.weight"])


def test_what_training_keeps_beside_the_model_is_left_out_with_a_warning(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, CONFIG, ARRAYS)
    index, (data,) = bundle(ARRAYS)
    step = np.array(7, np.int64)
    entries = {b"global_step": described(step, len(data))}
    from gptwo.checkpoint.tensorflow_bundle import _entries

    (tmp_path / "model.ckpt.index").write_bytes(table(dict(_entries(index)) | entries))
    (tmp_path / "model.ckpt.data-00000-of-00001").write_bytes(data + step.tobytes())
    with pytest.warns(CheckpointWarning, match="not used, since no GPT-2 has them: global_step"):
        load_checkpoint(tmp_path)


def test_the_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, appendix B.4, and the usual check value, unmasked.
    for data, expected in ((b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        rotated = (masked_crc32c(data) - 0xA282EAD8) & 0xFFFFFFFF
        assert (rotated << 15 | rotated >> 17) & 0xFFFFFFFF == expected


HEADER = {b"": number(1, 1)}
VARIABLE = described(np.zeros((2, 3), np.float32), 0)


@pytest.mark.parametrize(
    ("index", "message_"),
    [
        (b"", "does not end as a table does"),
        (table(HEADER)[:-1], "does not end as a table does"),
        (b"\1" + table(HEADER)[1:], "another checksum"),
        (table({b"": number(1, 1) + number(2, 1)}), "in 1 files, or big-endian"),
        (table({b"a": VARIABLE}), "in 0 files"),
        (table({b"": number(1, 10**6)}), "in 1000000 files"),
        (table(HEADER | {b"a": VARIABLE + number(3, 4)}), "in file 4 of 1"),
        (table(HEADER | {b"a": VARIABLE + message(7, b"")}), "is in slices"),
        (table(HEADER | {b"a": VARIABLE + number(1, 7)}), "of a type that gptwo does not read"),
        (table(HEADER | {b"a": VARIABLE + number(5, 23)}), "takes 23 bytes, which are not those of its shape"),
        (table(HEADER | {b"a": VARIABLE + number(4, 1)}), "ends at byte 25, but the file has 24"),
        (table(HEADER | {b"a": VARIABLE + number(2, 5)}), "a number stands where a message should"),
        (table(HEADER | {b"a": VARIABLE + message(4, b"")}), "a message stands where a number should"),
        (table(HEADER | {b"a": VARIABLE + varint(9 << 3 | 2) + varint(99)}), "a message is cut short"),
        (table(HEADER | {b"a" * 300: VARIABLE}), "not sorted, too long or too many"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path: Path, index: bytes, message_: str) -> None:
    (tmp_path / "m.index").write_bytes(index)
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(24))
    with pytest.raises(CheckpointError, match=message_):
        read_bundle(tmp_path / "m.index")


def test_what_is_missing_or_short_is_named(tmp_path: Path) -> None:
    write_tensorflow(tmp_path, CONFIG, ARRAYS)
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001: variable model/wte ends at byte .*cut short"):
        load_checkpoint(tmp_path)
    data.unlink()
    with pytest.raises(CheckpointError, match="is not there, though the index beside it names it"):
        load_checkpoint(tmp_path)
    os.mkfifo(data)  # which nobody waits for
    with pytest.raises(CheckpointError, match="is not there, though the index beside it names it"):
        load_checkpoint(tmp_path)
    (tmp_path / "hparams.json").unlink()
    os.mkfifo(tmp_path / "hparams.json")
    with pytest.raises(CheckpointError, match=r"hparams.json: is not there"):
        load_checkpoint(tmp_path / "model.ckpt.index")
    (tmp_path / "hparams.json").unlink()
    (tmp_path / "hparams.json").write_text('{"n_vocab": 3}')
    with pytest.raises(ConfigError, match="it lacks n_ctx, n_embd, n_head, n_layer"):
        load_checkpoint(tmp_path)
    (tmp_path / "hparams.json").write_text('{"n_vocab": 3, "n_ctx": -1, "n_embd": 8, "n_head": 2, "n_layer": 1}')
    with pytest.raises(ConfigError, match="n_positions is -1"):
        load_checkpoint(tmp_path)
