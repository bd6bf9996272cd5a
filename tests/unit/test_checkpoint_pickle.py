"""PyTorch's pickles: what is read, what is refused, and that nothing in them runs."""

from __future__ import annotations

import os
import pickle
import random
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from tiny_checkpoint import CONFIG, random_arrays

from gptwo.checkpoint import load_checkpoint
from gptwo.checkpoint.torch_pickle import load_pickle, stored_tensors
from gptwo.errors import CheckpointError, MissingDependencyError, UnsafeCheckpointError


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch '{self.touched}'",))


class EvalPayload(Payload):
    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.touched)!r}, 'w')",))


@pytest.mark.parametrize("payload", [Payload, EvalPayload])
@pytest.mark.parametrize("how", ["zip", "legacy", *range(6)])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "ckpt.pt"])
def test_a_pickle_with_code_in_it_is_refused_and_the_code_is_not_run(
    tmp_path: Path, payload: type[Payload], how: str | int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # even then
    touched = tmp_path / "touched"
    content = {"model": {"wte.weight": payload(touched)}, "model_args": {}}
    file = tmp_path / name
    CONFIG.save(tmp_path / "config.json")
    if isinstance(how, int):
        file.write_bytes(pickle.dumps(content, protocol=how))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "zip")
    for path in (tmp_path, file):
        with pytest.raises(UnsafeCheckpointError, match="refused, because its pickle") as caught:
            load_checkpoint(path)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)
    assert not touched.exists()


@pytest.mark.parametrize("value", [torch.nn.Linear(2, 2), np.float64(1), Path("x"), random.Random(0)])
def test_objects_other_than_tensors_and_plain_values_are_refused_by_name(tmp_path: Path, value: object) -> None:
    torch.save({"a": value}, tmp_path / "a.bin")
    with pytest.raises(UnsafeCheckpointError, match=r"asks for [\w.]+, which is neither a tensor nor a plain value"):
        load_pickle(tmp_path / "a.bin")


def test_without_torch_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[torch\]'"):
        load_pickle(tmp_path / "a.bin")


def test_a_torch_whose_safe_reading_is_not_safe_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({}, tmp_path / "a.bin")
    for version, accepted in (("2.5.1+cu124", False), ("2.6.0", True), ("2.13.0+cpu", True), ("3.0", True)):
        monkeypatch.setattr(torch, "__version__", version)
        if accepted:
            assert load_pickle(tmp_path / "a.bin") == {}
        else:
            with pytest.raises(MissingDependencyError, match=r"needs PyTorch 2.6 or newer, this is 2.5.1"):
                load_pickle(tmp_path / "a.bin")


@pytest.mark.parametrize("old_container", [False, True])
def test_tensors_of_every_kind_of_storage_are_read(tmp_path: Path, old_container: bool) -> None:
    base = torch.randn(6, 8)
    shared = torch.randn(12)
    tensors = OrderedDict(
        transposed=base.T,
        strided=base[::2, 1::3],
        shared_whole=shared,
        shared_part=shared[4:10].view(2, 3),
        parameter=torch.nn.Parameter(torch.randn(3)),
        wants_gradient=torch.randn(4, requires_grad=True),
        bfloat16=torch.randn(3, 4).to(torch.bfloat16),
        bfloat16_transposed=torch.randn(3, 4).to(torch.bfloat16).T,
        float16=torch.randn(5).half(),
        float64=torch.randn(5).double(),
        scalar=torch.tensor(2.5),
        none=torch.zeros(0, 3),
        expanded=torch.tensor([1.0, 2.0]).expand(3, 2),
    )
    file = tmp_path / "a.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=not old_container)
    stored = stored_tensors(file, load_pickle(file))
    assert list(stored) == list(tensors)
    for name, tensor in tensors.items():
        assert stored[name].shape == tuple(tensor.shape)
        assert not stored[name].raw.flags.writeable
        assert_array_equal(stored[name].float32(), tensor.detach().float().numpy(), err_msg=name)
    assert stored["bfloat16"].raw.dtype == np.uint16
    assert np.shares_memory(stored["shared_whole"].raw, stored["shared_part"].raw)


def test_integers_are_read_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    torch.save(
        {"i": torch.arange(3), "b": torch.tensor([True, False]), "u": torch.tensor([255], dtype=torch.uint8)}, file
    )
    stored = stored_tensors(file, load_pickle(file))
    assert {name: tensor.dtype for name, tensor in stored.items()} == {"i": "I64", "b": "BOOL", "u": "U8"}
    assert_array_equal(stored["i"].raw, [0, 1, 2])
    assert_array_equal(stored["b"].raw, [1, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "it holds no state dict but one list"),
        (torch.ones(2), "it holds no state dict but one Tensor"),
        ({"epoch": 3}, "epoch in its state dict is no tensor but one int"),
        ({"state_dict": {"a": torch.ones(1)}}, "state_dict in its state dict is no tensor but one dict"),
        ({1: torch.ones(1)}, "has a key that is no string but 1"),
        ({"s": torch.ones(2).to_sparse()}, "tensor s is a torch.sparse_coo tensor of torch.float32"),
        ({"c": torch.ones(2, dtype=torch.complex64)}, "tensor c is a torch.strided tensor of torch.complex64"),
        ({"m": torch.ones(2, device="meta")}, "tensor m is a torch.strided tensor of torch.float32 on meta"),
        ({"e": torch.ones(1).expand(10**9)}, "tensor e claims 4000000000 bytes, more than the file has"),
    ],
)
def test_a_state_dict_of_anything_but_plain_tensors_is_an_error(tmp_path: Path, content: object, message: str) -> None:
    CONFIG.save(tmp_path / "config.json")
    file = tmp_path / "pytorch_model.bin"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(file)
    assert str(file) in str(caught.value)
    assert type(caught.value) is CheckpointError


@pytest.mark.parametrize(
    "content", [b"", b"P", b"PK", b"PK\x03\x04", b"hello world", b"\x80", b"\x80\x02", b"\0" * 4096]
)
def test_a_file_that_is_no_pickle_is_broken_not_unsafe(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.bin"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"PyTorch file") as caught:
        load_pickle(file)
    assert type(caught.value) is CheckpointError
    assert "\n" not in str(caught.value)


def test_an_absent_file_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_pickle(tmp_path / "none.bin")


def test_a_compressed_record_is_refused_so_that_a_small_file_cannot_unpack_to_a_large_one(tmp_path: Path) -> None:
    stored, compressed = tmp_path / "stored.bin", tmp_path / "compressed.bin"
    torch.save({"a": torch.zeros(1_000_000)}, stored)
    with zipfile.ZipFile(stored) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert compressed.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match=r"its record stored/data.pkl is compressed"):
        load_pickle(compressed)


@pytest.mark.parametrize("old_container", [False, True])
def test_a_few_bytes_that_ask_for_much_memory_are_refused(tmp_path: Path, old_container: bool) -> None:
    asks = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."  # bytearray(2**31 - 1)
    if old_container:
        (tmp_path / "a.bin").write_bytes(asks)
    else:
        with zipfile.ZipFile(tmp_path / "a.bin", "w") as archive:
            archive.writestr("a/data.pkl", asks)
            archive.writestr("a/version", "3\n")
    with pytest.raises(UnsafeCheckpointError, match="its pickle asks for bytearray"):
        load_pickle(tmp_path / "a.bin")


@pytest.mark.parametrize("old_container", [False, True])
def test_a_damaged_pickle_is_a_typed_error_or_still_tensors(tmp_path: Path, old_container: bool) -> None:
    whole, file = tmp_path / "whole.bin", tmp_path / "pytorch_model.bin"
    CONFIG.save(tmp_path / "config.json")
    state = {name: torch.from_numpy(array) for name, array in random_arrays().items()}
    torch.save(state, whole, _use_new_zipfile_serialization=not old_container)
    content = whole.read_bytes()
    generator = random.Random(0)
    outcomes = {"read": 0, "refused": 0}  # a KeyError below would be a message of many lines
    for attempt in range(300):
        damaged = bytearray(content)
        if attempt % 3 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        else:
            for _ in range(generator.choice((1, 1, 8, 200))):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        file.write_bytes(damaged)
        try:
            checkpoint = load_checkpoint(file)
            for tensor in checkpoint.tensors.values():
                tensor.float32()
            outcomes["read"] += 1
        except CheckpointError as error:
            outcomes["refused" if "\n" not in str(error) else "refused in many lines"] += 1
    assert min(outcomes.values()) > 10
