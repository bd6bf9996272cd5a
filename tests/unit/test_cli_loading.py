"""The options that name a model offer what there is."""

from __future__ import annotations

from gptwo.cli import loading
from gptwo.decoder import BACKENDS, WEIGHTS


def test_the_command_line_offers_the_decoders_choices() -> None:
    assert loading.WEIGHTS == WEIGHTS
    assert loading.BACKENDS == BACKENDS
