"""Another engine's greedy tokens, in a process and an environment of its own: an order on standard input, JSON out."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from typing import Any


def llama_cpp(order: dict[str, Any]) -> dict[str, Any]:
    import llama_cpp

    model = llama_cpp.Llama(order["path"], n_ctx=128, n_threads=1, n_threads_batch=1, verbose=False)
    encoded = [model.tokenize(text.encode(), add_bos=False, special=False) for text in order["texts"]]
    greedy = []
    for prompt in order["prompts"]:
        made: list[int] = []
        for token in model.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
            made.append(token)
            if len(made) == order["tokens"]:
                break
        greedy.append(made)
    return {"encoded": encoded, "greedy": greedy}


def ctranslate2(order: dict[str, Any]) -> dict[str, Any]:
    import ctranslate2

    with tempfile.TemporaryDirectory() as directory:
        target = os.path.join(directory, "model")
        ctranslate2.converters.TransformersConverter(order["path"]).convert(target)
        generator = ctranslate2.Generator(target, intra_threads=1)
        with open(os.path.join(order["path"], "tokenizer.json")) as file:
            inner = json.load(file)
        names = {token_id: name for name, token_id in inner["model"]["vocab"].items()}
        names |= {token["id"]: token["content"] for token in inner["added_tokens"]}
        results = [
            generator.generate_batch(
                [[names[token_id] for token_id in prompt]],
                max_length=order["tokens"],
                min_length=order["tokens"],
                sampling_topk=1,
                include_prompt_in_result=False,
            )
            for prompt in order["prompts"]
        ]
    return {"greedy": [result[0].sequences_ids[0] for result in results]}


if __name__ == "__main__":
    order = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answer = {"llama_cpp": llama_cpp, "ctranslate2": ctranslate2}[order["engine"]](order)
    json.dump(answer, sys.stdout)
