"""How the next token is chosen: parameters, logits processors, the sampler and beam search; no PyTorch."""

from gptwo.sampling.params import BeamParams, SamplingParams

__all__ = ["BeamParams", "SamplingParams"]
