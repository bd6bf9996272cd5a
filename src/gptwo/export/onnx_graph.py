"""GPT-2 as an ONNX graph, node by node.

B batch, T new positions, P cached and S = P + T all positions, C width, H heads, D = C / H, F inner width of the MLP,
V vocabulary.

Inputs and outputs have the names that optimum gives them. Operators are those of the standard (opset 20), so that any
engine runs the graph; ONNX Runtime fuses them as it loads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from gptwo.config import GPTConfig

if TYPE_CHECKING:
    from gptwo.export.onnx_weights import Weights

OPSET = 20
IR_VERSION = 9  # the one that came with opset 20

LOGITS = "logits"


def past_names(layers: int) -> list[str]:
    """The inputs that hold keys and values, in order: (B, H, P, D) each."""
    return [f"past_key_values.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """The outputs that hold them, in the same order: (B, H, S, D) each."""
    return [f"present.{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]


class Graph:
    """Nodes in the order in which they were added; a value has the name of the node that makes it."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []

    def add(self, kind: str, inputs: list[str], name: str, *more_outputs: str, **attributes: Any) -> str:
        """A node whose first output is `name`; returns that name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name, *more_outputs], name=name, **attributes))
        return name


def build(config: GPTConfig, weights: Weights) -> Any:
    """The model as an `onnx.ModelProto`; its weights are what `weights` was given while it was built."""
    from onnx import TensorProto, helper

    floats = TensorProto.FLOAT16 if weights.floats == np.float16 else TensorProto.FLOAT
    graph = Graph()
    mask = _mask(graph, weights)
    tokens = weights.rows(graph, "wte.weight", "input_ids", "tokens")
    x = graph.add("Add", [tokens, weights.rows(graph, "wpe.weight", "position_ids", "places")], "embedded")  # (B, T, C)
    for layer in range(config.n_layer):
        x = _block(graph, weights, config, layer, x, mask)
    hidden = _norm(graph, weights, config, x, "ln_f")  # (B, T, C)
    head = "wte.weight" if config.tie_word_embeddings else "lm_head.weight"
    logits = weights.head(graph, hidden, head, "head")  # (B, T, V)
    graph.add("Cast", [logits], LOGITS, to=TensorProto.FLOAT)

    def value(name: str, kind: int, *shape: str | int) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    batch, new, past, every = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"
    size = (config.n_head, config.head_size)
    inputs = [
        value("input_ids", TensorProto.INT64, batch, new),
        value("attention_mask", TensorProto.INT64, batch, every),
        value("position_ids", TensorProto.INT64, batch, new),
        *(value(name, floats, batch, size[0], past, size[1]) for name in past_names(config.n_layer)),
    ]
    outputs = [
        value(LOGITS, TensorProto.FLOAT, batch, new, config.vocab_size),
        *(value(name, floats, batch, size[0], every, size[1]) for name in present_names(config.n_layer)),
    ]
    whole = helper.make_graph(graph.nodes, "gpt2", inputs, outputs, weights.initializers)
    return helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="gptwo"
    )


def _mask(graph: Graph, weights: Weights) -> str:
    """(B, 1, T, S), added to the scores: 0 where a new position may look, the lowest number elsewhere.

    As in model.py: to itself and to what came before it, padding left out; a padding position still sees itself.
    """
    from onnx import TensorProto

    def count(value: str, axis: int, name: str) -> str:
        return graph.add("Shape", [value], name, start=axis, end=axis + 1)  # (1,)

    zero, one = weights.constant("zero", np.array(0)), weights.constant("one", np.array(1))
    past = graph.add("Squeeze", [count(past_names(1)[0], 2, "mask.past.shape")], "mask.past")  # ()
    every = graph.add("Squeeze", [count("attention_mask", 1, "mask.every.shape")], "mask.every")
    keys = graph.add("Range", [zero, every, one], "mask.keys")  # (S,)
    queries = graph.add("Range", [past, every, one], "mask.queries")  # (T,)
    queries = graph.add("Unsqueeze", [queries, weights.constant("axis.1", np.array([1]))], "mask.queries.column")
    before = graph.add("LessOrEqual", [keys, queries], "mask.before")  # (T, S)
    itself = graph.add("Equal", [keys, queries], "mask.itself")  # (T, S)
    true = graph.add("Cast", ["attention_mask"], "mask.true", to=TensorProto.BOOL)  # (B, S)
    true = graph.add("Unsqueeze", [true, weights.constant("axes.1.2", np.array([1, 2]))], "mask.true.row")
    seen = graph.add("Or", [graph.add("And", [before, true], "mask.seen"), itself], "mask.seen.or.itself")
    nothing = weights.constant("nothing", np.array(0, weights.floats))
    lowest = weights.constant("lowest", np.array(np.finfo(weights.floats).min, weights.floats))
    return graph.add("Where", [seen, nothing, lowest], "mask")  # (B, 1, T, S)


def _block(graph: Graph, weights: Weights, config: GPTConfig, layer: int, x: str, mask: str) -> str:
    """x (B, T, C) -> (B, T, C): attention, then the MLP, each behind a layer norm and added to x."""
    h = f"h.{layer}"
    attended = _attention(graph, weights, config, layer, _norm(graph, weights, config, x, f"{h}.ln_1"), mask)
    x = graph.add("Add", [x, attended], f"{h}.middle")
    inner = weights.linear(graph, _norm(graph, weights, config, x, f"{h}.ln_2"), f"{h}.mlp.c_fc")  # (B, T, F)
    inner = _ACTIVATIONS[config.activation_function](graph, weights, inner, f"{h}.mlp.activation")
    return graph.add("Add", [x, weights.linear(graph, inner, f"{h}.mlp.c_proj")], f"{h}.out")


def _attention(graph: Graph, weights: Weights, config: GPTConfig, layer: int, x: str, mask: str) -> str:
    from onnx import TensorProto

    name = f"h.{layer}.attn"
    qkv = weights.linear(graph, x, f"{name}.c_attn")  # (B, T, 3C)
    heads = weights.constant("heads", np.array([0, 0, 3, config.n_head, config.head_size]))
    qkv = graph.add("Reshape", [qkv, heads], f"{name}.heads")  # (B, T, 3, H, D)
    qkv = graph.add("Transpose", [qkv], f"{name}.qkv", perm=[2, 0, 3, 1, 4])  # (3, B, H, T, D)
    parts = [f"{name}.{part}" for part in ("query", "key", "value")]
    parts = [
        graph.add("Gather", [qkv, weights.constant(f"part.{i}", np.array(i))], part, axis=0)
        for i, part in enumerate(parts)
    ]  # 3 x (B, H, T, D)
    kept = [
        graph.add("Concat", [f"past_key_values.{layer}.{kind}", new], f"present.{layer}.{kind}", axis=2)
        for kind, new in (("key", parts[1]), ("value", parts[2]))
    ]  # 2 x (B, H, S, D)
    q, k, v = parts[0], *kept
    # Scores of half precision can overflow where the rest of the model does not.
    upcast = config.reorder_and_upcast_attn and weights.floats == np.float16
    if upcast:
        q, k, v, mask = (
            graph.add("Cast", [part], f"{name}.{i}.f32", to=TensorProto.FLOAT) for i, part in enumerate((q, k, v, mask))
        )
    floats = np.dtype(np.float32) if upcast else weights.floats
    scale = weights.constant(f"{name}.scale", np.array(config.attention_scale(layer), floats))
    q = graph.add("Mul", [q, scale], f"{name}.scaled")
    k = graph.add("Transpose", [k], f"{name}.keys", perm=[0, 1, 3, 2])  # (B, H, D, S)
    scores = graph.add("Add", [graph.add("MatMul", [q, k], f"{name}.scores"), mask], f"{name}.masked")  # (B, H, T, S)
    y = graph.add("MatMul", [graph.add("Softmax", [scores], f"{name}.pattern", axis=-1), v], f"{name}.mixed")
    if upcast:
        y = graph.add("Cast", [y], f"{name}.f16", to=TensorProto.FLOAT16)
    y = graph.add("Transpose", [y], f"{name}.turned", perm=[0, 2, 1, 3])  # (B, T, H, D)
    y = graph.add("Reshape", [y, weights.constant("width", np.array([0, 0, config.n_embd]))], f"{name}.merged")
    return weights.linear(graph, y, f"{name}.c_proj")  # (B, T, C)


def _norm(graph: Graph, weights: Weights, config: GPTConfig, x: str, name: str) -> str:
    inputs = [x, weights.tensor(f"{name}.weight"), weights.tensor(f"{name}.bias")]
    return graph.add("LayerNormalization", inputs, name, axis=-1, epsilon=config.layer_norm_epsilon)


def _gelu(approximate: str) -> Callable[[Graph, Weights, str, str], str]:
    return lambda graph, weights, x, name: graph.add("Gelu", [x], name, approximate=approximate)


def _plain(kind: str) -> Callable[[Graph, Weights, str, str], str]:
    return lambda graph, weights, x, name: graph.add(kind, [x], name)


def _gated(factor: float) -> Callable[[Graph, Weights, str, str], str]:
    """x · sigmoid(factor · x)."""

    def activation(graph: Graph, weights: Weights, x: str, name: str) -> str:
        scaled = x
        if factor != 1.0:
            scaled = graph.add("Mul", [x, weights.constant("gate", np.array(factor, weights.floats))], f"{name}.scaled")
        return graph.add("Mul", [x, graph.add("Sigmoid", [scaled], f"{name}.gate")], name)

    return activation


_ACTIVATIONS = {
    "gelu": _gelu("none"),
    "gelu_new": _gelu("tanh"),
    "gelu_fast": _gelu("tanh"),
    "gelu_pytorch_tanh": _gelu("tanh"),
    "quick_gelu": _gated(1.702),
    "relu": _plain("Relu"),
    "silu": _gated(1.0),
    "swish": _gated(1.0),
    "tanh": _plain("Tanh"),
}
