"""Solutions to lesson 8."""

import math

import torch
from torch.nn import functional as F


def loss(logits, ids):
    predicted, targets = logits[:, :-1], ids[:, 1:]
    return F.cross_entropy(predicted.flatten(0, 1), targets.flatten())


def adamw(weight, gradient, m, v, step, lr, decay):
    m = 0.9 * m + 0.1 * gradient
    v = 0.95 * v + 0.05 * gradient**2
    m_hat = m / (1 - 0.9**step)
    v_hat = v / (1 - 0.95**step)
    weight = weight * (1 - lr * decay) - lr * m_hat / (torch.sqrt(v_hat) + 1e-8)
    return weight, m, v


def learning_rate(step, warmup, steps, peak):
    if step < warmup:
        return peak * (step + 1) / warmup
    share = (step - warmup) / (steps - warmup)
    low = peak / 10
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * share))
