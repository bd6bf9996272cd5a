"""`benchmarks/training.py` as it is typed, on a tiny shape, beside a stand-in for nanoGPT's model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "training.py"

STAND_IN = """
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.wte = torch.nn.Embedding(config.vocab_size, config.n_embd)
        self.head = torch.nn.Linear(config.n_embd, config.vocab_size)
        print("number of parameters: few")

    def forward(self, idx, targets):
        logits = self.head(self.wte(idx))
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def run(*words: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, str(BENCHMARK), "--shape", "tiny", "--rounds", "1", "--threads", "1", "--no-compile", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()


@pytest.mark.slow
def test_it_compares_a_step_of_ours_with_one_of_nanogpts_and_ends_with_a_line_of_json(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(STAND_IN)
    lines = run("--nanogpt", str(tmp_path), "--dtype", "f32", "--block-size", "16", "--no-fine-tuning")
    found = json.loads(lines[-1])
    assert [row["contender"]["engine"] for row in found["rows"]] == ["gptwo", "nanogpt"]
    for row in found["rows"]:
        assert row["tokens_per_second"] > 0
        assert row["of_matrix_peak"] > 0
        assert row["peak_bytes"] > 2**20
        assert 5 < row["loss"] < 8  # of random weights: ln 512 = 6.2
    assert sum("of matrix peak" in line for line in lines) == 2
    assert any("times the tokens of the fastest nanoGPT" in line for line in lines)


@pytest.mark.slow
def test_what_does_not_run_is_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("raise SystemExit('not a model')")
    lines = run("--nanogpt", str(tmp_path), "--dtype", "f32", "--block-size", "16", "--no-fine-tuning")
    assert "nanogpt f32: skipped, not a model" in lines
    assert [row["contender"]["engine"] for row in json.loads(lines[-1])["rows"]] == ["gptwo"]
