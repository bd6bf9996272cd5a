"""transformers, in PyTorch."""

from __future__ import annotations

import torch
import transformers


class Engine:
    """A model behind `generate`, with transformers' own cache."""

    def __init__(self, path: str, format: str, threads: int) -> None:  # noqa: A002
        self.version = transformers.__version__
        torch.set_num_threads(threads)
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[format]
        self.model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self.model.generation_config.eos_token_id = None

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """See the protocol."""
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        made = self.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        return made[:, ids.shape[1] :].tolist()
