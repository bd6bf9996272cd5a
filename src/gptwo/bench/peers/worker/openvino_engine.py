"""OpenVINO GenAI."""

from __future__ import annotations

import numpy as np
import openvino
import openvino_genai


class Engine:
    """An LLMPipeline."""

    def __init__(self, path: str, format: str, threads: int) -> None:  # noqa: A002
        self.version = openvino_genai.__version__
        self.model = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """See the protocol."""
        config = openvino_genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        ids = np.array(prompts, dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        return [list(row) for row in self.model.generate(inputs, config).tokens]


def convert(source: str, target: str, format: str) -> None:  # noqa: A002
    """A transformers directory into OpenVINO's, through optimum-intel; "bf16" keeps 16-bit weights as float16."""
    import subprocess
    import sys

    weights = {"f32": "fp32", "bf16": "fp16", "int8": "int8", "int4": "int4"}[format]
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", source]
    command += ["--task", "text-generation-with-past", "--weight-format", weights, target]
    subprocess.run(command, check=True, stdout=2)
