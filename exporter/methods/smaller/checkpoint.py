"""Write a checkpoint in Hugging Face form, computing its rows when they are written; then read it back.

Format of the weights: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.disk.files import write_json
from edgepress.errors import InputError
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.source.checkpoint import READABLE, SINGLE, Checkpoint
from edgepress.exporter.source.layout import TOKENIZER_FILES
from edgepress.exporter.source.stored import StoredTensor, to_float32
from edgepress.exporter.tokens.source_tokenizer import tokenizer_files

_LAYER = re.compile(r".*?\.\d+\.")  # the beginning of a tensor's name
_PIECE = 4 << 20  # bytes of a tensor that are made at a time
_NEAR = 4  # rows closer together than this are read in one go
_ITEM = {"F32": 4, "F16": 2, "BF16": 2}  # bytes

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written: ``rows(start, stop)`` computes some of its rows when they are written.

    They are float32 (stop − start, …), rounded to ``dtype`` (F32, F16 or BF16) by the writer, or uint8: the stored
    bytes as they are, of any shape with the rows one after the other.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], NDArray[np.float32] | Bytes]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * _ITEM[self.dtype]


def write_checkpoint(
    source: Checkpoint,
    out: Path,
    *,
    config: Mapping[str, object],
    tensors: Sequence[NewTensor],
    files: Mapping[str, bytes | None] | None = None,
) -> tuple[Checkpoint, Decoder]:
    """Write a checkpoint into ``out`` and return it as read back, with the description of its model.

    Tokenizer files are ``source``'s, except those that ``files`` has (None: left out). Memory is that of a piece of a
    tensor.

    Raises:
        InputError: a value is not finite, or what was written cannot be read back as a model.

    """
    given = files or {}
    if unknown := set(given) - set(TOKENIZER_FILES):
        raise ValueError(f"{sorted(unknown)} are no tokenizer files")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", config)
    for name, content in {**tokenizer_files(source), **given}.items():
        if content is not None:
            (out / name).write_bytes(content)
    write_safetensors(out / SINGLE, [*tensors, *_constants(source, tensors)])
    written = Checkpoint.open(out)
    return written, read_decoder(written)


def _constants(source: Checkpoint, tensors: Sequence[NewTensor]) -> list[NewTensor]:
    """Tensors of one number, which a class keeps beside its weights (Apertus), of the layers of ``tensors``."""
    names = {tensor.name for tensor in tensors}
    layers = {found[0] for name in names if (found := _LAYER.match(name))}
    return [
        copied(tensor)
        for name, tensor in source.tensors.items()
        if not tensor.shape and name not in names and tensor.dtype in READABLE
        if (found := _LAYER.match(name)) is None or found[0] in layers
    ]


def write_safetensors(path: Path, tensors: Sequence[NewTensor]) -> None:
    """Write one safetensors file: larger elements first, so that every tensor is aligned, else in the given order."""
    ordered = sorted(tensors, key=lambda tensor: -_ITEM[tensor.dtype])  # stable
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in ordered:
        if tensor.dtype not in READABLE:
            raise ValueError(f"{tensor.name}: {tensor.dtype} is no dtype of weights")
        if tensor.name in header:
            raise ValueError(f"{tensor.name} is given twice")
        span = [offset, offset + tensor.nbytes]
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in ordered:
            count = tensor.shape[0] if tensor.shape else 1
            row_bytes = tensor.nbytes // max(1, count)
            step = max(1, _PIECE // max(1, row_bytes))
            for start in range(0, count, step):
                stop = min(start + step, count)
                file.write(_encoded(tensor, start, stop, row_bytes * (stop - start)).data)


def _encoded(tensor: NewTensor, start: int, stop: int, nbytes: int) -> Bytes:
    rows = tensor.rows(start, stop)
    if rows.dtype == np.uint8:
        raw: Bytes = np.ascontiguousarray(rows, np.uint8).reshape(-1)
    else:
        if rows.shape != (stop - start, *tensor.shape[1:]):
            raise ValueError(f"{tensor.name}: rows {start}:{stop} have shape {rows.shape}, of {tensor.shape}")
        raw = to_stored(np.ascontiguousarray(rows, np.float32).reshape(-1), tensor.dtype)
        if not np.isfinite(to_float32(raw, tensor.dtype)).all():
            raise InputError(
                f"{tensor.name}: rows {start} to {stop} are not finite in {tensor.dtype}; the step's numbers overflow: "
                "leave the step out, or give it other options"
            )
    if raw.nbytes != nbytes:
        raise ValueError(f"{tensor.name}: rows {start}:{stop} have {raw.nbytes} bytes, not {nbytes}")
    return raw


def to_stored(values: NDArray[np.float32], dtype: str) -> Bytes:
    """Float32 (elements,) as little-endian bytes of ``dtype``, rounded to nearest, ties to even."""
    if dtype == "BF16":
        words = values.view(np.uint32)
        rounded = words + (np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1)))
        upper: Bytes = (rounded >> np.uint32(16)).astype(np.dtype("<u2")).view(np.uint8)
        return upper
    with np.errstate(over="ignore"):  # what overflows is found by the writer
        stored = values.astype(np.dtype("<f2" if dtype == "F16" else "<f4"))
    raw: Bytes = stored.view(np.uint8)
    return raw


def copied(tensor: StoredTensor) -> NewTensor:
    """The whole tensor, bit for bit."""

    def rows(start: int, stop: int) -> Bytes:
        if not tensor.shape:
            return tensor.read(0, tensor.nbytes)
        return tensor.read(start * tensor.row_nbytes, (stop - start) * tensor.row_nbytes)

    tensor.check_readable()
    return NewTensor(tensor.name, tensor.dtype, tensor.shape, rows)


def read_rows(tensor: StoredTensor, indices: NDArray[np.int64]) -> Bytes:
    """Rows of a tensor bit for bit, (indices, bytes in a row); neighbours are read together."""
    out = np.empty((len(indices), tensor.row_nbytes), np.uint8)
    order = np.argsort(indices, kind="stable")
    ranked = indices[order]
    for run in np.split(np.arange(len(indices)), np.flatnonzero(np.diff(ranked) > _NEAR) + 1):
        if run.size:
            first, last = int(ranked[run[0]]), int(ranked[run[-1]])
            raw = tensor.read(first * tensor.row_nbytes, (last + 1 - first) * tensor.row_nbytes)
            out[order[run]] = raw.reshape(-1, tensor.row_nbytes)[ranked[run] - first]
    return out
