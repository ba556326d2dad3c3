"""A LoRA adapter, as peft saves it, made into the file that the slots of a bundle take.

onnxruntime's own format (``onnxruntime.AdapterFormat``), which onnxruntime-genai loads too: the values of a graph's
inputs by their names. B is stored times the adapter's scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.adapter_file import adapter_for
from edgepress.bundle.adapter_slots import AdapterSlots, Slot, adapter_version, model_version
from edgepress.bundle.manifest import read_manifest
from edgepress.disk.files import atomic_file
from edgepress.errors import InputError
from edgepress.exporter.source.adapters import Adapter, Factors, read_adapter
from edgepress.exporter.source.stored import StoredTensor

SUFFIX = ".onnx_adapter"  # what onnxruntime's documentation calls such files
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class WrittenAdapter:
    """What was written: how many ``slots`` have factors, the largest ``rank`` of a tensor, and the file's ``bytes``."""

    note: str
    slots: int
    rank: int
    bytes: int


def write_adapter(bundle: Path, directory: Path, out: Path, *, force: bool = False) -> WrittenAdapter:
    """Write the adapter in ``directory`` for the slots of ``bundle``, and read it back.

    Raises:
        InputError: the bundle has no slots, the adapter changes what has none, in another way than by two factors, has
            too large a rank or other sizes, or values that are not finite; or ``out`` exists without ``force``.

    """
    manifest = read_manifest(bundle)
    slots = manifest.adapter_slots
    if slots is None:
        raise InputError(f"{bundle} takes no adapters; export it with --adapter-slots {directory}")
    adapter = read_adapter(directory)
    factors = adapter.factors(slots.tensors)
    _check(adapter, factors, slots)
    values = slot_values(factors, slots)
    wrong = next((name for name, value in values.items() if not np.isfinite(value).all()), None)
    if wrong is not None:
        raise InputError(f"{directory}: {wrong} would have values that are not finite; train the adapter again")
    with atomic_file(out, replace=force) as work:
        _write(work, values, model_version(manifest.source))
        adapter_for(bundle, work)
    ranks = [one.rank for one in factors.values()]
    return WrittenAdapter(adapter.note, len(values) // 2, max(ranks), out.stat().st_size)


def _check(adapter: Adapter, factors: Mapping[str, Factors], slots: AdapterSlots) -> None:
    """Hold each pair of factors against the tensor that it changes."""
    columns = {tensor: slot.columns for slot in slots.slots for tensor in slot.tensors}
    for tensor, one in factors.items():
        shape = (one.b.shape[0], one.a.shape[1])
        if shape != (slots.rows_of(tensor), columns[tensor]):
            raise InputError(
                f"{adapter.directory}: {tensor} is {[slots.rows_of(tensor), columns[tensor]]} in the bundle, and the "
                f"adapter has factors {list(one.b.shape)} and {list(one.a.shape)}; it was made for another model"
            )
        if one.rank > slots.rank:
            raise InputError(
                f"{adapter.directory} has rank {one.rank} for {tensor}, and the bundle takes at most {slots.rank}; "
                f"export it with --adapter-slots {adapter.directory}"
            )


def slot_values(factors: Mapping[str, Factors], slots: AdapterSlots) -> dict[str, Floats]:
    """The values of the graph's inputs, float32: A (columns, rank) and B (rank, rows) of each slot that is changed.

    The ranks of a slot's tensors stand side by side: A has one after the other, and B those rows of each that are the
    slot's, zeros elsewhere.
    """
    values: dict[str, Floats] = {}
    for slot in slots.slots:
        changed = [tensor for tensor in slot.tensors if tensor in factors]
        if changed:
            a = np.concatenate([_read(factors[tensor].a) for tensor in changed])  # (rank, columns)
            b = np.concatenate([_rows_of_slot(slot, tensor, factors[tensor]) for tensor in changed])  # (rank, rows)
            values |= {slot.a: np.ascontiguousarray(a.T), slot.b: b}
    return values


def _rows_of_slot(slot: Slot, tensor: str, factors: Factors) -> Floats:
    """B of one tensor, times the scale, in the rows of the slot that are its own: (rank, rows)."""
    found = np.zeros((factors.rank, slot.rows), np.float32)
    scaled = _read(factors.b) * np.float32(factors.scale)  # (the tensor's rows, rank)
    for part in slot.parts:
        if part.tensor == tensor:
            found[:, part.rows] = scaled[part.start : part.stop].T
    return found


def _read(tensor: StoredTensor) -> Floats:
    return tensor.rows(0, tensor.shape[0])


def _write(path: Path, values: Mapping[str, Floats], model: int) -> None:
    import onnxruntime

    file = onnxruntime.AdapterFormat()
    file.set_model_version(model)
    file.set_adapter_version(adapter_version(values))
    file.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()})
    file.export_adapter(str(path))
