"""gptwo itself, as its users have it: the engine with greedy sampling, not the bare core."""

from __future__ import annotations

import gptwo


class Engine:
    """A model of ours."""

    def __init__(self, path: str, format: str, threads: int) -> None:  # noqa: A002
        self.version = gptwo.__version__
        self.model = gptwo.load(path, weights=format, backend="native", threads=threads)

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """See the protocol."""
        params = gptwo.SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        return [list(answer.choices[0].token_ids) for answer in self.model.generate(prompts, params)]


def convert(source: str, target: str, format: str) -> None:  # noqa: A002
    """Pack the weights into a file, as `gptwo quantize` does."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "gptwo", "quantize", source, target, "--weights", format, "--no-report"]
    subprocess.run(command, check=True, stdout=2)
