"""A model's weights in its checkpoint: whether they are there, and their values."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import rows_by_turns
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.kinds import refuse_odd_tensors
from edgepress.exporter.source.packed import PackedTensor
from edgepress.exporter.source.part import Part
from edgepress.exporter.source.stored import StoredTensor

_MISMATCH = "the config and the weights do not belong together"


def check_tensors(checkpoint: Checkpoint, weights: Sequence[Weight], ignored: Sequence[str] = ()) -> None:
    """Hold the checkpoint's tensors against those that the model is made of, before any weight is read.

    Every part's tensor exists, with a readable dtype and its weight's columns; together the parts use every row of it;
    and every tensor is used, unless its whole name matches one of the ``ignored`` regular expressions. Rows before that
    of the first position may be there for nothing.

    Raises:
        InputError: naming the tensor and both shapes.

    """
    spans: dict[str, list[Part]] = {}
    begin: dict[str, int] = {}
    for weight in weights:
        for part in weight.parts:
            _check_part(checkpoint, weight, part)
            spans.setdefault(part.tensor, []).append(part)
            begin[part.tensor] = part.start if weight.kind == "positions" else 0
    for name, parts in spans.items():
        _check_covered(checkpoint.tensors[name], parts, begin[name])
    patterns = [re.compile(pattern) for pattern in ignored]
    extra = [name for name in checkpoint.tensors if name not in spans and not any(p.fullmatch(name) for p in patterns)]
    if extra:
        refuse_odd_tensors(checkpoint.directory, extra)
        more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        raise InputError(
            f"{checkpoint.directory} has tensors that its config has no use for: {', '.join(extra[:3])}{more}; "
            "merge adapters and remove other parts first, or correct the config"
        )


def _check_part(checkpoint: Checkpoint, weight: Weight, part: Part) -> None:
    tensor = checkpoint.tensors.get(part.tensor)
    if tensor is None:
        refuse_odd_tensors(checkpoint.directory, checkpoint.tensors)
        raise InputError(
            f"{checkpoint.directory} has no tensor {part.tensor} ({weight.kind}), which its config asks for"
            f"{_other_names(checkpoint, part.tensor)}; is the checkpoint complete, and the config its own?"
        )
    tensor.check_readable()
    if (part.transposed or part.index is not None) and isinstance(tensor, PackedTensor) and not tensor.own_form:
        raise InputError(
            f"{tensor.name} is stored quantized ({tensor.how}), and this family stores it in another form: not "
            "implemented; export the original checkpoint"
        )
    stored = tensor.shape if part.index is None else tensor.shape[1:]
    used = stored[::-1] if part.transposed else stored
    needed = (part.stop, *weight.shape[1:])
    lacking = part.index is not None and (not tensor.shape or tensor.shape[0] <= part.index)
    if lacking or len(used) != len(needed) or used[1:] != needed[1:] or used[0] < part.stop:
        asked = needed[::-1] if part.transposed else needed
        if part.index is not None:
            asked = (part.index + 1, *asked)
        raise InputError(f"{tensor.name} has shape {tensor.shape}, and config.json asks for {asked}; {_MISMATCH}")


def _other_names(checkpoint: Checkpoint, name: str) -> str:
    """What a missing tensor seems to be called instead."""
    ends = (name, name.removeprefix("model."))
    found = next((other for end in ends for other in checkpoint.tensors if other.endswith(f".{end}")), None)
    return "" if found is None else f" (it has {found}: rename the tensors as transformers does)"


def _check_covered(tensor: StoredTensor, parts: Sequence[Part], first: int) -> None:
    indices = {part.index for part in parts}
    if None not in indices and len(indices) < tensor.shape[0]:
        asked = (len(indices), *tensor.shape[1:])
        raise InputError(f"{tensor.name} has shape {tensor.shape}, and config.json asks for {asked}; {_MISMATCH}")
    reached = min(_reached([part for part in parts if part.index == index], first) for index in indices)
    axis = (1 if parts[0].transposed else 0) + (None not in indices)
    if reached < tensor.shape[axis]:
        asked = (*tensor.shape[:axis], reached, *tensor.shape[axis + 1 :])
        raise InputError(f"{tensor.name} has shape {tensor.shape}, and config.json asks for {asked}; {_MISMATCH}")


def _reached(parts: Sequence[Part], reached: int) -> int:
    """The first row from ``reached`` on that no part has."""
    for part in sorted(parts, key=lambda part: part.start):
        if part.start > reached:
            break
        reached = max(reached, part.stop)
    return reached


def read_weight(checkpoint: Checkpoint, weight: Weight) -> NDArray[np.float32]:
    """Read a whole weight as the graph uses it, ``plus`` added: float32, in the weight's shape."""
    if not weight.parts:
        return np.full(weight.shape, weight.plus, np.float32)
    rows = [checkpoint.part_rows(part, 0, part.stop - part.start) for part in weight.parts]
    joined = rows_by_turns if weight.interleaved else np.concatenate
    whole = rows[0] if len(rows) == 1 else joined(rows)
    return whole + np.float32(weight.plus) if weight.plus else whole
