"""Solutions to lesson 9."""

import torch


def quantize(weights, block):
    rows, columns = weights.shape
    blocks = weights.view(rows, columns // block, block)
    scales = blocks.abs().amax(-1) / 127  # (R, K)
    safe = torch.where(scales == 0, 1.0, scales)  # a block of zeros
    q = (blocks / safe[..., None]).round().to(torch.int8)
    return q.view(rows, columns), scales


def int8_product(q, scales, x_q, x_scales):
    rows, blocks = scales.shape
    w = q.view(rows, blocks, -1).to(torch.int32)
    x = x_q.view(blocks, -1).to(torch.int32)
    dots = (w * x).sum(-1)  # (R, K), whole numbers
    return (dots * scales * x_scales).sum(-1)
