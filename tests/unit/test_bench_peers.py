"""The talk with a worker process, and the comparison over it, with workers that have no model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gptwo.bench.peers.comparison import Comparison, Contender, Sizes, ratios
from gptwo.bench.peers.model_files import ModelFiles
from gptwo.bench.peers.process import PeerProcess, worker_environment
from gptwo.bench.peers.table import PEERS
from gptwo.bench.random_model import random_checkpoint
from gptwo.errors import BenchError

FAKE = Path(__file__).with_name("fake_worker.py")


def fake(mode: str, tmp_path: Path) -> PeerProcess:
    return PeerProcess("a peer", [sys.executable, str(FAKE), mode], dict(os.environ), tmp_path / "log")


def test_a_worker_answers_again_and_again(tmp_path):
    with fake("works", tmp_path) as process:
        answer = process.generate([[1, 2], [3, 4]], 2)
        assert answer.tokens == ((3, 4), (7, 8))
        assert (answer.seconds, answer.peak, answer.version) == (0.002, 1 << 20, "1")
        assert process.generate([[1]], 1).tokens == ((1,),)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("dies", "ended without an answer"),
        ("fails", "a peer: ValueError: no such weights"),
        ("babbles", "answered 'loading"),
        ("short", r"asked for 1 x 3 tokens, got \[2\]"),
    ],
)
def test_a_worker_that_goes_wrong_is_one_clear_error(mode, words, tmp_path):
    with fake(mode, tmp_path) as process, pytest.raises(BenchError, match=words):
        process.generate([[1]], 3)


def test_a_worker_that_hangs_is_given_up(tmp_path):
    with fake("hangs", tmp_path) as process, pytest.raises(BenchError, match="no answer"):
        process.generate([[1]], 3, patience=0.2)


def test_a_python_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(BenchError, match="cannot be run"):
        PeerProcess("a peer", [str(tmp_path / "python")], {}, tmp_path / "log")


class FakeComparison(Comparison):
    """Every engine is the fake worker; CTranslate2's dies."""

    def _start(self, contender: Contender) -> PeerProcess:
        return fake("dies" if contender.peer.name == "ctranslate2" else "works", self.files.directory)


def test_a_comparison_measures_who_works_and_says_why_others_do_not(tmp_path):
    files = ModelFiles(random_checkpoint("tiny"), tmp_path, 1)
    sizes = Sizes(prompt=4, tokens=16, prefill=8, sequences=2, batch_tokens=8)
    comparison = FakeComparison(files, {}, threads=1, repetitions=2, sizes=sizes, rest=0.0)
    comparison.run([PEERS["llama_cpp"], PEERS["ctranslate2"]], ["int8"])
    assert [contender.title for contender in comparison.contenders] == ["gptwo int8", "llama.cpp Q8_0"]
    assert "ended without an answer" in comparison.skipped["CTranslate2 int8"]
    ours, theirs = comparison.contenders
    assert ours.times["decode"].seconds == pytest.approx((0.001, 0.001))
    assert ours.times["batch"].minimum == pytest.approx(0.0005)
    assert ours.times["prefill"].minimum == pytest.approx(0.001)
    assert theirs.peak == 1 << 20
    assert theirs.agreeing == 16
    assert [ratio.measure for ratio in ratios(comparison.contenders)] == [
        "decode",
        "prefill",
        "batch",
        "start",
        "memory",
    ]


def test_gptwos_own_worker_speaks_the_protocol(tmp_path):
    files = ModelFiles(random_checkpoint("tiny"), tmp_path, 1)
    settings = f'{{"path": "{files.model()}", "format": "f32", "threads": 1}}'
    command = [sys.executable, "-m", "worker", "gptwo", settings]
    with PeerProcess("gptwo", command, worker_environment(1), files.log) as process:
        answer = process.generate([[1, 2, 3], [4, 5, 6]], 5)
        assert answer.tokens[0] == process.generate([[1, 2, 3]], 5).tokens[0]
        assert answer.peak >= 0


def test_a_conversion_that_fails_is_one_clear_error_and_leaves_nothing(tmp_path):
    files = ModelFiles(random_checkpoint("tiny"), tmp_path, 1)
    peer = PEERS["llama_cpp"].__class__("no_such_engine", "nothing", {"int8": "int8"}, (), "file")
    with pytest.raises(BenchError, match="nothing int8: not converted"):
        files.converted(peer, "int8", sys.executable)
    assert sorted(path.name for path in files.directory.iterdir()) == ["messages.log", "model", "numbered"]
