"""Which format a path is read in, and what is wrong with a transformers directory."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from numpy.testing import assert_array_equal
from tiny_checkpoint import CONFIG, arrays_as_bytes, random_arrays, write_directory

from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.formats import FORMATS
from gptwo.errors import CheckpointError, ConfigError


def write_index(directory: Path, weight_map: object) -> Path:
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def sharded(directory: Path) -> dict[str, str]:
    """A directory of two shards; returns its weight map, and leaves the index to be written."""
    arrays = random_arrays()
    names = list(arrays)
    write_directory(directory, {})
    (directory / "model.safetensors").unlink()
    weight_map = {}
    for number, part in ((1, names[:9]), (2, names[9:])):
        shard = f"model-0000{number}-of-00002.safetensors"
        (directory / shard).write_bytes(arrays_as_bytes({name: arrays[name] for name in part}))
        weight_map |= dict.fromkeys(part, shard)
    return weight_map


def test_the_table_names_every_format_once() -> None:
    names = ["packed", "llmc", "raw", "transformers", "nanogpt", "gguf", "tensorflow"]
    assert [known.name for known in FORMATS] == names
    assert all(known.looks_like for known in FORMATS)


def test_a_directory_and_its_weights_file_are_read_alike(tmp_path: Path) -> None:
    arrays = random_arrays()
    directory = write_directory(tmp_path / "m", arrays)
    for path in (directory, directory / "model.safetensors", str(directory)):
        checkpoint = load_checkpoint(path)
        assert checkpoint.path == Path(path)
        assert checkpoint.config == CONFIG.replace(extra={"architectures": ["GPT2LMHeadModel"]})
        for name, array in arrays.items():
            assert_array_equal(checkpoint.tensors[name].float32(), array)


def test_what_is_no_checkpoint_is_refused_with_the_formats_that_are(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(
            CheckpointError, match=r"no known format is there \(packed: .*; transformers: .*; nanogpt: ckpt.pt"
        ):
            load_checkpoint(path)


def test_what_lies_beside_the_model_of_a_run_leads_to_the_model(tmp_path: Path) -> None:
    step = tmp_path / "run" / "checkpoints" / "step-00000200"
    adapter = tmp_path / "run" / "adapter"
    for directory, name in ((step, "state.pt"), (adapter, "adapter_config.json")):
        directory.mkdir(parents=True)
        (directory / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter: holds an adapter \(LoRA\), which is no model by itself"):
        load_checkpoint(adapter)
    for name in ("train.toml", "metrics.jsonl"):
        (tmp_path / "run" / name).write_text("")
    for path in (step, adapter, step.parent, tmp_path / "run"):
        with pytest.raises(CheckpointError, match="is of a training run that has not written its model yet"):
            load_checkpoint(path)
    model = write_directory(tmp_path / "run" / "model", random_arrays())
    for path in (step, adapter, step.parent):
        with pytest.raises(CheckpointError, match=f"is a part of a training run; its model is {model}$"):
            load_checkpoint(path)
    with pytest.raises(CheckpointError, match=f"run: holds no model itself; did you mean {model}"):
        load_checkpoint(tmp_path / "run")


def test_a_directory_without_a_configuration_says_so(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    (directory / "config.json").unlink()
    for path in (directory, directory / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"model.safetensors: there is no config.json beside it"):
            load_checkpoint(path)


def test_another_model_type_is_refused_by_name_before_its_weights_are_looked_at(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", {})
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (directory / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"config.json: model_type is 'llama'"):
        load_checkpoint(directory)


def test_safetensors_are_preferred_to_a_pickle(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    (directory / "pytorch_model.bin").write_bytes(b"never looked at")
    assert load_checkpoint(directory).tensors["wte.weight"].file.name == "model.safetensors"


@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
def test_a_tokenizer_beside_the_weights_is_found(tmp_path: Path, files: list[str]) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    for number, name in enumerate(files):
        assert load_checkpoint(directory).tokenizer_path is None, f"after {number} of {files}"
        (directory / name).write_text("{}")
    assert load_checkpoint(directory).tokenizer_path == directory
    assert load_checkpoint(directory / "model.safetensors").tokenizer_path == directory


def test_a_wrong_shape_names_the_shard_that_holds_it(tmp_path: Path) -> None:
    write_index(tmp_path, sharded(tmp_path))
    replace(CONFIG, n_inner=20).save(tmp_path / "config.json")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    assert str(caught.value) == f"checkpoint {shard}: tensor h.0.mlp.c_fc.weight has shape (4, 16), expected (4, 20)"


def test_shards_are_put_together(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path)
    index = write_index(tmp_path, weight_map)
    for path in (tmp_path, index):
        tensors = load_checkpoint(path).tensors
        for name, array in random_arrays().items():
            assert tensors[name].file.name == weight_map[name]
            assert_array_equal(tensors[name].float32(), array)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, sharded(tmp_path))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"index.json: its shard model-00002-of-00002.safetensors is not there"):
        load_checkpoint(tmp_path)


def test_a_tensor_that_is_not_in_its_shard_is_named(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path)
    write_index(tmp_path, {**weight_map, "ln_f.bias": "model-00001-of-00002.safetensors"})
    with pytest.raises(
        CheckpointError, match=r"00001-of-00002.safetensors: tensor ln_f.bias is missing, though model.saf"
    ):
        load_checkpoint(tmp_path)


def test_a_tensor_that_the_index_forgets_is_missing(tmp_path: Path) -> None:
    weight_map = sharded(tmp_path)
    del weight_map["ln_f.bias"]
    write_index(tmp_path, weight_map)
    with pytest.raises(CheckpointError, match=r"index.json: tensor ln_f.bias is missing"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "C:x.bin", "passwd", "", 3, None, ["x"]],
)
def test_an_index_reaches_no_file_outside_its_directory(tmp_path: Path, shard: object) -> None:
    (tmp_path / "secret.safetensors").write_bytes(arrays_as_bytes(random_arrays()))
    directory = tmp_path / "m"
    write_index(directory, sharded(directory) | {"ln_f.bias": shard})
    with pytest.raises(CheckpointError, match=r"tensor ln_f.bias is said to be in .*, which is no shard"):
        load_checkpoint(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[]", "it is not an object"),
        ("{}", "it has no weight_map"),
        ('{"weight_map": []}', "it has no weight_map"),
        ('{"weight_map": {"a": "x.bin", "a": "y.bin"}}', "it repeats the key 'a'"),
        ('{"weight_map": ' + "[" * 50_000 + "]" * 50_000 + "}", "it is nested too deeply"),
        ('{"weight_map": {}}', "tensor wte.weight is missing; the file holds no tensors"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    CONFIG.save(tmp_path / "config.json")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_called_one(tmp_path: Path, name: str) -> None:
    CONFIG.save(tmp_path / "config.json")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 548105171\n")
    with pytest.raises(CheckpointError, match="only a Git LFS pointer, not the weights; run `git lfs pull`"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "ckpt.pt"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, name: str) -> None:
    CONFIG.save(tmp_path / "config.json")
    os.mkfifo(tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(CheckpointError, match=r"no known format is there|has a config.json but no weights"):
            load_checkpoint(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
@pytest.mark.parametrize("locked", [".", "config.json", "model.safetensors"])
def test_what_may_not_be_read_is_a_typed_error(tmp_path: Path, locked: str) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    (directory / locked).chmod(0)
    try:
        with pytest.raises((CheckpointError, ConfigError), match="cannot be read"):
            load_checkpoint(directory)
    finally:
        (directory / locked).chmod(0o700)
