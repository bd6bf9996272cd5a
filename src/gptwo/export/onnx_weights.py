"""The weights of an ONNX graph: as float32, float16 or int8, in its file or in one beside it.

int8 is ONNX Runtime's dynamic quantisation, written out: a matrix has a scale for each output, and activations are
quantised as they come, one scale for a tensor. The weights are unsigned, with 128 for zero: products of unsigned and
signed bytes are added up in 16 bits on processors without VNNI, where they saturate.

V vocabulary, C width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from gptwo.checkpoint.stored import Array, Floats, StoredTensor
from gptwo.errors import NumericalError

if TYPE_CHECKING:
    from gptwo.export.onnx_graph import Graph

EXTERNAL_FILE: Final = "model.onnx_data"
_PAGE: Final = 4096  # where a tensor begins in the file beside it, so that it can be mapped
_SMALL: Final = 1024  # bytes that stay in the graph, where engines look for shapes and axes
_ZERO: Final = 128


class Weights:
    """Gives a graph its weights by the checkpoint's names, one tensor in memory at a time if there is a file for them.

    `floats` is the type of everything that is not quantised, activations too; `initializers` is what was asked for.
    """

    def __init__(self, tensors: Mapping[str, StoredTensor], dtype: str, file: BinaryIO | None) -> None:
        """dtype: f32, f16 or int8. file: for the data of the tensors; None keeps it in the graph, up to 2 GB."""
        self.floats: np.dtype[Any] = np.dtype(np.float16 if dtype == "f16" else np.float32)
        self.initializers: list[Any] = []
        self._tensors, self._file, self._quantised = tensors, file, dtype == "int8"
        self._known: set[str] = set()

    def constant(self, name: str, array: Array) -> str:
        """A constant under this name; the second time it is the first one."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(self._proto(name, array))
        return name

    def tensor(self, name: str) -> str:
        """A tensor of the checkpoint as it is, in `floats`."""
        return name if name in self._known else self.constant(name, self._converted(name))

    def linear(self, graph: Graph, x: str, name: str) -> str:
        """x (..., in) -> (..., out) with the checkpoint's matrix (in, out) and bias (out,)."""
        if self._quantised:
            product = self._integer_product(graph, x, f"{name}.weight", name, outputs=1)
        else:
            product = graph.add("MatMul", [x, self.tensor(f"{name}.weight")], f"{name}.product")
        return graph.add("Add", [product, self.tensor(f"{name}.bias")], name)

    def head(self, graph: Graph, x: str, matrix: str, name: str) -> str:
        """x (..., C) -> (..., V) with a matrix (V, C)."""
        if self._quantised:
            return self._integer_product(graph, x, matrix, name, outputs=0)
        turned = graph.add("Transpose", [self.tensor(matrix)], f"{name}.turned", perm=[1, 0])
        return graph.add("MatMul", [x, turned], name)

    def rows(self, graph: Graph, matrix: str, ids: str, name: str) -> str:
        """ids (...) -> (..., C): rows of a matrix (rows, C)."""
        if not self._quantised or matrix == "wpe.weight":
            return graph.add("Gather", [self.tensor(matrix), ids], name)
        from onnx import TensorProto

        stored, scales, _ = self._integers(matrix, outputs=0)
        row = graph.add(
            "Cast", [graph.add("Gather", [stored, ids], f"{name}.stored")], f"{name}.cast", to=TensorProto.FLOAT
        )
        row = graph.add("Sub", [row, self.constant("zero.f32", np.array(_ZERO, np.float32))], f"{name}.signed")
        scale = graph.add("Gather", [scales, ids], f"{name}.scale")
        scale = graph.add("Unsqueeze", [scale, self.constant("axis.last", np.array([-1]))], f"{name}.scale.column")
        return graph.add("Mul", [row, scale], name)

    def _integer_product(self, graph: Graph, x: str, matrix: str, name: str, *, outputs: int) -> str:
        """x times a matrix whose axis `outputs` is that of the outputs, in integers."""
        from onnx import TensorProto

        stored, scales, zero = self._integers(matrix, outputs=outputs)
        if outputs == 0:
            stored = graph.add("Transpose", [stored], f"{name}.turned", perm=[1, 0])
        parts = [f"{name}.x", f"{name}.x.scale", f"{name}.x.zero"]
        graph.add("DynamicQuantizeLinear", [x], *parts)
        total = graph.add("MatMulInteger", [parts[0], stored, parts[2], zero], f"{name}.integers")
        total = graph.add("Cast", [total], f"{name}.floats", to=TensorProto.FLOAT)
        return graph.add("Mul", [total, graph.add("Mul", [parts[1], scales], f"{name}.scales")], f"{name}.product")

    def _integers(self, matrix: str, *, outputs: int) -> tuple[str, str, str]:
        """The names of a matrix as uint8, of its scales, one for each output, and of its zero."""
        names = (f"{matrix}.uint8", f"{matrix}.scale", "zero.uint8")
        if names[0] not in self._known:
            values = self._converted(matrix)
            scales = np.abs(values).max(axis=1 - outputs, keepdims=True) / np.float32(127)
            scales[scales == 0] = 1  # a row of zeros
            self.constant(names[0], (np.rint(values / scales) + _ZERO).astype(np.uint8))
            self.constant(names[1], scales.reshape(-1))
            self.constant(names[2], np.array(_ZERO, np.uint8))
        return names

    def _converted(self, name: str) -> Floats:
        stored = self._tensors[name]
        with np.errstate(over="ignore"):
            values = stored.float32().astype(self.floats)
        if not np.isfinite(values).all():
            raise NumericalError(f"tensor {name} holds values that {self.floats} cannot hold")
        stored.release()
        return values

    def _proto(self, name: str, array: Array) -> Any:
        from onnx import TensorProto, numpy_helper

        array = np.asarray(array, order="C")
        if self._file is None or array.nbytes < _SMALL:
            return numpy_helper.from_array(array, name)
        self._file.write(b"\0" * (-self._file.tell() % _PAGE))
        place = {"location": EXTERNAL_FILE, "offset": self._file.tell(), "length": array.nbytes}
        self._file.write(array.data)
        proto = numpy_helper.from_array(array[:0], name)  # of its type, and without its data
        proto.ClearField("raw_data")
        proto.ClearField("dims")
        proto.dims.extend(array.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            proto.external_data.add(key=key, value=str(value))
        return proto
