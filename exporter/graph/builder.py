"""A small builder over ONNX protobufs: nodes in call order, constants inline or in the data file."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.plan import Region

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"  # onnxruntime's own operators

Attribute = int | float | str | list[int]


class GraphBuilder:
    """Collects the parts of one graph; every method that adds a value returns its name."""

    def __init__(self, data_file: str) -> None:
        self._data_file = data_file
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Add a graph input; names in ``shape`` are dynamic dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare ``name``, a value that some node makes, as a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant inside the model file; adding the same name again is a no-op."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(value, name)
        return name

    def external(self, name: str, dtype: int, shape: Sequence[int], region: Region) -> str:
        """Add a constant whose bytes are ``region`` of the data file; adding the same name again is a no-op."""
        if name not in self._initializers:
            tensor = TensorProto(name=name, data_type=dtype, dims=shape, data_location=TensorProto.EXTERNAL)
            entries = {"location": self._data_file, "offset": str(region.offset), "length": str(region.nbytes)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            self._initializers[name] = tensor
        return name

    def has_value(self, name: str) -> bool:
        """Whether a node of this graph makes ``name``."""
        return name in self._made

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        output: str,
        *,
        domain: str = "",
        more_outputs: Sequence[str] = (),
        **attributes: Attribute,
    ) -> str:
        """Add a node and return its first output's name; an empty input or output name is one left out."""
        names = [output, *more_outputs]
        node = onnx.NodeProto(op_type=op, input=inputs, output=names, name=output, domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(node)
        self._made.update(names)
        return output

    def model(self, name: str, producer_version: str) -> onnx.ModelProto:
        """Return the finished model (opset 21 and onnxruntime's contrib operators)."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, list(self._initializers.values()))
        return helper.make_model(
            graph,
            producer_name="edgepress",
            producer_version=producer_version,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        )
