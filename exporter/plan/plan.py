"""A plan as data: how each tensor is stored, where its bytes lie, and what the graph carries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.adapter_slots import AdapterSlots, Slot
from edgepress.bundle.states import State, state_bytes
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.model.parts.primitives import Weight

Form = Literal[
    "float",
    "blocks",
    "folded",
    "dynamic",
    "dynamic pairs",
    "uint8",
    "uint16",
    "half",
    "half blocks",
    "signed",
    "uint8 value",
    "uint16 value",
]


@dataclass(frozen=True)
class Region:
    """A run of bytes in the bundle's data file."""

    offset: int
    nbytes: int


@dataclass(frozen=True)
class PlannedTensor:
    """One weight, how it is stored and where.

    ``regions`` has ``values`` (uint8 codes), ``scales`` (float32) and, unless the scheme is symmetric, ``zero_points``
    (uint8) when there is a scheme, else ``data`` (float32). Columns in another order have ``order`` (int32) beside.
    ``reason`` says why the tensor is kept in float32, or which recipe entry chose the scheme. ``form`` is how the
    graph computes with it: ``float``; ``half`` (stored in float16); ``blocks`` (MatMulNBits, GatherBlockQuantized);
    ``half blocks`` (the same with ``scales`` in float16, which a graph in float32 casts when it is opened); ``folded``
    (stored as blocks, of which the graph makes floats when it is opened); or in integers, then ``values`` is uint8
    (columns, rows) and ``scales`` (rows,), and the activations have ranges that are ``dynamic``, or are ``uint8`` or
    ``uint16`` with ``input_scale`` (float32) and ``input_zero_point`` (of that type)
    from calibration. ``dynamic pairs`` is ``dynamic`` with int8 codes that fit into sums of 16 bits pair by pair. In a
    graph of which every value is an integer, ``signed`` is ``values`` (int8, or int4 two to a byte, in the graph's own
    order) and ``scales`` (rows,), and ``uint8 value`` and ``uint16 value`` are ``values`` of that type, whose one scale
    is in the graph.
    """

    weight: Weight
    scheme: Scheme | None
    reason: str
    bytes_before: int
    regions: dict[str, Region] = field(default_factory=dict)
    form: Form = "float"

    @property
    def stored_as(self) -> str:
        """The storage in words, as plans print it."""
        if self.scheme is None:
            return {"half": "float16", "float": "float32"}.get(
                self.form, f"{self.form.removesuffix(' value')}, one scale"
            )
        if not self.is_integer and self.form != "signed":
            return str(self.scheme)
        zeros = f", {self.scheme.zeros}" if self.scheme.zeros else ""
        return f"{self.scheme.method} {self.scheme.bits} bits, per channel{zeros}"

    @property
    def is_integer(self) -> bool:
        """Whether products with this weight are computed in integers."""
        return self.form in {"dynamic", "dynamic pairs", "uint8", "uint16"}

    @property
    def has_ranges(self) -> bool:
        """Whether calibration finds the range of the inputs of this weight's products."""
        return self.form in {"uint8", "uint16"}

    @property
    def bytes_after(self) -> int:
        """Bytes in the bundle, alignment apart."""
        return sum(region.nbytes for region in self.regions.values())


@dataclass(frozen=True)
class PlannedTable:
    """A float32 constant that is computed, not read: a factor of the rotation, (order, order)."""

    name: str
    shape: tuple[int, int]
    region: Region


@dataclass(frozen=True)
class Plan:
    """What will be done to each tensor, in the order in which the data file holds them."""

    tensors: tuple[PlannedTensor, ...]
    tables: tuple[PlannedTable, ...]
    data_bytes: int
    context_length: int
    accuracy_level: int
    states: tuple[State, ...]  # what the graph carries from one call to the next
    half_layers: tuple[int, ...] = ()  # layers that compute in float16 what the target has float16 kernels for
    default_context: int = 0  # tokens that a text may have unless more is asked for when the bundle is opened
    adapter_slots: AdapterSlots | None = None  # where the graph takes an adapter
    # By the name of a state that is integers: what each channel's are multiplied by, (1, heads, 1, channels). Empty
    # until the weights are written, which some text is run through.
    cache_scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)

    def of(self, weight: Weight) -> PlannedTensor:
        """Return the planned tensor of ``weight`` (KeyError when the plan has none)."""
        return self._by_name[weight.name]

    def state(self, name: str) -> State:
        """Return the state called ``name`` (KeyError when the plan has none)."""
        return self._states[name]

    def slot(self, name: str) -> Slot | None:
        """Return the adapter's slot beside the product of the weight called ``name``; None where it has none."""
        return self._slots.get(name)

    def table(self, name: str) -> PlannedTable:
        """Return the planned table called ``name`` (KeyError when the plan has none)."""
        return next(table for table in self.tables if table.name == name)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the states at the full context."""
        return self.cache_bytes_at(self.context_length)

    def cache_bytes_at(self, length: int) -> int:
        """Bytes of the states of a text of ``length`` tokens."""
        return state_bytes(self.states, length)

    @property
    def integer_states(self) -> tuple[State, ...]:
        """Keys and values that are kept as integers."""
        return tuple(state for state in self.states if state.type == "int8")

    @cached_property
    def schemes(self) -> Mapping[str, Scheme | None]:
        """How each weight is stored, by its name; None where it is kept as floats."""
        return {tensor.weight.name: tensor.scheme for tensor in self.tensors}

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that round its weights, each once."""
        return tuple(dict.fromkeys(tensor.scheme.method for tensor in self.tensors if tensor.scheme is not None))

    @cached_property
    def _by_name(self) -> dict[str, PlannedTensor]:
        return {tensor.weight.name: tensor for tensor in self.tensors}

    @cached_property
    def _slots(self) -> dict[str, Slot]:
        return {} if self.adapter_slots is None else {slot.name: slot for slot in self.adapter_slots.slots}

    @cached_property
    def _states(self) -> dict[str, State]:
        return {state.name: state for state in self.states}

    @property
    def parameters(self) -> int:
        """Elements of all weights, those once that are used twice: tied ones, keys that are values too."""
        return sum(_elements(tensor.weight) for tensor in self.tensors)

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for an element on average: codes, scales, zero points and padding, and what stays float32."""
        return 8 * sum(tensor.bytes_after for tensor in self.tensors) / max(1, self.parameters)

    @property
    def bytes_before(self) -> int:
        """Bytes that the planned weights take in the checkpoint."""
        return sum(tensor.bytes_before for tensor in self.tensors)


def _elements(weight: Weight) -> int:
    """Elements of a weight, rows that it has twice counted once."""
    rows = sum(part.stop - part.start for part in dict.fromkeys(weight.parts))
    return prod((rows, *weight.shape[1:])) if weight.parts else prod(weight.shape)
