"""The core built by other compilers, for other machines and under sanitizers; its tiers hold what they promise."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "native"))
import builds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600), pytest.mark.xdist_group("native_builds")]


def hashes_or_skip(run):
    if missing := run.missing():
        pytest.skip(f"{run.name} needs {', '.join(missing)}")
    return builds.hashes(run)


@pytest.fixture(scope="module")
def expected():
    return hashes_or_skip(builds.NATIVE)


def test_every_tier_thread_count_and_way_to_run_a_text_has_the_same_bits(expected):
    assert len(expected) == 61  # 7 shapes, 4 formats, 2 caches; 5 sizes of a sampler's row


@pytest.mark.parametrize("run", builds.EMULATE[1:], ids=lambda run: run.name)
def test_other_compilers_and_machines_have_the_same_bits(expected, run):
    got = hashes_or_skip(run)
    assert got
    assert not builds.differences(expected, got)


@pytest.mark.parametrize("run", builds.SANITIZE, ids=lambda run: run.name)
def test_the_core_is_clean_under_sanitizers(expected, run):
    assert not builds.differences(expected, hashes_or_skip(run))


def test_no_tier_offers_code_that_the_linker_could_take_for_the_whole_program(expected):
    if shutil.which("nm") is None:
        pytest.skip("needs nm, of binutils")
    assert expected
    objects = [path for path in (builds.FOLDER / builds.GCC.name).rglob("tier_*.o") if "portable" not in path.name]
    symbols = subprocess.run(["nm", *map(str, objects)], capture_output=True, text=True, check=True).stdout
    shared = [line for line in symbols.splitlines() if line[17:18] in set("WVu")]
    assert not shared
