"""What zeros among the codes save: the data file as stores and servers deliver it, beside the same one without zeros.

Apps and web servers compress with deflate (RFC 1951), zlib's default level 6; no kernel skips a zero, so the file on
the device is as large as before.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgepress.exporter.bundle.files import write_tables
from edgepress.exporter.bundle.stream import write_weights
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.subject import Description, WeightSource
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.terminal.progress import Progress, silent

LEVEL = 6  # zlib's default
_PIECE = 1 << 20  # bytes
_ELEMENTS = 1 << 20  # weights looked at at a time


def describe_zeros(
    data_file: Path,
    plan: Plan,
    subject: Description,
    source: WeightSource,
    *,
    threads: int,
    progress: Progress = silent,
) -> dict[str, object] | None:
    """What a sparse bundle's manifest says about its zeros; None for a bundle in which no tensor has some on purpose.

    ``zeros`` is the share of codes that mean 0, of all these tensors and by name; ``deflated_bytes`` what is left of
    ``data_bytes``, and ``dense_deflated_bytes`` what is left of the file in which every calibrated tensor is rounded to
    nearest instead, as ``source`` has it. That file is written beside ``data_file`` and removed.
    """
    sparse = [tensor for tensor in plan.tensors if tensor.scheme is not None and tensor.scheme.zeros]
    if not sparse:
        return None
    stored = StoredWeights(data_file, plan)
    counts = {tensor.weight.name: count_zeros(stored, tensor) for tensor in sparse}
    sizes = {tensor.weight.name: int(np.prod(tensor.weight.shape)) for tensor in sparse}
    dense_file = data_file.with_name(f".{data_file.name}.dense")
    try:
        dense = round_to_nearest(plan)
        write_weights(source, dense, dense_file, threads=threads)
        write_tables(dense_file, dense, subject)
        with progress(2 * plan.data_bytes, "measuring the download", "B") as advance:
            sizes_after = [deflated_bytes(path, advance) for path in (data_file, dense_file)]
    finally:
        dense_file.unlink(missing_ok=True)
    return {
        "zeros": round(sum(counts.values()) / sum(sizes.values()), 6),
        "tensors": {name: round(count / sizes[name], 6) for name, count in counts.items()},
        "asked": sorted({tensor.scheme.zeros for tensor in sparse if tensor.scheme is not None}),
        "data_bytes": data_file.stat().st_size,
        "deflated_bytes": sizes_after[0],
        "dense_deflated_bytes": sizes_after[1],
        "compressor": f"zlib {zlib.ZLIB_RUNTIME_VERSION}, level {LEVEL}",
    }


def round_to_nearest(plan: Plan) -> Plan:
    """The same plan, with what only calibration can round rounded to nearest from the checkpoint's weights."""

    def dense(tensor: PlannedTensor) -> PlannedTensor:
        scheme = tensor.scheme
        if scheme is None or isinstance(load_method(scheme.method), Method):
            return tensor
        return replace(tensor, scheme=replace(scheme, method="rtn", zeros=""))

    return replace(plan, tensors=tuple(map(dense, plan.tensors)))


def count_zeros(stored: StoredWeights, tensor: PlannedTensor) -> int:
    """How many weights of a tensor are stored as 0."""
    rows, columns = tensor.weight.shape
    step = max(1, _ELEMENTS // columns)
    pieces = (stored.rows(tensor, start, min(start + step, rows)) for start in range(0, rows, step))
    return sum(piece.size - int(np.count_nonzero(piece)) for piece in pieces)


def deflated_bytes(path: Path, advance: Callable[[int], None] = lambda _: None) -> int:
    """Bytes of a file after deflate, read a piece at a time; ``advance`` is called with how many were read."""
    compressor, total = zlib.compressobj(LEVEL), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total += len(compressor.compress(piece))
            advance(len(piece))
    return total + len(compressor.flush())


def describe_saving(sparsity: dict[str, object]) -> str:
    """What :func:`describe_zeros` found, in one line."""
    stored, deflated, dense = (
        f"{int(str(sparsity[key])) / 1e6:,.3f} MB" for key in ("data_bytes", "deflated_bytes", "dense_deflated_bytes")
    )
    return (
        f"{float(str(sparsity['zeros'])):.1%} of the codes mean 0; the data file of {stored} takes {deflated} in a "
        f"compressed download, {dense} without these zeros. On the device they save neither bytes nor time: no kernel "
        "here skips them"
    )
