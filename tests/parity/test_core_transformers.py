"""The core against transformers on trained weights, whose logits are large: those of the embedded model."""

from __future__ import annotations

import numpy as np
import torch
import transformers

import gptwo
from gptwo.checkpoint import resolve

# Twenty times the rounding of float32 at the size of these logits.
TOLERANCE = 5e-5
TEXT = """KING HENRY:
Once more unto the breach, dear friends, once more;
Or close the wall up with our English dead.
In peace there's nothing so becomes a man
As modest stillness and humility:
But when the blast of war blows in our ears,
Then imitate the action of the tiger;
Stiffen the sinews, summon up the blood,
Disguise fair nature with hard-favour'd rage.
"""


def test_the_cores_logits_are_those_of_transformers_on_trained_weights() -> None:
    theirs = transformers.GPT2LMHeadModel.from_pretrained(resolve("shakespeare"), dtype=torch.float32).eval()
    ours = gptwo.load("shakespeare", weights="f32", backend="native")
    assert ours.tokenizer is not None
    ids = ours.tokenizer.encode(TEXT)
    assert 100 < len(ids) <= ours.config.n_positions
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits[0].numpy()
    difference = float(np.abs(expected - ours.logits(ids)).max())
    print(f"largest difference of a logit: {difference:.1e}, of logits up to {np.abs(expected).max():.0f}")
    assert difference <= TOLERANCE
