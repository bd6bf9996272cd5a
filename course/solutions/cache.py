"""Solutions to lesson 6."""

import math

import torch
from solutions.block import MLP, LayerNorm
from torch import nn


class CachedAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x, past=None):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.heads, -1).transpose(1, 2) for t in self.qkv(x).split(C, dim=2))
        if past is not None:
            k = torch.cat((past[0], k), dim=2)  # (B, H, S, D)
            v = torch.cat((past[1], v), dim=2)
        S = k.shape[2]
        scores = q @ k.transpose(2, 3) / math.sqrt(C / self.heads)  # (B, H, T, S)
        later = ~torch.ones(T, S, dtype=torch.bool).tril(S - T)
        shares = scores.masked_fill(later, -math.inf).softmax(-1)
        y = (shares @ v).transpose(1, 2).reshape(B, T, C)
        return self.out(y), (k, v)


class CachedBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm_1 = LayerNorm(width)
        self.attention = CachedAttention(width, heads)
        self.norm_2 = LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x, past=None):
        y, past = self.attention(self.norm_1(x), past)
        x = x + y
        return x + self.mlp(self.norm_2(x)), past


class CachedGPT2(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.places = nn.Embedding(config.n_positions, config.n_embd)
        self.blocks = nn.ModuleList(CachedBlock(config.n_embd, config.n_head) for _ in range(config.n_layer))
        self.norm = LayerNorm(config.n_embd)

    def forward(self, ids, past=None):
        start = 0 if past is None else past[0][0].shape[2]
        x = self.tokens(ids) + self.places(torch.arange(start, start + ids.shape[1]))
        kept = []
        for layer, block in enumerate(self.blocks):
            x, keys_values = block(x, None if past is None else past[layer])
            kept.append(keys_values)
        return self.norm(x) @ self.tokens.weight.T, kept


@torch.no_grad()
def greedy_cached(model, prompt, count):
    new, ids, past = [], list(prompt), None
    for _ in range(count):
        logits, past = model(torch.tensor([ids]), past)
        ids = [logits[0, -1].argmax().item()]
        new += ids
    return new
