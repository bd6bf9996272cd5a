"""What `gptwo train` shows on a terminal: how far the run is, how fast, and the loss as a picture beside it."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gptwo.cli.terminal import bar, is_terminal, note, visible
from gptwo.errors import GptwoError
from gptwo.training.report import on_share

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gptwo.training.config_file import RunSettings
    from gptwo.training.report import StepReport

REDRAWN = 60.0
"""Seconds between two drawings of the loss while a run goes on."""


class Display:
    """A context manager; at its end the loss is drawn as it is then, however the run ended."""

    def __init__(self, settings: RunSettings, *, quiet: bool) -> None:
        """quiet: show and draw nothing."""
        self._settings, self._quiet = settings, quiet
        self._shown: Callable[[float, str], None] | None = None
        self._stack = ExitStack()
        self._steps, self._drawn, self._draws = 0, time.monotonic(), not quiet
        self._peak: float | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if self._steps and kind in (None, KeyboardInterrupt):
            self._draw()

    def show(self, report: StepReport) -> None:
        """A step that was made."""
        self._steps += 1
        if self._quiet:
            return
        self._bar(report)
        if report.val_loss is not None:
            words = nats(report.val_loss, report.val_nats_per_character, report.val_share)
            self.note(f"step {report.step:,}: validation loss {words}")
        if report.sample is not None:
            self.note(f"step {report.step:,} writes:\n{visible(report.sample)}\n")
        if report.val_loss is not None and time.monotonic() - self._drawn > REDRAWN:
            self._draw()

    def note(self, text: str) -> None:
        """A line on standard error."""
        if not self._quiet:
            note(text)

    def _bar(self, report: StepReport) -> None:
        config = self._settings.config
        if self._shown is None:  # not before: fetching a model to start from shows a bar of its own
            self._peak = self._measured_peak() if is_terminal(sys.stderr) else None
            self._shown = self._stack.enter_context(bar("training"))
        words = (
            f"step {report.step:,}/{config.steps:,}  loss {report.loss:.3f}  {report.tokens_per_second:,.0f} tokens/s"
        )
        if self._peak:
            words += f"  {report.flops_per_second / self._peak:.0%} of peak"
        self._shown(report.step / config.steps, words)

    def _measured_peak(self) -> float:
        """Operations per second of matrix products on the machines of all processes, in the run's type."""
        import torch
        from torch import distributed

        from gptwo.training.peak import matrix_peak
        from gptwo.training.world import chosen_device

        config = self._settings.config
        processes = distributed.get_world_size() if distributed.is_initialized() else 1
        dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
        return matrix_peak(dtype, chosen_device(config.device)) * processes

    def _draw(self) -> None:
        """The loss as a picture; without matplotlib, that is said once."""
        from gptwo.training.loss_curve import NAME, draw_loss_curve

        if not self._draws:
            return
        try:
            draw_loss_curve(self._settings.out)
        except GptwoError as error:  # a picture is no reason to end a run
            self._draws = False
            if is_terminal(sys.stderr):
                self.note(f"no {NAME}: {error}")
        self._drawn = time.monotonic()


def nats(per_token: float, per_character: float | None, share: float | None) -> str:
    """A validation loss in words, and how much of the validation data it is of, if not all."""
    words = f"{per_token:.4f} nats per token"
    words += "" if per_character is None else f", {per_character:.4f} per character"
    return words + on_share(share)
