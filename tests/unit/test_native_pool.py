"""The core's thread pool by itself, compiled here: what a piece of work throws comes out where the work was given."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[2] / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")

PROGRAM = r"""
#include <cstdio>
#include <new>
#include <stdexcept>
#include <thread>
#include "pool.hpp"

int main() {
    for (int threads : {1, 2, 4}) {
        gptwo::Pool pool(threads);
        for (int round = 0; round < 200; ++round) {
            std::atomic<int> done{0};
            const auto caller = std::this_thread::get_id();
            bool came_out = false;
            try {
                pool.run(64, 1, [&](int first, int) {
                    done.fetch_add(1);
                    if (threads == 1 ? first == 0 : first % 3 == 0) throw std::bad_alloc();
                    if (std::this_thread::get_id() != caller && first % 5 == 0) throw std::runtime_error("a worker's");
                });
            } catch (const std::bad_alloc&) {
                came_out = true;
            } catch (const std::runtime_error&) {
                came_out = true;
            }
            if (!came_out) return std::puts("nothing was thrown"), 1;
            if (threads > 1 && done.load() != 64) return std::puts("pieces were left"), 1;
            int sum = 0;  // the next loop runs as if nothing had been
            std::atomic<int> total{0};
            pool.run(64, 1, [&](int first, int last) { for (int i = first; i < last; ++i) total.fetch_add(i); });
            for (int i = 0; i < 64; ++i) sum += i;
            if (total.load() != sum) return std::puts("the next loop is wrong"), 1;
        }
    }
    return 0;
}
"""


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler")
def test_what_a_worker_throws_comes_out_of_the_loop_and_the_pool_goes_on(tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(PROGRAM)
    sources = [tmp_path / "main.cpp", CSRC / "pool.cpp"]
    command = [COMPILER, "-std=c++17", "-O1", "-pthread", f"-I{CSRC}", *sources, "-o", tmp_path / "pool"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    done = subprocess.run([tmp_path / "pool"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
