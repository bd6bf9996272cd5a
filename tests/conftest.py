"""Fixtures that every tier shares."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

ROOT = Path(__file__).resolve().parents[1]

# A shell starts what runs in its background without Ctrl-C, and its children inherit that; ours are sent it by tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """GPT-2's vocabulary, Shakespeare and evaluation texts, laid beside the checkout."""
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("needs the data folder ../shared/data beside the checkout")
    return data


@pytest.fixture(scope="session")
def gpt2_vocabulary(shared_data: Path) -> Path:
    """The directory of GPT-2's vocab.json and merges.txt."""
    return shared_data / "gpt2"


TINY_TEXT = "First Citizen: Before we proceed any further, hear me speak. All: Speak, speak. We know't!\n" * 4


def write_tiny_checkpoint(directory: Path, *, n_positions: int = 64) -> Path:
    """A transformers directory of a random GPT-2 with two layers, and a byte-level BPE of 300 tokens.

    The weights are larger than a fresh model's, so that what it says depends on what it read.
    """
    from gptwo.config import GPTConfig
    from gptwo.tokenizer import Tokenizer

    tokenizer = Tokenizer.train([TINY_TEXT], 300)
    end = tokenizer.end_of_text_id
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size,
        n_positions=n_positions,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=end,
        eos_token_id=end,
    )
    width, draw = config.n_embd, np.random.default_rng(1)
    shapes = {"wte.weight": (config.vocab_size, width), "wpe.weight": (n_positions, width)}
    for layer in range(config.n_layer):
        linear = {"attn.c_attn": 3 * width, "attn.c_proj": width, "mlp.c_fc": 4 * width}
        shapes |= {f"h.{layer}.{name}.weight": (width, columns) for name, columns in linear.items()}
        shapes |= {f"h.{layer}.{name}.bias": (columns,) for name, columns in linear.items()}
        shapes |= {f"h.{layer}.mlp.c_proj.weight": (4 * width, width), f"h.{layer}.mlp.c_proj.bias": (width,)}
    tensors = {name: draw.normal(0.0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    for norm in ("h.0.ln_1", "h.0.ln_2", "h.1.ln_1", "h.1.ln_2", "ln_f"):
        tensors |= {f"{norm}.weight": np.ones(width, np.float32), f"{norm}.bias": np.zeros(width, np.float32)}
    directory.mkdir(parents=True, exist_ok=True)
    config.save(directory / "config.json")
    tokenizer.save(directory)
    safetensors.numpy.save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny random GPT-2 with its tokenizer; tests must not change it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")
