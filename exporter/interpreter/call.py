"""One node while it is computed: what its operator's function is told beside the inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from onnx import TensorProto
from torch import Tensor

from edgepress.errors import InputError

Result = Tensor | tuple[Tensor | None, ...]
"""The first output, or one for each output, None where an output is not made."""

Operator = Callable[..., Result]
"""``operator(call, *inputs)``; an input that is left out is None."""

TYPES: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.BOOL: torch.bool,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.int32,
    TensorProto.UINT32: torch.int64,
    TensorProto.INT4: torch.int8,
    TensorProto.UINT4: torch.uint8,
    TensorProto.INT2: torch.int8,
    TensorProto.UINT2: torch.uint8,
}
"""What each type of ONNX is computed in. Torch computes little in uint16 and uint32, and has nothing below a byte."""

LIMITS: Mapping[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-(1 << 15), (1 << 15) - 1),
    TensorProto.UINT16: (0, (1 << 16) - 1),
    TensorProto.INT32: (-(1 << 31), (1 << 31) - 1),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
    TensorProto.INT2: (-2, 1),
    TensorProto.UINT2: (0, 3),
}
"""The least and the greatest integer of each type that values are quantized to."""


@dataclass(frozen=True)
class Call:
    """A node: ``key`` is its operator with its domain, ``version`` the opset, ``outputs`` how many there are.

    ``types`` are the ONNX types of its inputs where these are constants, else None. ``run`` computes one of the node's
    graphs, by the name of its attribute, on values for the inputs of that graph.
    """

    key: str
    name: str
    version: int
    outputs: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    types: tuple[int | None, ...] = ()
    run: Callable[[str, Sequence[Tensor]], list[Tensor]] | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute ``name``."""
        return self.attributes.get(name, default)

    def type_of(self, index: int) -> int | None:
        """The ONNX type of an input that is a constant."""
        return self.types[index] if index < len(self.types) else None

    def inner(self, name: str, *values: Tensor) -> list[Tensor]:
        """Compute the graph in the attribute ``name``."""
        if self.run is None:
            self.refuse("it has no graph inside")
        return self.run(name, values)

    def refuse(self, why: str) -> NoReturn:
        """Raise the error that says what of this node cannot be computed here."""
        raise InputError(
            f"node {self.name} ({self.key}) cannot be computed in torch: {why}; leave out the methods that look at "
            "what the model computes, or write the node in other operators"
        )

    def only(self, **settings: Any) -> None:
        """Refuse attributes that are set to anything but these.

        Raises:
            InputError: one is.

        """
        for name, value in settings.items():
            if (found := self.get(name, value)) != value:
                self.refuse(f"{name} = {found!r} is not known")


def integers(values: Tensor | Sequence[int] | None) -> list[int] | None:
    """Shapes, axes and the like, given as a tensor or an attribute."""
    if values is None:
        return None
    return [int(value) for value in (values.reshape(-1).tolist() if isinstance(values, Tensor) else values)]


def number(value: Tensor | float | None, default: float) -> float:
    """A scalar."""
    return default if value is None else float(value)
