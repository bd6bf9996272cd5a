"""A file of inputs in, a file of answers out: bulk generation and scoring, with several processes or a cluster.

What is done stays done: answers are kept in parts beside the output until all are there, so that a run that was ended
in any way goes on where it was. Each input is answered exactly once, in the order of the input.
"""

from __future__ import annotations

from gptwo.batch.parts import parts_of
from gptwo.batch.run import BatchResult, Progress, run_batch
from gptwo.batch.settings import BatchModel, BatchSettings

__all__ = ["BatchModel", "BatchResult", "BatchSettings", "Progress", "parts_of", "run_batch"]
