"""Take weights from the checkpoint to the bundle's data file in bounded pieces: row chunks, on several threads.

Peak memory is a function of the chunk and the threads, not of the model. The file's bytes and the report depend on
neither: chunks are fixed, each has its place, and sums are added up in the order of the rows.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.arrays import integer, kernels
from edgepress.exporter.arrays.packing import Quantized, by_turns, dequantize, rows_by_turns, unpack_zero_points
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.subject import WeightSource
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.exporter.source.part import Part

_CHUNK = 1 << 18  # elements of a weight handled at a time
_TRANSPOSED_CHUNK = 1 << 22  # more when each chunk reads its whole tensor: GPT-2 XL's largest has 10 M elements
_COLUMNS_CHUNK = 1 << 22  # more when columns are written, so that each is a run of some hundred bytes
_PROGRESS_SECONDS = 0.1
_KEPT_BY_MALLOC = 16 << 20  # bytes; the largest threshold that glibc raises by itself
_LOST_IN_HALF = 1e-3  # relative, root mean square: float16 rounds scales by 3e-4 where it holds them in full


class ScalesLostError(Exception):
    """Scales of some tensors are too small or too large for float16: ``tensors`` says by how much, by their names."""

    def __init__(self, tensors: Mapping[str, str]) -> None:
        super().__init__(f"float16 loses the scales of {', '.join(tensors)}")
        self.tensors = tensors


class Made(Protocol):
    """Weights as they will be stored, made by what looked at what the model computes."""

    @property
    def reports(self) -> Mapping[str, Mapping[str, Any]]:
        """How near each is to the model's, by its name."""

    def __contains__(self, name: object) -> bool: ...

    def array(self, name: str, part: str) -> NDArray[Any]:
        """One array of a weight: ``values``, ``scales``, ``zero_points`` or ``data``."""

    def weight(self, name: str) -> Quantized | NDArray[np.float32]:
        """A weight whose codes are integers of a product, or that is kept."""


@dataclass(frozen=True)
class TensorReport:
    """How near a stored tensor is to the checkpoint's.

    ``sqnr_db`` is 10 log10 (Σ x² / Σ (x − x̂)²) over the bytes as stored, None when there is no difference at all.
    ``few_tokens`` came to a weight that was rounded to nearest for that reason, None for all others.
    """

    sqnr_db: float | None
    max_abs_error: float
    few_tokens: int | None = None


@dataclass(frozen=True)
class _Chunk:
    """Rows ``start`` to ``stop`` of a part, or of two that take turns: rows of the weight from ``row`` on."""

    tensor: PlannedTensor
    parts: tuple[Part, ...]
    start: int
    stop: int
    row: int

    def read(self, checkpoint: WeightSource) -> NDArray[np.float32]:
        """(rows, columns) or (rows,)."""
        return rows_by_turns([checkpoint.part_rows(part, self.start, self.stop) for part in self.parts])


_Rounding = Callable[[NDArray[np.float32], int], Quantized]
"""What rows of a chunk become, by themselves and the number that the first of them has in it."""


@dataclass(frozen=True)
class _Sums:
    """What a chunk adds to its tensor's report."""

    power: float
    noise: float
    max_abs_error: float
    scales: tuple[float, float] = (0.0, 0.0)  # the sum of their squares, and of what float16 loses of them


def write_weights(
    checkpoint: WeightSource,
    plan: Plan,
    path: Path,
    *,
    threads: int,
    calibrated: Made | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, TensorReport]:
    """Write the data file that ``plan`` describes and return how near each tensor is to the checkpoint's, by name.

    What ``calibrated`` has is copied from there; everything else is read from the checkpoint and rounded on the way.
    ``progress`` is called now and then, in the calling thread, with the elements written since it was last called.

    Raises:
        InputError: a weight is not finite, or the file cannot be written in full.
        ScalesLostError: scales are planned in float16, which cannot hold them.

    """
    if threads < 1:
        raise ValueError(f"threads must be 1 or more, not {threads}")
    _keep_freed_memory()
    made = [tensor for tensor in plan.tensors if calibrated is not None and tensor.weight.name in calibrated]
    names = {tensor.weight.name for tensor in made}
    direct = [tensor for tensor in plan.tensors if tensor.weight.name not in names]
    methods = {name: _row_method(name) for name in {t.scheme.method for t in direct if t.scheme is not None}}
    kept = {t.weight.name for t in direct if t.scheme is not None and methods[t.scheme.method].keeping is not None}
    sums: dict[str, dict[int, _Sums]] = {tensor.weight.name: {} for tensor in direct}
    chunks = _chunks(direct, checkpoint.by_columns)
    lock, stop = threading.Lock(), threading.Event()
    written = [0]

    def work() -> None:
        kernels.load(plan.parameters)
        with path.open("r+b", buffering=0) as file:
            while not stop.is_set():
                with lock:
                    chunk = next(chunks, None)
                if chunk is None:
                    return
                with _disk_errors(path, plan.data_bytes):
                    found = _write_chunk(checkpoint, chunk, methods, file)
                with lock:
                    sums[chunk.tensor.weight.name][chunk.row] = found
                    rows = len(chunk.parts) * (chunk.stop - chunk.start)
                    written[0] += rows * math.prod(chunk.tensor.weight.shape[1:])

    with _disk_errors(path, plan.data_bytes):
        _allocate(path, plan.data_bytes)
    _run(work, threads, stop, lambda: written[0], progress)
    lost = {
        name: _lost_scales([found[row].scales for row in sorted(found)], 0.0 if name in kept else _LOST_IN_HALF)
        for name, found in sums.items()
    }
    if calibrated is not None:
        halves = [tensor.weight.name for tensor in made if tensor.form == "half blocks"]
        lost |= {name: _lost_scales([_half_scales(calibrated.array(name, "scales"))[1]]) for name in halves}
    if any(lost.values()):
        raise ScalesLostError({name: why for name, why in lost.items() if why})
    reports = {name: _report(name, found) for name, found in sums.items()}
    with path.open("r+b", buffering=0) as file, _disk_errors(path, plan.data_bytes):
        for tensor in plan.tensors:
            if calibrated is not None and tensor in made:
                reports[tensor.weight.name] = _copy(calibrated, tensor, file)
            elif not tensor.weight.parts:  # the gain of a norm that has none
                _write(file, tensor, 0, "data", np.full(tensor.weight.shape, tensor.weight.plus, np.float32))
            else:
                continue
            if progress is not None:
                progress(math.prod(tensor.weight.shape))
    return reports


def _copy(calibrated: Made, tensor: PlannedTensor, file: BinaryIO) -> TensorReport:
    """Store what calibration made of a weight."""
    name = tensor.weight.name
    if tensor.is_integer:
        stored = calibrated.weight(name)
        if not isinstance(stored, Quantized):
            raise ValueError(f"{name} is planned in codes, and calibration kept it in float32")
        codes, scales = _integers(stored, tensor)
        _write_columns(file, tensor, 0, codes.T)
        _write(file, tensor, 0, "scales", scales)
        for part in ("input_scale", "input_zero_point") if tensor.has_ranges else ():
            _write_all(file, tensor.regions[part].offset, calibrated.array(name, part))
    elif tensor.weight.static is not None:
        for region, place in tensor.regions.items():
            _write_all(file, place.offset, calibrated.array(name, region))
    elif tensor.form == "half":
        _write(file, tensor, 0, "data", _to_half(calibrated.array(name, "data"), tensor))
    else:
        for region in tensor.regions:
            stored = calibrated.array(name, region)
            is_half = region == "scales" and tensor.form == "half blocks"
            _write(file, tensor, 0, region, _half_scales(stored)[0] if is_half else stored)
    report = calibrated.reports.get(name, {})
    return TensorReport(report.get("sqnr_db"), report.get("max_abs_error", 0.0), report.get("few_tokens"))


def _row_method(name: str) -> Method:
    method = load_method(name)
    if not isinstance(method, Method):
        raise InputError(f"{name} does not round rows from the weights alone; name another method for this tensor")
    return method


def _run(
    work: Callable[[], None],
    threads: int,
    stop: threading.Event,
    written: Callable[[], int],
    progress: Callable[[int], None] | None,
) -> None:
    """Run ``work`` on every thread; the first error, or an interrupt here, stops them all and is raised."""
    told = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="edgepress-weights") as pool:
        try:
            pending = {pool.submit(work) for _ in range(threads)}
            while pending:
                done, pending = wait(pending, _PROGRESS_SECONDS, FIRST_COMPLETED)
                for future in done:
                    future.result()
                if progress is not None and (now := written()) > told:
                    progress(now - told)
                    told = now
        finally:
            stop.set()


def _keep_freed_memory() -> None:
    """Have glibc reuse the chunks' buffers instead of returning them to the system after each one.

    Fresh pages cost a fault every 4 KiB, measured as a third of the CPU time of an int4 export. Freeing one large
    (never touched) block raises malloc's own thresholds for the process: mallopt(3), M_MMAP_THRESHOLD. Elsewhere it
    has no effect.
    """
    np.empty(_KEPT_BY_MALLOC, np.uint8)


def _chunks(tensors: Sequence[PlannedTensor], by_columns: Callable[[Part], bool]) -> Iterator[_Chunk]:
    """All chunks, in the order of the data file."""
    for tensor in tensors:
        columns = math.prod(tensor.weight.shape[1:])
        row = 0
        parts = tensor.weight.parts
        for turns in [parts] if tensor.weight.interleaved else [(part,) for part in parts]:
            part, count = turns[0], len(turns)
            rows = part.stop - part.start
            size = _TRANSPOSED_CHUNK if by_columns(part) else _COLUMNS_CHUNK if tensor.is_integer else _CHUNK
            step = max(1, size // (columns * count))
            for start in range(0, rows, step):
                yield _Chunk(tensor, turns, start, min(start + step, rows), row + count * start)
            row += count * rows


def _write_chunk(checkpoint: WeightSource, chunk: _Chunk, methods: dict[str, Method], file: BinaryIO) -> _Sums:
    """Read the chunk's rows, and handle them ``_CHUNK`` elements at a time (a transposed chunk has more)."""
    x = _in_order(chunk.read(checkpoint), checkpoint, chunk, file)
    step = max(1, _CHUNK // math.prod(x.shape[1:]))
    rounded = _rounding(checkpoint, chunk, methods)
    if chunk.tensor.is_integer:
        pieces = _write_columns_chunk(x, chunk, rounded, file)
    else:
        pieces = [_write_rows(x[start : start + step], chunk, start, rounded, file) for start in range(0, len(x), step)]
    return _Sums(
        math.fsum(piece.power for piece in pieces),
        math.fsum(piece.noise for piece in pieces),
        max(piece.max_abs_error for piece in pieces),
        (math.fsum(piece.scales[0] for piece in pieces), math.fsum(piece.scales[1] for piece in pieces)),
    )


def _in_order(x: NDArray[np.float32], checkpoint: WeightSource, chunk: _Chunk, file: BinaryIO) -> NDArray[np.float32]:
    """The columns as they are stored; the first chunk of a weight writes their order beside it."""
    tensor = chunk.tensor
    if not tensor.weight.ordered:
        return x
    order = checkpoint.part_order(chunk.parts[0])
    if order is None:
        raise ValueError(f"{tensor.weight.name} is planned in an order that {chunk.parts[0].tensor} has not")
    if chunk.row == 0:
        _write_all(file, tensor.regions["order"].offset, order.astype("<i4"))
    return x[:, order]


def _rounding(checkpoint: WeightSource, chunk: _Chunk, methods: dict[str, Method]) -> _Rounding:
    """How rows of a chunk become codes, the first being its row ``start``: by the method, or as they are stored."""
    scheme = chunk.tensor.scheme
    if scheme is None:
        return _no_codes
    method = methods[scheme.method]
    if method.keeping is None:
        return lambda x, _: method.quantize(x, scheme, None)
    kept = [checkpoint.part_codes(part, chunk.start, chunk.stop) for part in chunk.parts]
    stored = by_turns([method.keeping.as_stored(codes, grid, scheme) for grid, codes in kept])
    return lambda x, start: stored.part(start, start + len(x))


def _no_codes(_x: NDArray[np.float32], _start: int) -> Quantized:
    raise ValueError("a weight without a scheme has no codes")


def _write_rows(x: NDArray[np.float32], chunk: _Chunk, start: int, rounded: _Rounding, file: BinaryIO) -> _Sums:
    """Store rows of a weight, (rows, columns) or (rows,), the first being row ``start`` of the chunk."""
    tensor, row = chunk.tensor, chunk.row + start
    if tensor.weight.plus:
        x = x + np.float32(tensor.weight.plus)
    scheme = tensor.scheme
    if scheme is None:
        if tensor.form == "half":
            half = _to_half(x, tensor)
            _write(file, tensor, row, "data", half)
            return _compare(x, half.astype(np.float32))
        _write(file, tensor, row, "data", x)
        return _Sums(0.0, 0.0, 0.0)
    quantized = rounded(x, start)
    scales, lost = quantized.scales, (0.0, 0.0)
    if tensor.form == "half blocks":
        half, lost = _half_scales(scales)
        _write(file, tensor, row, "scales", half)
        scales = half.astype(np.float32) if math.isfinite(lost[1]) else scales
    else:
        _write(file, tensor, row, "scales", scales)
    _write(file, tensor, row, "values", quantized.values)
    if quantized.zero_points is not None:
        _write(file, tensor, row, "zero_points", quantized.zero_points)
    return replace(_compare_stored(x, Quantized(quantized.values, scales, quantized.zero_points), scheme), scales=lost)


def _compare_stored(x: NDArray[np.float32], stored: Quantized, scheme: Scheme) -> _Sums:
    """What :func:`_compare` finds, without the stored rows in memory where there is a kernel for it."""
    compiled = kernels.loaded()
    if compiled is not None:
        rows, blocks = stored.scales.shape
        if stored.zero_points is None:
            zeros = np.full((rows, blocks), scheme.zero_point, np.uint8)
        else:
            zeros = unpack_zero_points(stored.zero_points, scheme.bits, blocks)
        found = compiled.compare(x, stored.values, stored.scales, zeros, scheme.bits)
        if found is not None:
            power, noise, largest = found
            total = power.sum(dtype=np.float64)
            if np.isfinite(total):
                return _Sums(float(total), float(noise.sum(dtype=np.float64)), float(largest.max()))
    return _compare(x, dequantize(stored.values, stored.scales, scheme, x.shape[1], stored.zero_points))


def _to_half(x: NDArray[np.float32], tensor: PlannedTensor) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(
            f"{tensor.weight.name} holds {np.abs(x).max():g}, and float16 ends at {np.finfo(np.float16).max:g}; "
            f"keep it in float32: [[override]] match = {tensor.weight.name!r}, bits = 32"
        )
    return half


def _half_scales(scales: NDArray[np.float32]) -> tuple[NDArray[np.float16], tuple[float, float]]:
    """Scales in float16, and the sum of their squares and of what is lost of them: infinite where they overflow."""
    with np.errstate(over="ignore"):
        half = scales.astype(np.float16)
    difference = half.astype(np.float64) - scales
    return half, (float(np.square(scales, dtype=np.float64).sum()), float(np.square(difference).sum()))


def _lost_scales(sums: Sequence[tuple[float, float]], most: float = _LOST_IN_HALF) -> str:
    """What float16 loses of a tensor's scales, in words; "" where that is ``most`` at most: next to nothing."""
    power, noise = math.fsum(one[0] for one in sums), math.fsum(one[1] for one in sums)
    if noise <= most**2 * power:
        return ""
    share = math.sqrt(noise / power)
    what = f"change by {share:.2g} of their size in" if math.isfinite(share) else "are beyond"
    return f"its scales {what} float16, which holds 6.1e-05 to 65504 in full"


def _write_columns_chunk(x: NDArray[np.float32], chunk: _Chunk, rounding: _Rounding, file: BinaryIO) -> list[_Sums]:
    """Round the chunk's rows for integer products, and write them as columns."""
    tensor, scheme = chunk.tensor, chunk.tensor.scheme
    if scheme is None:
        raise ValueError(f"{tensor.weight.name} has no scheme")
    codes: NDArray[Any] = np.empty(x.shape[::-1], "i1" if tensor.form == "dynamic pairs" else "u1")  # (columns, rows)
    step = max(1, _CHUNK // x.shape[1])
    sums = []
    for start in range(0, len(x), step):
        rows = x[start : start + step]
        rounded, scales = _integers(rounding(rows, start), tensor, rows)
        codes[:, start : start + step] = rounded.T
        _write(file, tensor, chunk.row + start, "scales", scales)
        sums.append(_compare(rows, integer.dequantize(rounded, scales)))
    _write_columns(file, tensor, chunk.row, codes)
    return sums


def _integers(
    stored: Quantized, tensor: PlannedTensor, rows: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.uint8] | NDArray[np.int8], NDArray[np.float32]]:
    """Codes of an integer product, (rows, columns), and scales; ``rows`` is what was rounded from the weights alone."""
    found = integer.to_integer(stored, tensor.weight.shape[1])
    return integer.to_pairs(*found, rows) if tensor.form == "dynamic pairs" else found


def _write_columns(
    file: BinaryIO, tensor: PlannedTensor, row: int, codes: NDArray[np.uint8] | NDArray[np.int8]
) -> None:
    """Write ``codes`` (columns, rows from ``row`` on) at their places in ``values`` (columns, all rows)."""
    rows, start = tensor.weight.shape[0], tensor.regions["values"].offset + row
    if codes.shape[1] == rows:
        _write_all(file, start, codes)
        return
    for column, run in enumerate(codes):
        _write_all(file, start + column * rows, run)


def _write_all(file: BinaryIO, offset: int, data: NDArray[Any]) -> None:
    file.seek(offset)
    left = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data  # a memoryview
    while left:
        left = left[file.write(left) :]


def _write(file: BinaryIO, tensor: PlannedTensor, row: int, region: str, rows: NDArray[Any]) -> None:
    """Write rows of a region at their place."""
    place = tensor.regions[region]
    row_bytes = place.nbytes // tensor.weight.shape[0]
    data = np.ascontiguousarray(rows, rows.dtype.newbyteorder("<"))
    if data.nbytes != row_bytes * len(rows):
        raise ValueError(f"{tensor.weight.name}: {data.nbytes} bytes of {region}, planned {row_bytes * len(rows)}")
    _write_all(file, place.offset + row * row_bytes, data)


def _compare(x: NDArray[np.float32], stored: NDArray[np.float32]) -> _Sums:
    """Row sums in float32 (pairwise), their sum in float64; (rows, columns) or (rows,)."""
    x, stored = (values.reshape(len(values), -1) for values in (x, stored))
    with np.errstate(over="ignore"):
        power = np.square(x).sum(axis=1).sum(dtype=np.float64)
        error = np.subtract(x, stored)
        largest = max(float(error.max()), -float(error.min()))
        noise = np.square(error, out=error).sum(axis=1).sum(dtype=np.float64)
    if not np.isfinite(power):  # squares beyond float32
        power = np.square(x, dtype=np.float64).sum()
        noise = np.square(x.astype(np.float64) - stored).sum()
    return _Sums(float(power), float(noise), largest)


def _report(name: str, sums: dict[int, _Sums]) -> TensorReport:
    ordered = [sums[row] for row in sorted(sums)]
    power, noise = math.fsum(s.power for s in ordered), math.fsum(s.noise for s in ordered)
    if not math.isfinite(noise):
        raise InputError(
            f"{name} has weights so large that what is stored is not finite; the checkpoint is damaged or its training "
            "diverged: take another one"
        )
    return TensorReport(
        sqnr_db=10 * math.log10(power / noise) if noise > 0 else None,
        max_abs_error=max((s.max_abs_error for s in ordered), default=0.0),
    )


def _allocate(path: Path, nbytes: int) -> None:
    """Make the file with all its bytes (zero), so that a full disk is noticed before the work."""
    with path.open("xb") as file:
        if nbytes and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, nbytes)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        file.truncate(nbytes)


@contextmanager
def _disk_errors(path: Path, nbytes: int) -> Iterator[None]:
    """Say what an OSError of the data file means; those of the checkpoint are InputErrors already."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"{path.parent} has no room for {nbytes} bytes of weights ({shutil.disk_usage(path.parent).free} free: "
                f"{error.strerror}); free some space or choose another output"
            ) from error
        raise InputError(f"{path}: {error.strerror or error}; choose a writable output") from error
