"""Adapter files, in onnxruntime's format: read, and held against the bundle that they are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgepress.bundle.adapter_slots import AdapterSlots, Slot, adapter_version, model_version
from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError

if TYPE_CHECKING:
    from onnxruntime import OrtValue

_FLOATS = "tensor(float)"
_MAKE = "make it with `edgepress adapter`"


@dataclass(frozen=True)
class Adapter:
    """The factors of one adapter by the names of a graph's inputs, in memory that sessions read at each run."""

    path: Path
    values: "Mapping[str, OrtValue]"


def adapter_for(bundle: Path, path: Path) -> Adapter:
    """Read the adapter file at ``path`` for a bundle, whose manifest says what adapters it takes.

    Raises:
        InputError: the bundle takes none; the file is no adapter, was changed after it was written, or is of another
            checkpoint; or a factor has no slot, another shape or type than it, too large a rank, or is not finite.

    """
    manifest = read_manifest(bundle)
    slots = manifest.adapter_slots
    if slots is None:
        raise InputError(f"{bundle} takes no adapters; export it with --adapter-slots, or merge one with --adapter")
    if not path.is_file():
        raise InputError(f"{path} is no file; give an adapter file, and {_MAKE}")
    import onnxruntime

    try:
        file = onnxruntime.AdapterFormat.read_adapter(str(path))
        values = file.get_parameters()
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{path} is no adapter file that onnxruntime reads; {_MAKE}") from error
    if file.get_model_version() != model_version(manifest.source):
        raise InputError(
            f"{path} was made for another checkpoint than {bundle} (model version {file.get_model_version()}, not "
            f"{model_version(manifest.source)}); {_MAKE} for this bundle"
        )
    _check_shapes(path, values, slots)
    arrays = {name: value.numpy() for name, value in values.items()}
    if file.get_adapter_version() != adapter_version(arrays):
        raise InputError(f"{path} was changed after it was written; {_MAKE} again")
    wrong = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if wrong is not None:
        raise InputError(f"{path}: {wrong} has values that are not finite; train the adapter again")
    return Adapter(path, values)


def _check_shapes(path: Path, values: "Mapping[str, OrtValue]", slots: AdapterSlots) -> None:
    """Hold every factor against its slot: A (columns, rank), B (rank, rows), of one rank."""
    by_input = dict(slots.inputs)
    unknown = next((name for name in values if name not in by_input), None)
    if unknown is not None or not values:
        what = "holds no factor" if unknown is None else f"has {unknown[:200]}"
        raise InputError(f"{path} {what}, and the bundle's slots are for {', '.join(slots.targets)}; {_MAKE}")
    for slot in {by_input[name]: None for name in values}:
        _check_slot(path, values, slot, slots.rank)


def _check_slot(path: Path, values: "Mapping[str, OrtValue]", slot: Slot, most: int) -> None:
    a, b = values.get(slot.a), values.get(slot.b)
    if a is None or b is None:
        raise InputError(f"{path} has one of {slot.a} and {slot.b}, and needs both; {_MAKE} again")
    shapes, types = (a.shape(), b.shape()), (a.data_type(), b.data_type())
    rank = shapes[0][-1] if shapes[0] else 0
    if shapes != ([slot.columns, rank], [rank, slot.rows]) or types != (_FLOATS, _FLOATS):
        raise InputError(
            f"{path}: {slot.name} takes factors of {slot.columns} × rank and rank × {slot.rows} in float32, and the "
            f"file has {shapes[0]} in {types[0]} and {shapes[1]} in {types[1]}; it is of another model"
        )
    if not 1 <= rank <= most * len(slot.tensors):
        raise InputError(
            f"{path}: {slot.name} has rank {rank}, and the bundle takes 1 to {most} for each of {len(slot.tensors)} "
            f"tensors; export it with --adapter-slots and a larger rank"
        )
