"""The base install, from a clean clone in a fresh environment, without PyTorch; and what a source distribution has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # it compiles the core from the beginning
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="clones the checkout, and this is none")
@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_demo_runs_from_a_clean_clone_without_pytorch(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    # Nothing of this environment may help out.
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["make", "demo", f"PYTHON={sys.executable}"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first token" in done.stderr
    python = clone / ".venv" / "bin" / "python"
    for absent in ("torch", "transformers", "safetensors", "pytest"):
        found = subprocess.run(
            [python, "-c", f"import {absent}"], env=environment, capture_output=True, text=True, check=False
        )
        assert f"No module named '{absent}'" in found.stderr
    quantized = subprocess.run(
        [clone / ".venv" / "bin" / "gptwo", "quantize", "shakespeare", tmp_path / "small"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "perplexity" in quantized.stdout


@pytest.mark.slow  # it walks through all that lies in the checkout, an environment of thousands of files as well
def test_a_source_distribution_holds_all_that_the_build_needs(tmp_path: Path) -> None:
    pytest.importorskip("scikit_build_core", reason="what builds gptwo is not in this environment")
    script = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(next(tmp_path.glob("gptwo-*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").iterdir()}
    assert {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "src/gptwo/_native.pyi"} | sources <= names
    assert "src/gptwo/embedded/shakespeare/model.safetensors" in names
    assert not any(name.startswith(("build/", ".venv/")) or name.endswith(".so") for name in names)
