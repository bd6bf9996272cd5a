"""ONNX Runtime, with the operators that its own tools fuse a decoder into: fused layer norms, GELU and attention.

B batch, T new positions, S room of the cache, C width, H heads, D head size.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime


class Engine:
    """A session whose keys and values stay where they are from step to step."""

    def __init__(self, path: str, format: str, threads: int) -> None:  # noqa: A002
        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.caches = [value for value in self.session.get_inputs() if value.name.startswith("past_")]

    def generate(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """See the protocol."""
        ids = np.array(prompts, dtype=np.int64)  # (B, T)
        batch, room = len(ids), ids.shape[1] + tokens
        past = {}
        for value in self.caches:
            _, heads, _, size = value.shape
            past[value.name] = onnxruntime.OrtValue.ortvalue_from_numpy(
                np.zeros((batch, heads, room, size), np.float32)
            )
        made, length = [], 0
        for _ in range(tokens):
            binding = self.session.io_binding()
            positions = np.broadcast_to(np.arange(length, length + ids.shape[1]), ids.shape)
            length += ids.shape[1]
            binding.bind_cpu_input("ids", ids)
            binding.bind_cpu_input("positions", np.ascontiguousarray(positions, dtype=np.int64))
            binding.bind_cpu_input("last", np.full(batch, length - 1, dtype=np.int32))
            binding.bind_cpu_input("total", np.array(length, dtype=np.int32))
            for name, value in past.items():
                binding.bind_ortvalue_input(name, value)
                binding.bind_ortvalue_output(name.replace("past_", "present_"), value)
            binding.bind_output("logits")
            self.session.run_with_iobinding(binding)
            ids = binding.get_outputs()[-1].numpy().argmax(axis=-1).reshape(batch, 1)
            made.append(ids[:, 0].tolist())
        return [list(text) for text in zip(*made, strict=True)]


def convert(source: str, target: str, format: str) -> None:  # noqa: A002
    """A transformers directory into one ONNX file; "int8" is ONNX Runtime's own dynamic quantisation of it."""
    import onnx

    if format == "f32":
        onnx.save(graph(source), target)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = target + ".f32"
    onnx.save(graph(source), plain)
    try:
        quantize_dynamic(
            plain,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["MatMul"],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # it cannot infer those after the attention
        )
    finally:
        os.unlink(plain)


def graph(source: str) -> Any:
    """The model as ONNX: ids and positions (B, T), last (B,), total () and the caches (B, H, S, D) -> logits (B, V)."""
    from onnx import TensorProto, helper, numpy_helper
    from safetensors.numpy import load_file

    with open(os.path.join(source, "config.json")) as file:
        config = json.load(file)
    width, heads, layers, vocab = (config[name] for name in ("n_embd", "n_head", "n_layer", "vocab_size"))
    stored = load_file(os.path.join(source, "model.safetensors"))
    tensors = {name.removeprefix("transformer."): value for name, value in stored.items()}
    nodes, weights = [], []

    def constant(name: str, value: Any) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(
        kind: str, inputs: list[str], output: str, domain: str = "", more: tuple[str, ...] = (), **settings: Any
    ) -> str:
        nodes.append(helper.make_node(kind, inputs, [output, *more], name=output, domain=domain, **settings))
        return output

    def linear(x: str, name: str, output: str) -> str:
        product = node("MatMul", [x, constant(f"{name}.weight", tensors[f"{name}.weight"])], f"{output}.product")
        return node("Add", [product, constant(f"{name}.bias", tensors[f"{name}.bias"])], output)

    def norm(x: str, name: str) -> str:
        inputs = [
            x,
            constant(f"{name}.weight", tensors[f"{name}.weight"]),
            constant(f"{name}.bias", tensors[f"{name}.bias"]),
        ]
        return node("LayerNormalization", inputs, name, axis=-1, epsilon=config["layer_norm_epsilon"])

    token = node("Gather", [constant("wte.weight", tensors["wte.weight"]), "ids"], "token")
    place = node("Gather", [constant("wpe.weight", tensors["wpe.weight"]), "positions"], "place")
    x = node("Add", [token, place], "embedded")  # (B, T, C)
    room = ["batch", heads, "room", width // heads]
    pasts, presents = [], []
    for layer in range(layers):
        h = f"h.{layer}"
        qkv = linear(norm(x, f"{h}.ln_1"), f"{h}.attn.c_attn", f"{h}.qkv")  # (B, T, 3C)
        attended = node(
            "GroupQueryAttention",
            [qkv, "", "", f"past_key_{layer}", f"past_value_{layer}", "last", "total"],
            f"{h}.attended",
            "com.microsoft",
            (f"present_key_{layer}", f"present_value_{layer}"),
            num_heads=heads,
            kv_num_heads=heads,
        )
        for kind in ("key", "value"):
            pasts.append(helper.make_tensor_value_info(f"past_{kind}_{layer}", TensorProto.FLOAT, room))
            presents.append(helper.make_tensor_value_info(f"present_{kind}_{layer}", TensorProto.FLOAT, room))
        x = node("Add", [x, linear(attended, f"{h}.attn.c_proj", f"{h}.projected")], f"{h}.middle")
        inner = linear(norm(x, f"{h}.ln_2"), f"{h}.mlp.c_fc", f"{h}.inner")
        inner = node("FastGelu", [inner], f"{h}.gelu", "com.microsoft")
        x = node("Add", [x, linear(inner, f"{h}.mlp.c_proj", f"{h}.down")], f"{h}.out")
    newest = node("Gather", [x, constant("newest", np.array(-1, dtype=np.int64))], "newest_row", axis=1)  # (B, C)
    head = constant("head", tensors.get("lm_head.weight", tensors["wte.weight"]).T)
    node("MatMul", [norm(newest, "ln_f"), head], "logits")

    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "new"]),
        helper.make_tensor_value_info("positions", TensorProto.INT64, ["batch", "new"]),
        helper.make_tensor_value_info("last", TensorProto.INT32, ["batch"]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
        *pasts,
    ]
    outputs = [*presents, helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", vocab])]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    whole = helper.make_graph(nodes, "gpt2", inputs, outputs, weights)
    return helper.make_model(whole, opset_imports=opsets, ir_version=10)
