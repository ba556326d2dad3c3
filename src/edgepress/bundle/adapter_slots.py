"""Where a bundle's graphs take an adapter: its slots, as data.

A slot stands beside one product of a graph and adds what an adapter changes of it (Hu et al. 2021, equation 3)::

    x ─┬ quantized product ─────────── Add ─ y
       └ MatMul(A) ─ MatMul(s · B) ────┘

A (columns, rank) and B (rank, rows) are inputs of the graph whose defaults are of rank 0, which adds zeros. The
exporter lists the slots of what it exports and the manifest keeps that list; an adapter file, in onnxruntime's own
format, has values for the inputs of some slots, by their names. Two whole numbers that the format leaves to its users
tell files apart: the model version is of the checkpoint that the bundle was made from, the adapter version of what the
file holds. They find mistakes, not forgers: who can write a file can write its numbers too.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.schema import Count, Size

MOST_RANK = 1 << 12  # peft's users take 4 to 256
_MOST_SLOTS, _LONGEST_NAME = 1 << 16, 200  # slots, and characters
_POSITIVE = 0x7FFF_FFFF  # versions are signed integers of 32 bits

Rank = Annotated[int, msgspec.Meta(ge=1, le=MOST_RANK)]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class SlotPart:
    """Rows ``start`` to ``stop`` of a checkpoint's ``tensor``: the rows ``first``, ``first + step``, … of a slot."""

    tensor: str
    start: Size
    stop: Size
    first: Size
    step: Count = 1

    @property
    def rows(self) -> range:
        """The slot's rows that it is about."""
        return range(self.first, self.first + self.step * (self.stop - self.start), self.step)


@dataclass(frozen=True)
class Slot:
    """A product (…, columns) → (…, rows) called ``name``, and the ``parts`` of it that adapters may change.

    An adapter has a pair of factors for each tensor, and a graph computes some of them as one product, such as queries,
    keys and values: ranks of the tensors of a slot add up.
    """

    name: str
    columns: Count
    rows: Count
    parts: tuple[SlotPart, ...]

    @property
    def a(self) -> str:
        """The input for A, (columns, rank)."""
        return f"{self.name}.lora_A"

    @property
    def b(self) -> str:
        """The input for B times its scale, (rank, rows)."""
        return f"{self.name}.lora_B"

    @property
    def tensors(self) -> tuple[str, ...]:
        """The checkpoint's tensors that adapters may change here."""
        return tuple(dict.fromkeys(part.tensor for part in self.parts))

    def size(self, rank: int) -> int:
        """Bytes of A and B in float32 where each tensor's rank is ``rank``."""
        return 4 * rank * len(self.tensors) * (self.columns + self.rows)


@dataclass(frozen=True)
class AdapterSlots:
    """The slots of a bundle, and the largest ``rank`` of an adapter for one tensor."""

    rank: Rank
    slots: tuple[Slot, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The checkpoint's tensors that adapters may change."""
        return tuple(dict.fromkeys(tensor for slot in self.slots for tensor in slot.tensors))

    @property
    def inputs(self) -> Iterator[tuple[str, Slot]]:
        """Each input that a graph has for an adapter, with its slot."""
        return ((name, slot) for slot in self.slots for name in (slot.a, slot.b))

    @property
    def targets(self) -> tuple[str, ...]:
        """The last words of the tensors' modules, as peft's ``target_modules`` has them."""
        return tuple(dict.fromkeys(tensor.removesuffix(".weight").rpartition(".")[2] for tensor in self.tensors))

    @property
    def largest_bytes(self) -> int:
        """Bytes of an adapter of the largest rank for every tensor."""
        return sum(slot.size(self.rank) for slot in self.slots)

    def rows_of(self, tensor: str) -> int:
        """Rows of one of the :attr:`tensors`."""
        return max(part.stop for slot in self.slots for part in slot.parts if part.tensor == tensor)


def check_slots(slots: AdapterSlots) -> None:
    """Raise a ValueError where slots are none, share a name, or have parts that are not theirs."""
    if not 0 < len(slots.slots) <= _MOST_SLOTS:
        raise ValueError(f"there are {len(slots.slots)} slots, and a list has 1 to {_MOST_SLOTS}")
    if len({slot.name for slot in slots.slots}) < len(slots.slots):
        raise ValueError("two slots have one name; each needs its own")
    for slot in slots.slots:
        if not 0 < len(slot.name) <= _LONGEST_NAME:
            raise ValueError(f"a slot's name has 1 to {_LONGEST_NAME} characters, and one has {len(slot.name)}")
        if not slot.parts:
            raise ValueError(f"slot {slot.name} has no parts")
        for part in slot.parts:
            if part.stop <= part.start or part.rows[-1] >= slot.rows:
                raise ValueError(
                    f"slot {slot.name} has {slot.rows} rows, and rows {part.start} to {part.stop} of {part.tensor} "
                    f"from its row {part.first} on in steps of {part.step}"
                )


def model_version(source: Mapping[str, str]) -> int:
    """The number of a checkpoint whose files have these SHA-256, by their names."""
    return _number([f"{name} {digest}".encode() for name, digest in sorted(source.items())])


def adapter_version(values: Mapping[str, Floats]) -> int:
    """The number of an adapter with these values, by the names of inputs."""
    return _number(
        piece
        for name, value in sorted(values.items())
        for piece in (f"{name} {value.shape}".encode(), np.ascontiguousarray(value, "<f4").data)
    )


def _number(pieces: "Iterator[bytes | memoryview] | Sequence[bytes]") -> int:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return int.from_bytes(digest.digest()[:4], "little") & _POSITIVE
