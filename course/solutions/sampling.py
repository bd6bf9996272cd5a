"""Solutions to lesson 5."""

import torch


def temperature(logits, t):
    return logits / t


def draw(shares, u):
    return int((shares.cumsum(0) > u).nonzero()[0])


def top_k(logits, k):
    kept = torch.full_like(logits, -torch.inf)
    best = logits.argsort(descending=True, stable=True)[:k]
    kept[best] = logits[best]
    return kept


def top_p(logits, p):
    order = logits.argsort(descending=True, stable=True)
    shares = logits.softmax(-1)[order]
    inside = shares.cumsum(0) - shares < p
    inside[0] = True
    kept = torch.full_like(logits, -torch.inf)
    kept[order[inside]] = logits[order[inside]]
    return kept


def repetition_penalty(logits, ids, penalty):
    changed = logits.clone()
    for token in set(ids):
        changed[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
    return changed


def frequency_penalty(logits, ids, frequency, presence):
    changed = logits.clone()
    for token in set(ids):
        changed[token] -= ids.count(token) * frequency + presence
    return changed


@torch.no_grad()
def beam_search(model, prompt, width, count):
    beams = [(0.0, list(prompt))]
    for _ in range(count):
        longer = []
        for score, ids in beams:
            logprobs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
            longer += [(score + logprob, [*ids, token]) for token, logprob in enumerate(logprobs.tolist())]
        beams = sorted(longer, reverse=True)[:width]
    return beams[0][1][len(prompt) :]
