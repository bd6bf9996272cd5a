"""Fixtures that every tier shares."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
