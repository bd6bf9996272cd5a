"""How the next token is chosen: parameters, logits processors, the sampler and beam search; no PyTorch."""

from gptwo.sampling.params import BeamParams, SamplingParams
from gptwo.sampling.structured import StructuredOutputs

__all__ = ["BeamParams", "SamplingParams", "StructuredOutputs"]
