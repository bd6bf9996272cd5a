"""CTranslate2."""

from __future__ import annotations

import ctranslate2


class Engine:
    """A Generator. It takes and gives tokens as text; the vocabulary of a converted model names each by its number."""

    def __init__(self, path: str, format: str, threads: int) -> None:  # noqa: A002
        self.version = ctranslate2.__version__
        compute = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}[format]
        self.model = ctranslate2.Generator(
            path, device="cpu", compute_type=compute, inter_threads=1, intra_threads=threads
        )

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """See the protocol."""
        results = self.model.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts],
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )
        return [list(result.sequences_ids[0]) for result in results]


def convert(source: str, target: str, format: str) -> None:  # noqa: A002
    """A transformers directory, with the tokenizer that `tokenizer_of_numbers` writes, into CTranslate2's format."""
    from ctranslate2.converters import TransformersConverter

    quantization = {"f32": None, "bf16": "bfloat16", "int8": "int8"}[format]
    TransformersConverter(source).convert(target, quantization=quantization)
