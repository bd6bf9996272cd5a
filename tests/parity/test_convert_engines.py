"""What is converted says the same in the programs that it is converted for: equal greedy tokens on ten prompts.

transformers and nanoGPT's names are tried in the default tests; llama.cpp and CTranslate2 live in an environment of
their own, which GPTWO_PEERS_PYTHON names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

import gptwo
from gptwo.checkpoint import load_checkpoint
from gptwo.conversion import convert

pytest.importorskip("gguf", reason="needs the extra `gguf`")

PROMPTS = ["ROMEO:", "JULIET:\n", "First Citizen:", "Good my lord", "The", "What say", "To be, or", "\n\n", "é", " O"]
TOKENS = 32
WORKER = Path(__file__).with_name("peer_greedy.py")
PYTHON = os.environ.get("GPTWO_PEERS_PYTHON", sys.executable)


def peer(module: str) -> pytest.MarkDecorator:
    found = subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True, check=False)
    return pytest.mark.skipif(
        found.returncode != 0, reason=f"{module} is not installed; GPTWO_PEERS_PYTHON may name a Python that has it"
    )


@pytest.fixture(scope="module")
def ours() -> dict[str, list[list[int]]]:
    """The prompts' tokens, and the greedy ones that follow."""
    with gptwo.load("shakespeare", weights="f32") as model:
        assert model.tokenizer is not None
        prompts = [model.tokenizer.encode(prompt) for prompt in PROMPTS]
        params = gptwo.SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        return {"prompts": prompts, "greedy": [list(model.generate(prompt, params).token_ids) for prompt in prompts]}


def test_the_transformers_directory_says_the_same_in_transformers(
    tmp_path: Path, ours: dict[str, list[list[int]]]
) -> None:
    convert("shakespeare", tmp_path / "m.gguf", "gguf", dtype="f32")
    convert(tmp_path / "m.gguf", tmp_path / "hf", "hf")
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "hf").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    for text, prompt, greedy in zip(PROMPTS, ours["prompts"], ours["greedy"], strict=True):
        assert tokenizer.encode(text) == prompt
        with torch.no_grad():
            logits = model(torch.tensor([prompt + greedy])).logits[0]
        assert logits[len(prompt) - 1 : -1].argmax(1).tolist() == greedy


def test_nanogpts_checkpoint_has_what_its_model_asks_for(tmp_path: Path) -> None:
    convert("shakespeare", tmp_path / "nano", "nanogpt", dtype="f32", any_gelu=True)
    content = torch.load(tmp_path / "nano" / "ckpt.pt", weights_only=True)
    assert content["model_args"] == {
        "n_layer": 5,
        "n_head": 6,
        "n_embd": 192,
        "block_size": 256,
        "bias": True,
        "vocab_size": 1024,
        "dropout": 0.1,
    }
    state = content["model"]
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    source = load_checkpoint("shakespeare").tensors
    assert state.keys() == {"lm_head.weight", *(f"transformer.{name}" for name in source)}
    layer = torch.nn.Linear(192, 768)  # (out, in), as its modules have it
    with torch.no_grad():
        layer.weight.copy_(state["transformer.h.0.mlp.c_fc.weight"])
    np.testing.assert_array_equal(layer.weight.detach().numpy().T, source["h.0.mlp.c_fc.weight"].float32())


def greedy_of(engine: str, path: Path, prompts: list[list[int]], log: Path) -> dict[str, list[list[int]]]:
    order = json.dumps({"engine": engine, "path": str(path), "prompts": prompts, "texts": PROMPTS, "tokens": TOKENS})
    with log.open("wb") as errors:
        done = subprocess.run([PYTHON, str(WORKER)], input=order.encode(), stdout=subprocess.PIPE, stderr=errors)
    assert done.returncode == 0, log.read_text(errors="replace")[-2000:]
    answer: dict[str, list[list[int]]] = json.loads(done.stdout)
    return answer


def shares_alike(ones: list[list[int]], others: list[list[int]]) -> list[float]:
    """The share of each text that comes before the first token in which the other differs."""
    return [
        next((place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), TOKENS) / TOKENS
        for one, other in zip(ones, others, strict=True)
    ]


@pytest.mark.slow
@peer("llama_cpp")
@pytest.mark.parametrize(("dtype", "least"), [("f32", 1.0), ("f16", 0.9), ("bf16", 0.8), ("q8_0", 0.5), ("q4_0", 0.1)])
def test_the_gguf_says_the_same_in_llama_cpp(
    tmp_path: Path, ours: dict[str, list[list[int]]], dtype: str, least: float
) -> None:
    """Below f32, `least` is the share of the 32 tokens, on average over the prompts, before the first other one."""
    convert("shakespeare", tmp_path / "m.gguf", "gguf", dtype=dtype)
    found = greedy_of("llama_cpp", tmp_path / "m.gguf", ours["prompts"], tmp_path / "log")
    assert found["encoded"] == ours["prompts"]  # the tokenizer went along
    shares = shares_alike(found["greedy"], ours["greedy"])
    print(f"{dtype}: {shares.count(1.0)} of {len(PROMPTS)} texts alike, {np.mean(shares):.0%} before the first other")
    assert np.mean(shares) >= least
    with gptwo.load(tmp_path / "m.gguf") as model:
        assert model.generate(PROMPTS[0], gptwo.SamplingParams(max_tokens=4, temperature=0.0)).text


@pytest.mark.slow
@peer("llama_cpp")
def test_an_untied_head_and_a_padded_vocabulary_are_taken_by_llama_cpp(
    tmp_path: Path, ours: dict[str, list[list[int]]]
) -> None:
    from gptwo.checkpoint import save_checkpoint
    from gptwo.tokenizer import Tokenizer

    source = load_checkpoint("shakespeare")
    arrays = {name: tensor.float32() for name, tensor in source.tensors.items()}
    # A byte that Shakespeare never wrote is never likely; nor, then, are the ids that no token has.
    arrays["wte.weight"] = np.concatenate([arrays["wte.weight"], np.tile(arrays["wte.weight"][200], (7, 1))])
    noise = np.random.default_rng(0).normal(0.0, 0.02, arrays["wte.weight"].shape).astype(np.float32)
    arrays["lm_head.weight"] = arrays["wte.weight"] + noise
    config = source.config.replace(vocab_size=1031, tie_word_embeddings=False)
    assert source.tokenizer_path is not None
    save_checkpoint(tmp_path / "hf", config, arrays, Tokenizer.load(source.tokenizer_path))
    convert(tmp_path / "hf", tmp_path / "m.gguf", "gguf")
    found = greedy_of("llama_cpp", tmp_path / "m.gguf", ours["prompts"], tmp_path / "log")
    with gptwo.load(tmp_path / "hf") as model:
        params = gptwo.SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
        expected = [list(model.generate(prompt, params).token_ids) for prompt in ours["prompts"]]
    # With its noise the model wavers, and llama.cpp's GELU is a table in f16 whatever the weights are.
    assert np.mean(shares_alike(found["greedy"], expected)) >= 0.8


@pytest.mark.slow
@peer("ctranslate2")
def test_the_transformers_directory_says_the_same_through_ctranslate2s_converter(
    tmp_path: Path, ours: dict[str, list[list[int]]]
) -> None:
    convert("shakespeare", tmp_path / "hf", "hf", dtype="f32")
    found = greedy_of("ctranslate2", tmp_path / "hf", ours["prompts"], tmp_path / "log")
    assert found["greedy"] == ours["greedy"]
