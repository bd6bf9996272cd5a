"""Conversion: what every format keeps to the bit, what it refuses to say, and where it may be written."""

from __future__ import annotations

import dataclasses
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limited_files import files_limited_to
from numpy.testing import assert_array_equal

from gptwo.checkpoint import TARGETS, load_checkpoint, save_checkpoint
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.checkpoint.saving import locked
from gptwo.checkpoint.stored import Checkpoint
from gptwo.config import GPTConfig
from gptwo.conversion import convert
from gptwo.errors import CheckpointError, CheckpointWarning, InvalidRequestError, MissingDependencyError, TokenizerError
from gptwo.tokenizer import Tokenizer

pytest.importorskip("gguf", reason="needs the extra `gguf`")
torch = pytest.importorskip("torch", reason="nanoGPT's checkpoints need the extra `torch`")

FORMATS = tuple(TARGETS)
TOKENIZER = Tokenizer.train(["Speak, speak. We know't! é 😀 " * 4], 290)
CONFIG = GPTConfig(vocab_size=301, n_positions=7, n_embd=12, n_layer=2, n_head=3, bos_token_id=None, eos_token_id=None)


def arrays_of(config: GPTConfig, dtype: str = "F32", seed: int = 0) -> dict[str, np.ndarray]:
    """Random values, those that bfloat16 or float16 have where asked for."""
    draw = np.random.default_rng(seed)
    arrays = {name: draw.standard_normal(shape, np.float32) for name, shape in expected_shapes(config)}
    if dtype == "F16":
        return {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items()}
    if dtype == "BF16":
        return {name: (array.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, array in arrays.items()}
    return arrays


def source_in(
    directory: Path, config: GPTConfig = CONFIG, *, dtype: str = "F32", tokenizer: Tokenizer | None = TOKENIZER
) -> tuple[Path, dict[str, np.ndarray]]:
    arrays = arrays_of(config, dtype)
    save_checkpoint(directory / "source", config, arrays, tokenizer, dtype=dtype)
    return directory / "source", arrays


def place(directory: Path, name: str, to: str) -> Path:
    return directory / (f"{name}.gguf" if to == "gguf" else name)


def assert_holds(checkpoint: Checkpoint, arrays: dict[str, np.ndarray]) -> None:
    assert checkpoint.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        found = np.ascontiguousarray(checkpoint.tensors[name].float32())
        assert_array_equal(found.view(np.uint32), array.view(np.uint32), err_msg=name)


@pytest.mark.parametrize(("first", "second"), [*itertools.product(FORMATS, FORMATS)])
def test_every_pair_of_formats_keeps_every_bit(tmp_path: Path, first: str, second: str) -> None:
    source, arrays = source_in(tmp_path)
    one, other, back = place(tmp_path, "one", first), place(tmp_path, "other", second), tmp_path / "back"
    for start, end, to in ((source, one, first), (one, other, second), (other, back, "hf")):
        done = convert(start, end, to, any_gelu=True)
        assert (done.dtype, done.tokenizer, done.tensors) == ("f32", True, len(arrays))
    found = load_checkpoint(back)
    assert_holds(found, arrays)
    assert load_checkpoint(one).format == {"hf": "transformers"}.get(first, first)
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "inner_size", "layer_norm_epsilon")
    assert [getattr(found.config, name) for name in sizes] == [getattr(CONFIG, name) for name in sizes]
    tokenizer = Tokenizer.load(back)
    assert tokenizer.encode("We know't! naïve 😀") == TOKENIZER.encode("We know't! naïve 😀")
    assert tokenizer.end_of_text_id == TOKENIZER.end_of_text_id
    assert tokenizer.vocabulary == TOKENIZER.vocabulary


@pytest.mark.parametrize(
    ("to", "dtype"),
    [(to, dtype) for to in ("hf", "nanogpt", "gguf") for dtype in ("F16", "BF16")] + [("llmc", "BF16")],
)
def test_a_narrow_type_is_kept_to_the_bit(tmp_path: Path, to: str, dtype: str) -> None:
    source, arrays = source_in(tmp_path, dtype=dtype)
    target = place(tmp_path, "target", to)
    assert convert(source, target, to, any_gelu=True).dtype == dtype.lower()
    found = load_checkpoint(target)
    assert_holds(found, arrays)
    assert found.tensors["h.0.mlp.c_fc.weight"].dtype == dtype
    convert(target, tmp_path / "back", "hf", dtype=dtype.lower())
    assert_holds(load_checkpoint(tmp_path / "back"), arrays)
    assert {tensor.dtype for tensor in load_checkpoint(tmp_path / "back").tensors.values()} == {dtype}


@pytest.mark.parametrize("to", ["hf", "raw", "gguf"])
def test_an_untied_head_and_other_widths_are_kept_where_a_format_has_them(tmp_path: Path, to: str) -> None:
    config = CONFIG.replace(tie_word_embeddings=False, n_inner=20, layer_norm_epsilon=1e-6, eos_token_id=3)
    source, arrays = source_in(tmp_path, config)
    target = place(tmp_path, "target", to)
    convert(source, target, to)
    found = load_checkpoint(target)
    assert_holds(found, arrays)
    kept = ("tie_word_embeddings", "inner_size", "layer_norm_epsilon", "eos_token_id", "activation_function")
    assert [getattr(found.config, name) for name in kept] == [getattr(config, name) for name in kept]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_sizes_go_through_every_format(data: st.DataObject) -> None:
    heads, size = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    config = GPTConfig(
        vocab_size=data.draw(st.integers(1, 260)),
        n_positions=data.draw(st.integers(1, 9)),
        n_embd=heads * size,
        n_layer=data.draw(st.integers(1, 3)),
        n_head=heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    order = data.draw(st.permutations(FORMATS))
    with tempfile.TemporaryDirectory() as directory:
        at, arrays = source_in(Path(directory), config, tokenizer=None)
        for to in order:
            target = place(Path(directory), to, to)
            assert not convert(at, target, to, any_gelu=True, with_tokenizer=False).tokenizer
            at = target
            assert_holds(load_checkpoint(at), arrays)


@pytest.mark.parametrize(("dtype", "worst"), [("q8_0", 0.02), ("q4_0", 0.3)])
def test_blocks_of_eight_and_four_bits_are_near_and_load(tmp_path: Path, dtype: str, worst: float) -> None:
    config = CONFIG.replace(n_embd=32, n_head=4)
    source, arrays = source_in(tmp_path, config)
    done = convert(source, tmp_path / "m.gguf", "gguf", dtype=dtype.upper())  # as llama.cpp spells it
    assert done.dtype == dtype
    found = load_checkpoint(tmp_path / "m.gguf").tensors
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        assert np.abs(found[name].float32() - array).max() < worst * np.abs(array).max()
    assert_array_equal(found["wpe.weight"].float32(), arrays["wpe.weight"])
    assert found["wte.weight"].dtype == "Q8_0"
    again = convert(tmp_path / "m.gguf", tmp_path / "back", "hf")
    assert again.dtype == "f32"
    assert_array_equal(
        load_checkpoint(tmp_path / "back").tensors["wte.weight"].float32(), found["wte.weight"].float32()
    )


def test_a_tied_head_that_a_gguf_holds_twice_is_tied(tmp_path: Path) -> None:
    config = CONFIG.replace(tie_word_embeddings=False)
    arrays = arrays_of(config)
    arrays["lm_head.weight"] = arrays["wte.weight"].copy()
    save_checkpoint(tmp_path / "source", config, arrays, None)
    convert(tmp_path / "source", tmp_path / "m.gguf", "gguf", with_tokenizer=False)
    assert load_checkpoint(tmp_path / "m.gguf").config.tie_word_embeddings


REFUSED = {
    "activation_function": ("relu", ("nanogpt", "llmc", "gguf")),
    "scale_attn_weights": (False, ("nanogpt", "llmc", "gguf")),
    "scale_attn_by_inverse_layer_idx": (True, ("nanogpt", "llmc", "gguf")),
    "tie_word_embeddings": (False, ("nanogpt", "llmc")),
    "layer_norm_epsilon": (1e-6, ("nanogpt", "llmc")),
    "n_inner": (16, ("nanogpt", "llmc")),
}


@pytest.mark.parametrize(("field", "to"), [(field, to) for field in REFUSED for to in REFUSED[field][1]])
def test_what_a_format_cannot_say_is_refused_and_nothing_is_written(tmp_path: Path, field: str, to: str) -> None:
    activation = "gelu" if to == "nanogpt" else "gelu_new"
    config = CONFIG.replace(**{"activation_function": activation, field: REFUSED[field][0]})
    source, _ = source_in(tmp_path, config)
    with pytest.raises(CheckpointError, match=rf"cannot hold this model: its {field} is .*, and there it is always"):
        convert(source, place(tmp_path, "target", to), to, any_gelu=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_two_gelus_are_one_only_if_one_says_so(tmp_path: Path) -> None:
    source, _ = source_in(tmp_path)
    with pytest.raises(CheckpointError, match=r"activation_function is gelu_new, .* always gelu .*--any-gelu"):
        convert(source, tmp_path / "target", "nanogpt")
    convert(source, tmp_path / "target", "nanogpt", any_gelu=True)
    assert load_checkpoint(tmp_path / "target").config.activation_function == "gelu"
    source, _ = source_in(tmp_path / "other", CONFIG.replace(activation_function="gelu_pytorch_tanh"))
    convert(source, tmp_path / "same", "llmc")  # another name of the same function


@pytest.mark.parametrize("to", ["llmc", "raw", "gguf", "nanogpt", "hf"])
def test_a_tokenizer_of_characters_goes_where_it_can(tmp_path: Path, to: str) -> None:
    tokenizer = Tokenizer.characters(["héllo wörld 😀"])
    source, _ = source_in(tmp_path, tokenizer=tokenizer)
    target = place(tmp_path, "target", to)
    if to == "gguf":
        with pytest.raises(TokenizerError, match="GGUF holds tokenizers of GPT-2's kind"):
            convert(source, target, to)
        assert not target.exists()
        assert not convert(source, target, to, with_tokenizer=False).tokenizer
        return
    convert(source, target, to, any_gelu=True)
    assert Tokenizer.load(target).encode("héllo 😀") == tokenizer.encode("héllo 😀")
    assert Tokenizer.load(target).end_of_text_id == tokenizer.end_of_text_id


def test_a_tokenizer_that_its_bytes_do_not_tell_is_refused_by_formats_that_hold_no_more(tmp_path: Path) -> None:
    from tokenizers import AddedToken

    inner = Tokenizer.train(["Speak, speak. " * 4], 280)._inner
    inner.add_special_tokens([AddedToken("<|user|>", special=True, normalized=False)])
    tokenizer = Tokenizer(inner)
    source, _ = source_in(tmp_path, tokenizer=tokenizer)
    for to in ("llmc", "raw"):
        with pytest.raises(TokenizerError, match="holds the bytes of tokens and no merges"):
            convert(source, tmp_path / to, to)
    convert(source, tmp_path / "m.gguf", "gguf")
    found = Tokenizer.load(tmp_path / "m.gguf")
    assert found.vocabulary == tokenizer.vocabulary
    assert found.encode("<|user|>speak", allow_special=True) == tokenizer.encode("<|user|>speak", allow_special=True)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["m.gguf", "source"]


def test_gpt2s_own_vocabulary_comes_back_from_its_bytes(tmp_path: Path, gpt2_vocabulary: Path) -> None:
    tokenizer = Tokenizer.load(gpt2_vocabulary)
    from gptwo.vocabulary_files import vocabulary_bytes

    (tmp_path / "gpt2_tokenizer.bin").write_bytes(vocabulary_bytes(tokenizer.vocabulary, llmc=True))
    assert Tokenizer.load(tmp_path).vocabulary == tokenizer.vocabulary


def test_openais_names_of_the_vocabulary_are_read(tmp_path: Path, gpt2_vocabulary: Path) -> None:
    for name, theirs in (("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")):
        (tmp_path / theirs).write_bytes((gpt2_vocabulary / name).read_bytes())
    assert Tokenizer.exists(tmp_path)
    assert Tokenizer.load(tmp_path).encode("long long ago, I was") == [6511, 890, 2084, 11, 314, 373]


def test_the_end_of_the_text_is_known_where_only_the_tokenizer_names_it(tmp_path: Path) -> None:
    source, _ = source_in(tmp_path)
    convert(source, tmp_path / "llmc", "llmc")
    assert load_checkpoint(tmp_path / "llmc").config.eos_token_id is None
    convert(tmp_path / "llmc", tmp_path / "back", "hf")
    assert load_checkpoint(tmp_path / "back").config.eos_token_id == TOKENIZER.end_of_text_id


# ---- where it may be written


def test_what_is_there_stays_unless_replacing_it_is_asked_for(tmp_path: Path) -> None:
    source, arrays = source_in(tmp_path)
    for to in FORMATS:
        target = place(tmp_path, to, to)
        convert(source, target, to, any_gelu=True)
        with pytest.raises(CheckpointError, match="is there already; --force replaces it"):
            convert(source, target, to, any_gelu=True)
        convert(source, target, to, any_gelu=True, force=True)
        assert_holds(load_checkpoint(target), arrays)
    (tmp_path / "raw" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds 'mine.txt'"):
        convert(source, tmp_path / "raw", "raw", force=True)
    (tmp_path / "folder" / "model.safetensors").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"holds 'model.safetensors'"):
        convert(source, tmp_path / "folder", "raw", force=True)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    source, arrays = source_in(tmp_path)
    convert(source, tmp_path / "m.gguf", "gguf")
    (tmp_path / "link.gguf").symlink_to(tmp_path / "m.gguf")
    (tmp_path / "link").symlink_to(source)
    for start, end, to in (
        (source, source, "hf"),
        (source / "model.safetensors", source, "raw"),
        (source, tmp_path / "link", "hf"),
        (tmp_path / "link", source, "hf"),
        (source, source / "inner", "raw"),
        (tmp_path / "m.gguf", tmp_path / "m.gguf", "gguf"),
        (tmp_path / "m.gguf", tmp_path / "link.gguf", "gguf"),
        (source, tmp_path, "raw"),
    ):
        with pytest.raises(CheckpointError, match="it is, holds or lies in what is converted"):
            convert(start, end, to, force=True)
    assert_holds(load_checkpoint(source), arrays)


def test_names_that_a_format_does_not_take_are_refused(tmp_path: Path) -> None:
    source, _ = source_in(tmp_path)
    for target, to, message in (
        ("model", "gguf", "GGUF is one file, whose name ends in .gguf"),
        ("model.bin", "llmc", "llm.c is written as a directory with model.bin in it"),
        ("ckpt.pt", "nanogpt", "nanoGPT is written as a directory with ckpt.pt in it"),
        ("model", "onnx", "to is 'onnx'"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            convert(source, tmp_path / target, to)
    with pytest.raises(InvalidRequestError, match=r"llm.c has no f16: its types are f32, bf16"):
        convert(source, tmp_path / "t", "llmc", dtype="f16")
    with pytest.raises(InvalidRequestError, match="dtype is 'f8'"):
        convert(source, tmp_path / "t", "llmc", dtype="f8")
    (tmp_path / "d.gguf").mkdir()
    with pytest.raises(CheckpointError, match="cannot be saved there: it is no file"):
        convert(source, tmp_path / "d.gguf", "gguf", force=True)


def test_values_that_a_type_cannot_hold_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    config = CONFIG.replace(n_embd=32, n_head=4)
    arrays = arrays_of(config)
    arrays["h.1.mlp.c_fc.weight"][0, 0] = 1e9
    save_checkpoint(tmp_path / "source", config, arrays, None)
    for to, dtype in (("gguf", "f16"), ("gguf", "q8_0"), ("gguf", "q4_0"), ("nanogpt", "f16"), ("hf", "f16")):
        with pytest.raises(CheckpointError, match=r"h.1.mlp.c_fc.weight has values beyond the range of"):
            convert(
                tmp_path / "source",
                place(tmp_path, "target", to),
                to,
                dtype=dtype,
                any_gelu=True,
                with_tokenizer=False,
            )
    with pytest.raises(CheckpointError, match="rows of 12, and Q8_0 comes in blocks of 32"):
        convert(source_in(tmp_path / "odd")[0], tmp_path / "odd.gguf", "gguf", dtype="q8_0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["odd", "source"]


def test_a_packed_model_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    from gptwo.cli import main

    assert main(["quantize", str(tiny_checkpoint), str(tmp_path / "packed"), "--no-report"]) == 0
    with pytest.raises(CheckpointError, match="is packed as int8, as only gptwo reads it"):
        convert(tmp_path / "packed", tmp_path / "m.gguf", "gguf")


@pytest.mark.parametrize("to", FORMATS)
def test_a_tokenizer_is_not_left_out_unsaid(tmp_path: Path, to: str) -> None:
    source, _ = source_in(tmp_path, tokenizer=None)
    target = place(tmp_path, "target", to)
    if to == "gguf":
        with pytest.raises(TokenizerError, match=r"no tokenizer, and whatever reads GGUF expects one .*--no-tok"):
            convert(source, target, to)
        assert not target.exists()
    else:
        with pytest.warns(CheckpointWarning, match="brings no tokenizer, and none is written; --tokenizer names one"):
            assert not convert(source, target, to, any_gelu=True).tokenizer
    assert not convert(source, target, to, any_gelu=True, with_tokenizer=False, force=True).tokenizer
    TOKENIZER.save(tmp_path / "words")
    assert convert(source, target, to, any_gelu=True, tokenizer=tmp_path / "words", force=True).tokenizer


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    source, _ = source_in(tmp_path, CONFIG.replace(vocab_size=270), tokenizer=None)
    TOKENIZER.save(tmp_path / "words")
    with pytest.raises(TokenizerError, match="has 277 tokens, more than the model's vocabulary of 270"):
        convert(source, tmp_path / "t", "raw", tokenizer=tmp_path / "words")


def test_without_the_library_gguf_is_refused_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, arrays = source_in(tmp_path)
    convert(source, tmp_path / "f32.gguf", "gguf")
    source, _ = source_in(tmp_path / "wide", CONFIG.replace(n_embd=32, n_head=4))
    convert(source, tmp_path / "q8.gguf", "gguf", dtype="q8_0")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingDependencyError, match=r"writing GGUF needs the library gguf: pip install '.\[gguf\]'"):
        convert(source, tmp_path / "t.gguf", "gguf")
    with pytest.raises(MissingDependencyError, match="which is in blocks, needs the library gguf"):
        load_checkpoint(tmp_path / "q8.gguf")
    assert_holds(load_checkpoint(tmp_path / "f32.gguf"), arrays)


def test_a_place_where_nothing_can_be_written_is_one_clear_error(tmp_path: Path) -> None:
    source, _ = source_in(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    for to in FORMATS:
        with pytest.raises(CheckpointError, match="cannot be saved"):
            convert(source, place(tmp_path / "file", "t", to), to, any_gelu=True)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("room", [500, 10_000])
def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, to: str, room: int) -> None:
    source, _ = source_in(tmp_path)
    with files_limited_to(room), pytest.raises(CheckpointError, match="cannot be saved"):
        convert(source, place(tmp_path, "t", to), to, any_gelu=True)
    assert list(tmp_path.iterdir()) == [source]


def test_the_next_conversion_to_a_file_clears_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    source, arrays = source_in(tmp_path)
    abandoned, held, other = (tmp_path / f".t.gguf.{kind * 8}.tmp" for kind in "ab-")
    for path in (abandoned, held, other):
        path.write_bytes(b"half a model")
    os.mkfifo(tmp_path / ".t.gguf.cccccccc.tmp")
    with locked(held):  # by a conversion that is under way
        convert(source, tmp_path / "t.gguf", "gguf")
    assert_holds(load_checkpoint(tmp_path / "t.gguf"), arrays)
    assert (abandoned.exists(), held.exists(), other.exists()) == (False, True, True)


# ---- how it is written


def test_tensors_are_taken_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gptwo.checkpoint.stored import StoredTensor

    source, _ = source_in(tmp_path, dtype="BF16")
    held: list[str] = []
    shares: list[float] = []
    float32, release = StoredTensor.float32, StoredTensor.release

    def take(tensor: StoredTensor) -> Any:
        held.append(tensor.name)
        assert len(held) == 1
        return float32(tensor)

    def let_go(tensor: StoredTensor) -> None:
        held.remove(tensor.name)
        release(tensor)

    monkeypatch.setattr(StoredTensor, "float32", take)
    monkeypatch.setattr(StoredTensor, "release", let_go)
    for to in ("hf", "llmc", "raw", "gguf"):
        held.clear()
        convert(source, place(tmp_path, to, to), to, dtype="f32", on_progress=shares.append)
    assert shares.count(max(shares)) == 4
    assert shares[: len(shares) // 4] == sorted(shares[: len(shares) // 4])


def test_llmcs_file_is_laid_out_as_its_own_script_does(tmp_path: Path) -> None:
    source, arrays = source_in(tmp_path)
    convert(source, tmp_path / "t", "llmc")
    data = (tmp_path / "t" / "model.bin").read_bytes()
    assert np.frombuffer(data, "<i4", 8).tolist() == [20240326, 3, 7, 301, 2, 3, 12, 384]
    assert not any(data[32:1024])
    values = np.frombuffer(data, "<f4", offset=1024)
    assert_array_equal(values[: 301 * 12], arrays["wte.weight"].ravel())
    assert not values[301 * 12 : 384 * 12].any()
    at = 384 * 12 + 7 * 12
    blocks = [(arrays[f"h.0.{kind}"], arrays[f"h.1.{kind}"]) for kind in KINDS]
    for both in blocks:
        for array in both:
            expected = array.T if array.ndim == 2 else array  # (out, in)
            assert_array_equal(values[at : at + array.size], expected.ravel())
            at += array.size
    assert values.size == at + 24
    tokens = (tmp_path / "t" / "gpt2_tokenizer.bin").read_bytes()
    assert np.frombuffer(tokens, "<u4", 4).tolist() == [20240328, 2, 277, 276]
    assert tokens[1024:1026] == b"\x01!"
    assert tokens.endswith(b"\x0d<|endoftext|>")


KINDS = [
    f"{part}.{kind}"
    for part in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    for kind in ("weight", "bias")
]


def test_the_raw_form_is_a_list_and_the_tensors_in_its_order(tmp_path: Path) -> None:
    import json

    source, arrays = source_in(tmp_path)
    convert(source, tmp_path / "t", "raw")
    entries = json.loads((tmp_path / "t" / "parameters.json").read_text())
    names = ["wte.weight", "wpe.weight", *(f"h.{i}.{kind}" for i in range(2) for kind in KINDS)]
    assert [entry["name"] for entry in entries] == [*names, "ln_f.weight", "ln_f.bias"]
    values = np.fromfile(tmp_path / "t" / "parameters.bin", "<f4")
    at = 0
    for entry in entries:
        array = values[at : at + entry["size"]].reshape(entry["shape"])
        assert_array_equal(array, arrays[entry["name"]])
        at += entry["size"]
    assert at == values.size


def test_the_report_says_what_was_written(tmp_path: Path) -> None:
    source, _ = source_in(tmp_path)
    done = dataclasses.asdict(convert(source, tmp_path / "t", "raw"))
    size = sum(path.stat().st_size for path in (tmp_path / "t").iterdir())
    assert done == {
        "path": tmp_path / "t",
        "source": "hf",
        "target": "raw",
        "dtype": "f32",
        "tensors": 28,
        "parameters": CONFIG.parameter_count,
        "bytes": size,
        "tokenizer": True,
        "activation": "gelu_new",
        "source_activation": "gelu_new",
    }
