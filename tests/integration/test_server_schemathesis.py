"""Schemathesis makes requests of the server's own description: each is answered, and none with a defect."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from server_process import running_server

# It brings packages of its own, so it may live in another environment.
PYTHON = os.environ.get("GPTWO_SCHEMATHESIS_PYTHON", sys.executable)
FOUND = subprocess.run([PYTHON, "-c", "import schemathesis"], capture_output=True, check=False).returncode == 0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not FOUND, reason="schemathesis is not installed; GPTWO_SCHEMATHESIS_PYTHON may name a Python that has it"
    ),
]

PROGRAM = """
import sys
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

quiet = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
session = requests.Session()
cases = 0
for found in schemathesis.openapi.from_url(sys.argv[1] + "/openapi.json").get_all_operations():
    operation = found.ok()
    for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
        if mode is schemathesis.GenerationMode.NEGATIVE and operation.method == "get":
            continue  # without a body there is nothing to get wrong

        @seed(1)
        @settings(
            max_examples=700 if operation.method == "post" else 50,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=quiet,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case):
            global cases
            answer = case.call(session=session, timeout=60)
            assert answer.status_code < 500, (answer.text, case.as_curl_command())
            cases += 1

        send()
print(cases)
"""


def test_no_request_of_the_description_meets_a_defect() -> None:
    with running_server() as server:
        outcome = subprocess.run([PYTHON, "-c", PROGRAM, server.url], capture_output=True, text=True, check=False)
        assert outcome.returncode == 0, outcome.stdout + outcome.stderr
        assert int(outcome.stdout) >= 5000
        assert "a defect" not in server.log
        assert server.get("/health")[0] == 200
