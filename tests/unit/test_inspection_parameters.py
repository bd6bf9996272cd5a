"""What a checkpoint is made of, in every form that is read; what each format weighs; 6 GB in little memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import random_arrays, tiny_config

from gptwo.checkpoint import load_checkpoint, save_checkpoint
from gptwo.checkpoint.canonical import expected_shapes
from gptwo.cli import main
from gptwo.config import GPTConfig
from gptwo.conversion import convert
from gptwo.inspection.parameters import PARTS, format_sizes, module_tree, part_of, take_inventory


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_tensor_is_listed_with_its_norm(tmp_path: Path, dtype: str, tied: bool) -> None:
    config = tiny_config(tie_word_embeddings=tied)
    arrays = random_arrays(config)
    save_checkpoint(tmp_path / "model", config, arrays, None, dtype=dtype)
    found = take_inventory(tmp_path / "model")
    assert [(one.name, one.shape) for one in found.parameters] == list(expected_shapes(config))
    for one in found.parameters:
        array = load_checkpoint(tmp_path / "model").tensors[one.name].float32().astype(np.float64)
        assert one.norm == pytest.approx(math.sqrt((array**2).sum()), rel=1e-9)
        assert one.dtype == dtype
        assert one.count == array.size
    assert found.norms_read
    assert found.bytes == found.formats["f32"] // (1 if dtype == "F32" else 2)


def test_the_parts_add_up_to_the_whole() -> None:
    for config in (tiny_config(), tiny_config(tie_word_embeddings=False)):
        counts = dict.fromkeys(PARTS, 0)
        for name, shape in expected_shapes(config):
            counts[part_of(name)] += math.prod(shape)
        assert sum(counts.values()) == config.parameter_count
        assert counts["norms"] == (4 * config.n_layer + 2) * config.n_embd
        assert counts["attention"] == config.n_layer * (4 * config.n_embd**2 + 4 * config.n_embd)
        assert bool(counts["head"]) is not config.tie_word_embeddings


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_a_packed_model_weighs_what_was_said_before_it_was_packed(
    tiny_checkpoint: Path, tmp_path: Path, weights: str
) -> None:
    before = take_inventory(tiny_checkpoint)
    arguments = ["quantize", str(tiny_checkpoint), str(tmp_path / "out"), "--weights", weights, "--no-report"]
    assert main(arguments) == 0
    packed = take_inventory(tmp_path / "out")
    unfold = sum(one.bytes for one in packed.parameters if one.name == "unfold")
    assert unfold in (0, 4 * packed.config.n_embd)
    assert packed.bytes - unfold == before.formats[weights]
    assert packed.formats == before.formats
    by_name = {one.name: one for one in packed.parameters}
    assert by_name["h.0.attn.c_attn.weight"].dtype == weights
    assert by_name["h.0.attn.c_attn.weight"].shape == (16, 48)
    assert by_name["h.0.attn.c_attn.weight"].norm is None
    assert by_name["wte.weight"].dtype == ("int8" if weights == "int4" else weights)
    assert by_name["ln_f.weight"].norm is not None


def test_nanogpts_checkpoint_is_listed_under_the_same_names(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="a pickle is read with PyTorch")
    config = tiny_config(vocab_size=50, n_positions=8)
    arrays = random_arrays(config)
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    state = {
        f"_orig_mod.transformer.{name}": torch.tensor(array.T.copy() if name.endswith(turned) else array)
        for name, array in arrays.items()
    }
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "bias": True, "vocab_size": 50, "dropout": 0.0}
    torch.save({"model": state, "model_args": sizes}, tmp_path / "ckpt.pt")
    found = take_inventory(tmp_path / "ckpt.pt")
    assert found.format == "nanogpt"
    assert [(one.name, one.shape) for one in found.parameters] == list(expected_shapes(config))
    norms = {one.name: one.norm for one in found.parameters}
    assert norms["h.1.mlp.c_fc.weight"] == pytest.approx(np.linalg.norm(arrays["h.1.mlp.c_fc.weight"]), rel=1e-5)


def test_norms_are_left_out_where_nobody_wants_them(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(one.norm is None for one in take_inventory(tiny_checkpoint, norms=False).parameters)
    monkeypatch.setitem(take_inventory.__globals__, "NORMS_UP_TO", 1000)
    assert not take_inventory(tiny_checkpoint).norms_read
    told: list[float] = []
    asked = take_inventory(tiny_checkpoint, norms=True, on_read=told.append)
    assert all(one.norm is not None for one in asked.parameters)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_numbers_that_are_none_make_a_norm_that_is_none(tmp_path: Path) -> None:
    config = tiny_config()
    arrays = random_arrays(config)
    arrays["h.0.ln_1.bias"][3] = np.nan
    arrays["h.0.ln_2.bias"][3] = np.inf
    arrays["ln_f.bias"][:] = 3e38
    save_checkpoint(tmp_path / "model", config, arrays, None)
    norms = {one.name: one.norm for one in take_inventory(tmp_path / "model").parameters}
    assert math.isnan(norms["h.0.ln_1.bias"])
    assert norms["h.0.ln_2.bias"] == math.inf
    assert norms["ln_f.bias"] == pytest.approx(3e38 * 4, rel=1e-6)


def test_the_tree_holds_every_shape() -> None:
    config = tiny_config(tie_word_embeddings=False)
    tree = module_tree(config)
    assert list(tree) == ["wte", "wpe", "h", "ln_f", "lm_head"]
    assert tree["h"]["1"]["mlp"]["c_fc"] == {"weight": (16, 64), "bias": (64,)}


def test_published_sizes_weigh_what_is_known() -> None:
    sizes = format_sizes(GPTConfig.published("gpt2"))
    assert sizes["f32"] == 4 * 124_439_808
    assert sizes["f16"] == 2 * 124_439_808
    assert sizes["int4"] < sizes["int8"] < sizes["bf16"] < sizes["f32"]
    assert sizes["f16"] < sizes["bf16"]  # where vectors and positions stay float32
    assert (round(sizes["q8_0"] / 1e6, 1), round(sizes["q4_0"] / 1e6, 1)) == (134.9, 92.4)


@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_weighs_what_was_promised(tmp_path: Path, tied: bool) -> None:
    pytest.importorskip("gguf", reason="needs the extra `gguf`")
    config = tiny_config(n_embd=32, n_head=2, tie_word_embeddings=tied)
    arrays = {name: np.ones(shape, np.float32) for name, shape in expected_shapes(config)}
    save_checkpoint(tmp_path / "source", config, arrays, None)
    for dtype in ("q8_0", "q4_0"):
        convert(tmp_path / "source", tmp_path / f"{dtype}.gguf", "gguf", dtype=dtype, with_tokenizer=False)
        found = take_inventory(tmp_path / f"{dtype}.gguf")
        assert found.bytes == found.formats[dtype]
    for other in ({"n_embd": 24}, {"activation_function": "relu"}):
        assert format_sizes(config.replace(n_head=2, **other))["q8_0"] is None


def sparse_checkpoint(directory: Path, config: GPTConfig) -> Path:
    """A transformers directory whose weights are a hole: 6 GB that take no room on the disk."""
    directory.mkdir()
    config.save(directory / "config.json")
    header, end = {}, 0
    for name, shape in expected_shapes(config):
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return directory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory from /proc")
def test_a_file_of_6_gb_is_shown_in_less_than_100_mb_of_memory(tmp_path: Path) -> None:
    model = sparse_checkpoint(tmp_path / "xl", GPTConfig.published("gpt2-xl"))
    # getrusage would count what the process that started it held.
    code = (
        "import sys; from gptwo.cli import main; code = main(sys.argv[1:])\n"
        "print(open('/proc/self/status').read(), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", model, "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["bytes"] == 4 * 1_557_611_200
    assert len(found["tensors"]) == 48 * 12 + 4
    assert all(one["norm"] is None for one in found["tensors"])
    peak = next(line for line in done.stderr.splitlines() if line.startswith("VmHWM:"))
    assert int(peak.split()[1]) < 100_000
