"""Saving: all of it or nothing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tiny_checkpoint import CONFIG, random_arrays, write_directory

from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.errors import CheckpointError, InvalidRequestError, TokenizerError


class Tokenizer:
    def save(self, directory: Path, *, table: bool = False) -> None:
        (directory / "tokenizer.json").write_text("{}")
        (directory / "tokenizer_config.json").write_text("{}")


class BrokenTokenizer:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def save(self, directory: Path, *, table: bool = False) -> None:
        raise self.error


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def assert_holds(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    tensors = load_checkpoint(directory).tensors
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_array_equal(tensors[name].float32(), array)


def test_what_is_saved_is_loaded_as_it_was(tmp_path: Path) -> None:
    arrays = random_arrays()
    save_checkpoint(tmp_path / "a" / "b", CONFIG, arrays, Tokenizer(), card="# A card\n")
    directory = tmp_path / "a" / "b"
    assert sorted(contents(directory)) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (directory / "README.md").read_text() == "# A card\n"
    assert load_checkpoint(directory).tokenizer_path == directory
    assert_holds(directory, arrays)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_without_tokenizer_and_card_there_are_two_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m", CONFIG, random_arrays(), None)
    assert sorted(contents(tmp_path / "m")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize(("dtype", "type_name"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16")])
def test_the_configuration_names_the_type_of_the_file(tmp_path: Path, dtype: str, type_name: str) -> None:
    config = replace(CONFIG, extra={"torch_dtype": "float64", "dtype": "float64", "summary_type": "cls_index"})
    save_checkpoint(tmp_path / "m", config, random_arrays(), None, dtype=dtype)
    values = json.loads((tmp_path / "m" / "config.json").read_text())
    assert values["dtype"] == type_name
    assert "torch_dtype" not in values
    assert values["summary_type"] == "cls_index"
    assert {tensor.dtype for tensor in load_checkpoint(tmp_path / "m").tensors.values()} == {dtype}


def test_an_older_checkpoint_is_replaced_whole(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    save_checkpoint(directory, CONFIG, random_arrays(seed=1), Tokenizer(), card="old")
    (directory / "model-00001-of-00002.safetensors").write_bytes(b"")
    save_checkpoint(directory, CONFIG, random_arrays(seed=2), None)
    assert sorted(contents(directory)) == ["config.json", "model.safetensors"]
    assert_holds(directory, random_arrays(seed=2))
    assert list(tmp_path.iterdir()) == [directory]


def test_a_checkpoint_can_be_read_while_it_is_replaced_by_what_was_read(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    checkpoint = load_checkpoint(directory)
    save_checkpoint(directory, checkpoint.config, {n: t.float32() for n, t in checkpoint.tensors.items()}, None)
    assert_holds(directory, random_arrays())
    assert_array_equal(checkpoint.tensors["wte.weight"].float32(), random_arrays()["wte.weight"])


def test_a_directory_with_anything_else_in_it_is_left_alone(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    (directory / "thesis.tex").write_text("precious")
    before = contents(directory)
    with pytest.raises(CheckpointError, match=r"the directory holds 'thesis.tex', which is no part of a checkpoint"):
        save_checkpoint(directory, CONFIG, random_arrays(seed=2), None)
    assert contents(directory) == before
    assert list(tmp_path.iterdir()) == [directory]


def test_an_empty_directory_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    save_checkpoint(tmp_path / "m", CONFIG, random_arrays(), None)
    assert_holds(tmp_path / "m", random_arrays())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = write_directory(tmp_path / "real", random_arrays())
    (tmp_path / "link").symlink_to(target)
    save_checkpoint(tmp_path / "link", CONFIG, random_arrays(seed=2), None)
    assert (tmp_path / "link").is_symlink()
    assert_holds(target, random_arrays(seed=2))


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("a file")
    with pytest.raises(CheckpointError, match="it is a file, not a directory"):
        save_checkpoint(tmp_path / "m", CONFIG, random_arrays(), None)
    assert (tmp_path / "m").read_text() == "a file"


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"checkpoint .*file/m: cannot be saved: "):
        save_checkpoint(tmp_path / "file" / "m", CONFIG, random_arrays(), None)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind the superuser")
def test_a_directory_without_permission_is_a_typed_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"cannot be saved: .*Permission denied"):
        save_checkpoint(tmp_path / "m", CONFIG, random_arrays(), None)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(28, "No space left on device"), CheckpointError), (TokenizerError("x"), TokenizerError)],
)
def test_a_save_that_fails_half_way_leaves_the_old_checkpoint(
    tmp_path: Path, error: Exception, raised: type[Exception]
) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    before = contents(directory)
    with pytest.raises(raised):
        save_checkpoint(directory, CONFIG, random_arrays(seed=2), BrokenTokenizer(error))
    assert contents(directory) == before
    assert list(tmp_path.iterdir()) == [directory]


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    before = contents(directory)
    program = (
        "import resource, sys; sys.path.insert(0, sys.argv[2])\n"
        "from tiny_checkpoint import CONFIG, random_arrays\n"
        "from gptwo.checkpoint import save_checkpoint; from gptwo.errors import CheckpointError\n"
        "from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try: save_checkpoint(Path(sys.argv[1]), CONFIG, random_arrays(seed=2), None)\n"
        "except CheckpointError as error: print(error)\n"
    )
    arguments = [sys.executable, "-c", program, str(directory), str(Path(__file__).parent)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"checkpoint {directory}: cannot be saved: [Errno 27] File too large")
    assert contents(directory) == before
    assert list(tmp_path.iterdir()) == [directory]


def test_a_new_directory_that_cannot_take_its_place_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    before = contents(directory)
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name == "new" and Path(target) == directory:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(CheckpointError, match=r"cannot be saved: .*Input/output error"):
        save_checkpoint(directory, CONFIG, random_arrays(seed=2), None)
    assert contents(directory) == before
    assert list(tmp_path.iterdir()) == [directory]


KILLED = """
import os, signal, sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tiny_checkpoint import CONFIG, random_arrays
from gptwo.checkpoint import save_checkpoint
rename, left = Path.rename, int(sys.argv[3])
def rename_or_die(self, target):
    global left
    if left == 0: os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return rename(self, target)
Path.rename = rename_or_die
save_checkpoint(Path(sys.argv[1]), CONFIG, random_arrays(seed=2), None)
"""


@pytest.mark.parametrize("renames", [0, 1])
def test_the_next_save_clears_what_a_killed_one_left(tmp_path: Path, renames: int) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())
    arguments = [sys.executable, "-c", KILLED, str(directory), str(Path(__file__).parent), str(renames)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == (2 if renames == 0 else 1)
    with pytest.raises(CheckpointError):  # it fails, and the old one is there all the same
        save_checkpoint(directory, CONFIG, random_arrays(seed=3), BrokenTokenizer(OSError(28, "No space left")))
    assert_holds(directory, random_arrays())
    assert list(tmp_path.iterdir()) == [directory]


def test_ctrl_c_between_the_renames_and_while_the_old_one_is_removed_leaves_a_whole_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_directory(tmp_path / "m", random_arrays())

    def once(function: Callable[..., Any], call: int) -> Callable[..., Any]:
        calls = itertools.count()

        def interrupted(*arguments: Any, **options: Any) -> Any:
            if next(calls) == call:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return interrupted

    for owner, name, call, kept in ((Path, "rename", 0, 0), (Path, "rename", 1, 0), (shutil, "rmtree", 0, 3)):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, once(getattr(owner, name), call))
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(directory, CONFIG, random_arrays(seed=3), None)
        assert_holds(directory, random_arrays(seed=kept))
        assert list(tmp_path.iterdir()) == [directory]


def test_a_save_that_is_under_way_elsewhere_is_no_leftover(tmp_path: Path) -> None:
    class SavesMeanwhile(Tokenizer):
        def save(self, directory: Path, *, table: bool = False) -> None:
            save_checkpoint(tmp_path / "m", CONFIG, random_arrays(seed=2), None)
            super().save(directory, table=table)

    save_checkpoint(tmp_path / "m", CONFIG, random_arrays(seed=3), SavesMeanwhile())
    assert_holds(tmp_path / "m", random_arrays(seed=3))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_values_beyond_the_type_are_refused_by_tensor(tmp_path: Path) -> None:
    arrays = random_arrays()
    arrays["h.1.ln_2.weight"][2] = 1e5
    with pytest.raises(CheckpointError, match=r"h.1.ln_2.weight has values beyond the range of F16; save it as F32"):
        save_checkpoint(tmp_path / "m", CONFIG, arrays, None, dtype="F16")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="dtype is 'F8', expected one of F32, F16, BF16") as caught:
        save_checkpoint(tmp_path / "m", CONFIG, random_arrays(), None, dtype="F8")
    assert caught.value.param == "dtype"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ln_f.bias": None}, "tensor ln_f.bias is missing from what is to be saved"),
        ({"ln_f.bias": np.zeros(5, np.float32)}, r"tensor ln_f.bias to be saved has shape \(5,\), expected \(4,\)"),
        ({"ln_f.bias": np.zeros(4, np.int64)}, "tensor ln_f.bias to be saved is int64, no floats"),
        ({"lm_head.weight": np.zeros((11, 4), np.float32)}, "'lm_head.weight' is no tensor of this configuration"),
    ],
)
def test_tensors_that_do_not_fit_the_configuration_are_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {name: array for name, array in {**random_arrays(), **change}.items() if array is not None}
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / "m", CONFIG, arrays, None)
    assert list(tmp_path.iterdir()) == []
