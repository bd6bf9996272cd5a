"""A process that is forked while another thread works with a model has a model that works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORKED = """
import os, signal, sys, threading
sys.path.insert(0, {tests!r})
from random_model import native, random_arrays, tiny_config
from gptwo.engine.sampling_run import SamplingRun
from gptwo.language_model import LanguageModel
from gptwo.sampling import SamplingParams

moment, entered, go_on = {moment!r}, threading.Event(), threading.Event()
model = LanguageModel(native(tiny_config(), random_arrays(tiny_config()), threads=2), None)
params = SamplingParams(max_tokens=4, seed=1, ignore_eos=True)
expected = model.generate([1, 2, 3], params).choices

def held(method):
    def waits(*arguments, **named):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            go_on.wait()
        return method(*arguments, **named)
    return waits

if moment == "a step":
    model._shared.engine.step = held(model._shared.engine.step)
else:
    SamplingRun.accept = held(SamplingRun.accept)
answers = []
thread = threading.Thread(target=lambda: answers.append(model.generate([1, 2, 3], params).choices))
thread.start()
entered.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # the end of one that waits for ever
    same = model.generate([1, 2, 3], params).choices == expected
    model.close()
    os._exit(0 if same and model._model.decoder.cache_blocks == 0 else 1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
go_on.set()
thread.join()
assert (answers, code) == ([expected], 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("moment", ["a step", "the choice of a token"])
def test_a_fork_in_the_middle_of_another_threads_work_waits_for_nobody(moment: str) -> None:
    program = FORKED.format(tests=str(Path(__file__).parents[1]), moment=moment)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
