"""llama.cpp, through the C functions that llama-cpp-python exposes: no Python but the loop and the argmax."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import llama_cpp
import numpy as np

# Named by ggml's own numbers, which do not change.
FILE_TYPES = {"f32": 0, "bf16": 32, "int8": 7, "int4": 2}  # ALL_F32, MOSTLY_BF16, MOSTLY_Q8_0, MOSTLY_Q4_0


class Engine:
    """A model and a context for up to `MOST` sequences."""

    MOST = 32

    def __init__(self, path: str, format: str, threads: int) -> None:  # noqa: A002
        self.version = llama_cpp.__version__
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_default_params()
        model.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.positions = llama_cpp.llama_model_n_ctx_train(self.model)
        self.threads = threads
        self.context: Any = None
        self.sequences, self.room = 0, 0

    def _context_for(self, sequences: int, positions: int) -> None:
        """A context that is as large as the work, made once for each size."""
        if (self.sequences, self.room) == (sequences, positions):
            return
        if self.context is not None:
            llama_cpp.llama_free(self.context)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * positions
        params.n_batch, params.n_ubatch = 2048, 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = self.threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")
        self.sequences, self.room = sequences, positions

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """See the protocol."""
        # Its cache is cut to multiples of 256 positions whatever is asked for.
        self._context_for(len(prompts), -(-(len(prompts[0]) + tokens) // 256) * 256)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        made: list[list[int]] = [[] for _ in prompts]
        batch = llama_cpp.llama_batch_init(sum(map(len, prompts)), 0, 1)
        try:
            feeds, position = prompts, 0
            for _ in range(tokens):
                logits = self._forward(batch, feeds, position)
                position += len(feeds[0])
                feeds = [[int(np.argmax(row))] for row in logits]
                for text, feed in zip(made, feeds, strict=True):
                    text.extend(feed)
        finally:
            llama_cpp.llama_batch_free(batch)
        return made

    def _forward(self, batch: Any, feeds: list[list[int]], position: int) -> list[Any]:
        n = 0
        last = []
        for sequence, feed in enumerate(feeds):
            for offset, token in enumerate(feed):
                batch.token[n] = token
                batch.pos[n] = position + offset
                batch.n_seq_id[n] = 1
                batch.seq_id[n][0] = sequence
                batch.logits[n] = offset == len(feed) - 1
                n += 1
            last.append(n - 1)
        batch.n_tokens = n
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        rows = (llama_cpp.llama_get_logits_ith(self.context, row) for row in last)
        return [np.ctypeslib.as_array(row, shape=(self.vocab_size,)) for row in rows]


@llama_cpp.llama_log_callback
def _quiet(level: int, text: bytes, data: object) -> None:
    """llama.cpp's log, dropped."""


def convert(source: str, target: str, format: str) -> None:  # noqa: A002
    """A transformers directory into a GGUF file: float32 through the `gguf` package, the rest by llama.cpp itself."""
    if format == "f32":
        write_gguf(source, target)
        return
    plain = target + ".f32"
    write_gguf(source, plain)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[format]
    params.nthread = os.cpu_count() or 1
    try:
        if llama_cpp.llama_model_quantize(plain.encode(), target.encode(), ctypes.byref(params)) != 0:
            raise RuntimeError("llama_model_quantize failed")
    finally:
        os.unlink(plain)


def write_gguf(source: str, target: str) -> None:
    """Write the tensors under llama.cpp's names, linear weights as (out, in), with a vocabulary of numbers."""
    import json

    import gguf
    from safetensors.numpy import load_file

    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    tensors = load_file(os.path.join(source, "model.safetensors"))
    writer = gguf.GGUFWriter(target, "gpt2")
    writer.add_name("gptwo-bench")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(0)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
    inner = {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    for name, tensor in tensors.items():
        name = name.removeprefix("transformer.")
        stem, _, kind = name.rpartition(".")
        if stem.startswith("h."):
            _, layer, part = stem.split(".", 2)
            new = f"blk.{layer}.{inner[part]}.{kind}"
            if kind == "weight" and tensor.ndim == 2:
                tensor = tensor.T
        else:
            new = f"{names[stem]}.{kind}"
        writer.add_tensor(new, np.ascontiguousarray(tensor, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
