"""Solutions to lesson 4."""

import torch
from solutions.model import GPT2

OURS = {
    "wte": "tokens",
    "wpe": "places",
    "h.": "blocks.",
    "ln_1.weight": "norm_1.gain",
    "ln_1.bias": "norm_1.shift",
    "ln_2.weight": "norm_2.gain",
    "ln_2.bias": "norm_2.shift",
    "ln_f.weight": "norm.gain",
    "ln_f.bias": "norm.shift",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "mlp.c_fc": "mlp.up",
    "mlp.c_proj": "mlp.down",
}


def load(arrays, config):
    model = GPT2(config)
    state = {}
    for name, array in arrays.items():
        tensor = torch.tensor(array)
        ours = name
        for theirs, mine in OURS.items():
            ours = ours.replace(theirs, mine)
        state[ours] = tensor.T if name.startswith("h.") and tensor.dim() == 2 else tensor
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def greedy(model, prompt, count):
    ids = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([ids]))  # (1, T, V)
        ids.append(logits[0, -1].argmax().item())
    return ids[len(prompt) :]
