"""A small builder over ONNX protobufs: nodes in call order, constants inline or in the data file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.graph.weights import refer
from edgepress.exporter.plan.plan import Region
from edgepress.targets import Operator

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"  # onnxruntime's own operators

Attribute = int | float | str | list[int] | TensorProto

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
_SUFFIX: dict[int, str] = {FLOAT: "float32", FLOAT16: "float16"}
_MOVES = ("Gather", "Reshape", "Slice", "Split")  # these compute nothing: what comes out is of the type that goes in


class GraphBuilder:
    """Collects the parts of one graph; every method that adds a value returns its name.

    Nodes compute in float32, and inside :meth:`in_half` in float16 those for which ``has_half`` says that there is a
    kernel. Every float value's type is known, and a Cast is written where a node needs another one, so that onnxruntime
    has none to insert.
    """

    def __init__(self, data_file: str, has_half: Callable[[Operator], bool] = lambda _: False) -> None:
        self._data_file = data_file
        self._has_half, self._is_half = has_half, False
        self._types: dict[str, int] = {}  # of float values: FLOAT or FLOAT16
        self._writers: dict[str, Callable[[str, int], object]] = {}  # of values that are written when they are read
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._shapes: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Add a graph input; names in ``shape`` are dynamic dimensions."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        self._note_type(name, dtype)
        return name

    def optional_input(self, name: str, shape: Sequence[int | str], default: NDArray[np.generic]) -> str:
        """Add a graph input that is ``default`` where a caller gives nothing else."""
        self.constant(name, default)
        return self.input(name, self._initializers[name].data_type, shape)

    def output(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare ``name``, a value that some node makes, as a graph output."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def shape(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Say which shape a value has where it does not follow from the nodes."""
        self._shapes.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a small constant inside the model file; adding the same name again is a no-op."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(value, name)
            self._note_type(name, self._initializers[name].data_type)
        return name

    def external(self, name: str, dtype: int, shape: Sequence[int], region: Region) -> str:
        """Add a constant whose bytes are ``region`` of the data file; adding the same name again is a no-op."""
        if name not in self._initializers:
            self._initializers[name] = tensor = TensorProto(name=name, data_type=dtype, dims=shape)
            refer(tensor, self._data_file, region.offset, region.nbytes)
            self._note_type(name, dtype)
        return name

    def has_value(self, name: str) -> bool:
        """Whether a node of this graph makes ``name``."""
        return name in self._made

    def when_read(self, name: str, write: Callable[[str, int], object]) -> str:
        """A float32 value that ``write(name, type)`` makes where a node reads it, in the type in which it does."""
        self._writers[name], self._types[name] = write, FLOAT
        return name

    def zeros(self, shape: str, output: str, dtype: int) -> str:
        """Add zeros of a float type, in the shape that the value ``shape`` says."""
        zero = numpy_helper.from_array(np.zeros(1, helper.tensor_dtype_to_np_dtype(dtype)))
        self._append("ConstantOfShape", [shape], [output], "", {"value": zero})
        self._types[output] = dtype
        return output

    @contextmanager
    def in_half(self, active: bool) -> Iterator[None]:
        """Nodes added in this block compute in float16, if ``active`` and there is a kernel."""
        self._is_half, before = active, self._is_half
        try:
            yield
        finally:
            self._is_half = before

    def in_type_of(self, value: str) -> AbstractContextManager[None]:
        """Nodes added in the block compute in the float type that ``value`` has."""
        return self.in_half(self._types.get(value) == FLOAT16)

    def _note_type(self, name: str, dtype: int) -> None:
        if dtype in _SUFFIX:
            self._types[name] = dtype

    def _computes_in(self, op: str, inputs: Sequence[str], domain: str) -> int | None:
        """The float type of a node: what it takes and what it gives; None when it takes no floats."""
        types = [self._types[name] for name in inputs if name in self._types]
        if not types:
            return None
        if op in _MOVES:
            return types[0]
        version = 1 if domain else OPSET
        return FLOAT16 if self._is_half and self._has_half(Operator(domain, op, version)) else FLOAT

    def _as_type(self, name: str, dtype: int) -> str:
        """A float value in ``dtype``: itself, or its Cast, written once."""
        is_so = self._types.get(name, dtype) == dtype
        cast = name if is_so else f"{name}.{_SUFFIX[dtype]}"
        if name in self._writers and cast not in self._made:
            with self.in_half(False):
                self._writers[name](cast, dtype)
            self._types[cast] = dtype
        elif cast not in self._made and not is_so:
            self._append("Cast", [name], [cast], "", {"to": dtype})
            self._types[cast] = dtype
        return cast

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
        """Add a node and return its first output's name; an empty input or output name is one left out.

        Its float inputs are cast to the type that it computes in.
        """
        names = [output, *more_outputs]
        dtype = self._computes_in(op, inputs, domain)
        if dtype is not None:
            inputs = [self._as_type(name, dtype) for name in inputs]
            if op != "QuantizeLinear":
                self._types |= dict.fromkeys(filter(None, names), dtype)
        self._append(op, inputs, names, domain, attributes)
        return output

    def _append(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str, attributes: Mapping[str, Attribute]
    ) -> None:
        node = onnx.NodeProto(op_type=op, input=inputs, output=outputs, name=outputs[0], domain=domain)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(node)
        self._made.update(outputs)

    def model(self, name: str, producer_version: str) -> onnx.ModelProto:
        """Return the finished model (opset 21 and onnxruntime's contrib operators)."""
        constants = list(self._initializers.values())
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, constants, value_info=self._shapes)
        return helper.make_model(
            graph,
            producer_name="edgepress",
            producer_version=producer_version,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        )
