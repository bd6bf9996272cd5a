"""How many floating-point operations a training step must make.

C width, F inner width of the MLP, V vocabulary, L layers, T tokens of context.
"""

from __future__ import annotations

from gptwo.config import GPTConfig


def flops_per_token(config: GPTConfig, block_size: int, *, frozen: bool = False) -> float:
    """Operations of the matrix products of a forward and backward pass, for each token of a block.

    A matrix of P weights takes 2 P operations for a token forward, and backward 2 P for the gradient of its input and 2
    P for its own: 6 P. A layer's attention takes products of q·k and of weights·v, 2 C operations each for every
    position that is seen, (T + 1) / 2 of them on average, and twice as many backward. frozen: no matrix gets a
    gradient, as in LoRA, whose own small ones are not counted. What is computed twice to save memory counts once.

    Source: Chowdhery et al. 2022, appendix B, but for the positions behind the causal mask, which count there.
    Example: the 124M model at T = 1024 takes 6 * 123,532,032 + 12 * 12 * 768 * 512.5 = 797,870,592.
    """
    width, inner = config.n_embd, config.inner_size
    matrices = config.n_layer * (4 * width * width + 2 * width * inner) + config.vocab_size * width
    attention = config.n_layer * 2 * 2 * width * (block_size + 1) / 2
    return (4 if frozen else 6) * matrices + 3 * attention
