"""Read a checkpoint in Hugging Face form: its config and, a few rows at a time, its tensors."""

import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import numpy as np
from numpy.typing import NDArray

from edgepress.disk.files import sha256_file
from edgepress.disk.hub_layout import resolve_inside
from edgepress.errors import InputError
from edgepress.exporter.source.adapters import Adapter, read_adapter
from edgepress.exporter.source.formats import FileFormat, decoded, file_format
from edgepress.exporter.source.kinds import (
    refuse_folder,
    refuse_other_kinds,
    refuse_without_weights,
)
from edgepress.exporter.source.layout import INDEX, SINGLE
from edgepress.exporter.source.names import plain_names
from edgepress.exporter.source.packed import Codes, Grid, PackedTensor
from edgepress.exporter.source.part import Part
from edgepress.exporter.source.stored import READABLE, StoredTensor, read_header
from edgepress.exporter.source.towers import TextModel, text_model, text_names
from edgepress.schema import read_config_object, read_object

__all__ = ["INDEX", "READABLE", "SINGLE", "Checkpoint", "StoredTensor", "same_tensor"]

_PIECE = 1 << 18  # elements of a stored tensor read at a time when only some of its columns are wanted, or NaN counted
_COMPARED_PIECE = 1 << 20  # bytes
HEAD = "lm_head"
_AGAIN = "download or convert the checkpoint again"


@dataclass(frozen=True)
class Checkpoint:
    """A directory with ``config.json`` and safetensors, checked, with no weight read yet. Made by :meth:`open`.

    ``tensors`` have the names that transformers gives them; ``renamed`` has the stored names of those that had others.
    Of a model that takes images or sound too, ``config`` and ``tensors`` are those of its text model, as they would be
    alone; ``text_of`` says of what it is one, and ``left_out`` has the other tensors.
    Weights that are stored as integers (:mod:`.formats`) are there as what they stand for, and ``config`` says nothing
    of it; ``note`` does. ``adapters`` are merged into the weights as they are read.
    """

    directory: Path
    config: Mapping[str, object]
    tensors: Mapping[str, StoredTensor]
    weight_files: tuple[Path, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    text_of: TextModel | None = None
    left_out: Mapping[str, StoredTensor] = field(default_factory=dict)
    note: str = ""
    made: bool = False  # of a file: what stands in ``directory`` is made of its metadata
    adapters: tuple[Adapter, ...] = ()

    @property
    def where(self) -> str:
        """Where the config is, for messages."""
        section = "" if self.text_of is None or not self.text_of.section else f": {self.text_of.section}"
        return f"{self.directory / 'config.json'}{section}"

    @classmethod
    def open(cls, directory: Path, *, of: Collection[str] = ()) -> "Checkpoint":
        """Read the config and every header.

        As in transformers, ``model.safetensors`` is preferred to an index beside it. ``of`` are model types that are
        taken although they are no text generators.

        Raises:
            InputError: anything but a whole and consistent checkpoint; the message names the file or tensor.

        """
        if (of_file := file_format(directory)) is not None:
            return cls.of_file(directory, of_file)
        if not directory.is_dir():
            what = "is not a directory" if directory.exists() else "does not exist"
            raise InputError(f"{directory} {what}; name a directory with config.json and {SINGLE}")
        if not any(directory.iterdir()):
            raise InputError(f"{directory} is empty; name a directory with config.json and {SINGLE}")
        config_file = member(directory, "config.json")
        if config_file is None:
            raise refuse_folder(directory)
        config = read_config_object(config_file, "correct it or copy it again")
        if config.get("model_type") not in of:
            refuse_other_kinds(directory, config)
        shards = _shards(directory)
        tensors: dict[str, StoredTensor] = {}
        for file, listed in shards.items():
            header = read_header(file)
            for name in listed:
                if name not in header:
                    raise InputError(f"{INDEX} says that {file.name} holds {name}, and it does not; {_AGAIN}")
            for name, tensor in header.items():
                if name in tensors:
                    raise InputError(f"{name} is in both {tensors[name].file.name} and {file.name}; {_AGAIN}")
                tensors[name] = tensor
        names = plain_names(tensors)
        renamed = {plain: stored for stored, plain in names.items() if plain != stored}
        plainly = {plain: replace(tensors[stored], name=plain) for stored, plain in names.items()}
        checkpoint = cls(directory, config, plainly, tuple(shards), renamed)
        text = text_model(config)
        return (checkpoint if text is None else checkpoint.text_alone(text)).decoded()

    @classmethod
    def of_file(cls, path: Path, kind: FileFormat) -> "Checkpoint":
        """The model that a single file holds; its config and tokenizer lie in a folder of this process.

        Raises:
            InputError: something in it is not read; the message names the key or tensor.

        """
        status = path.stat()
        folder = _made(path.absolute(), kind.name, (status.st_mtime_ns, status.st_size))
        found = kind.read(path)
        for name, content in found.files.items():
            if not (folder / name).exists():
                (folder / name).write_bytes(content)
        return cls(folder, found.config, found.tensors, (path,), note=found.note, made=True)

    @property
    def named(self) -> Path:
        """What the user named: the directory, or the file."""
        return self.weight_files[0] if self.made else self.directory

    def inside(self, prefix: str) -> "Checkpoint":
        """The same as the part called ``prefix`` of a model with a head: so are its tensors called."""
        tensors = {prefix + name: replace(tensor, name=prefix + name) for name, tensor in self.tensors.items()}
        renamed = {prefix + name: self.renamed.get(name, name) for name in self.tensors}
        return replace(self, tensors=tensors, renamed=renamed)

    def decoded(self) -> "Checkpoint":
        """The same with weights that are stored quantized as what they stand for."""
        found = decoded(self.config, self.tensors, self.where)
        return replace(self, config=found.config, tensors=found.tensors, note=found.note)

    def with_adapters(self, directories: Sequence[Path]) -> "Checkpoint":
        """The same with adapters merged into its weights, one after the other.

        Raises:
            InputError: one is no adapter, or of another model.

        """
        found, tied = self, bool(self.config.get("tie_word_embeddings", f"{HEAD}.weight" not in self.tensors))
        for directory in directories:
            adapter = read_adapter(directory)
            tensors = adapter.merged(found.tensors, tied=tied)
            found = replace(found, tensors=tensors, adapters=(*found.adapters, adapter))
        return found

    def text_alone(self, text: TextModel) -> "Checkpoint":
        """The same, with the text model's config and tensors alone."""
        names = text_names(self.tensors)
        plainly = {plain: replace(self.tensors[name], name=plain) for name, plain in names.items()}
        others = {name: tensor for name, tensor in self.tensors.items() if name not in names}
        text = text.with_head(plainly)
        return replace(self, config=text.config, tensors=plainly, text_of=text, left_out=others)

    def file(self, name: str) -> Path | None:
        """Path of another file of the checkpoint, None when absent; a link out of the directory is refused."""
        return member(self.directory, name)

    def json(self, name: str) -> dict[str, object]:
        """Content of another JSON file of the checkpoint, {} when it has none; InputError when it is no JSON object."""
        path = self.file(name)
        return {} if path is None else read_object(path, "copy it again from where the checkpoint came from")

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor as float32, (stop − start, …)."""
        return self.tensors[name].rows(start, stop)

    def part_rows(self, part: Part, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop``, counted within ``part``, as float32: (stop − start, columns) or (stop − start,).

        Rows of a transposed part are columns of the stored tensor, all of whose rows are then read, in bounded
        pieces: ask for many at a time.

        Raises:
            InputError: one of the values is NaN or infinite.

        """
        rows = self._part_rows(part, start, stop)
        extremes = [rows.min(), rows.max()] if rows.size else []  # NaN if one is; no mask as large as the rows
        if not np.isfinite(extremes).all():
            raise self._not_finite(part.tensor)
        return rows

    def _part_rows(self, part: Part, start: int, stop: int) -> NDArray[np.float32]:
        first, last = part.start + start, part.start + stop
        if (matrix := self._matrix(part)) is not None:
            return matrix.rows(first, last)
        tensor = self.tensors[part.tensor]
        before = 0  # rows, as stored, of the matrices before this one
        if part.index is not None:
            matrices, rows, *rest = tensor.shape
            tensor, before = replace(tensor, shape=(matrices * rows, *rest)), part.index * rows
        if not part.transposed:
            return tensor.rows(before + first, before + last)
        stored_rows, stored_columns = self.tensors[part.tensor].shape[-2:]
        out = np.empty((stop - start, stored_rows), np.float32)
        step = max(1, _PIECE // stored_columns)
        for row in range(0, stored_rows, step):
            stop_row = min(row + step, stored_rows)
            piece = tensor.rows(before + row, before + stop_row)  # (piece rows, stored columns)
            out[:, row : row + len(piece)] = piece[:, first:last].T
        return out

    def _not_finite(self, name: str) -> InputError:
        """Count what is not finite in the whole tensor and name the first place."""
        tensor = self.tensors[name]
        step = max(1, _PIECE // max(1, math.prod(tensor.shape[1:])))
        nans = infinities = 0
        first: tuple[int, ...] | None = None
        for start in range(0, tensor.shape[0], step):
            rows = tensor.rows(start, min(start + step, tensor.shape[0]))
            bad = np.argwhere(~np.isfinite(rows))
            if first is None and len(bad):
                first = (start + int(bad[0][0]), *(int(i) for i in bad[0][1:]))
            nans += int(np.isnan(rows).sum())
            infinities += int(np.isinf(rows).sum())
        return InputError(
            f"{name} holds {nans} NaN and {infinities} infinite values, the first at {list(first or ())}; "
            "the checkpoint is damaged or its training diverged: take another one"
        )

    def itemsize(self, name: str) -> float:
        """Bytes of an element of the stored tensor ``name``, on average."""
        return self.tensors[name].stored_itemsize

    def _matrix(self, part: Part) -> PackedTensor | None:
        """What a part is rows of, where a stored format has it as it is used; None elsewhere."""
        tensor = self.tensors[part.tensor]
        if not isinstance(tensor, PackedTensor):
            return None
        if part.transposed:
            return tensor.turned(part.index)
        return tensor if part.index is None else None

    def by_columns(self, part: Part) -> bool:
        """Whether rows of ``part`` lie scattered over its tensor, so that many should be read at a time."""
        if (matrix := self._matrix(part)) is not None:
            return matrix.by_columns
        tensor = self.tensors[part.tensor]
        return part.transposed or (isinstance(tensor, PackedTensor) and tensor.by_columns)

    def grid(self, part: Part) -> Grid | str:
        """How the codes are spaced that are stored for a part, or why there are none to keep: a sentence's end."""
        matrix, tensor = self._matrix(part), self.tensors[part.tensor]
        if not isinstance(tensor, PackedTensor):
            return f"it is stored as {tensor.dtype}"
        if matrix is not None:
            return matrix.grid()
        why = tensor.grid()
        return why if isinstance(why, str) else "it is stored the other way round"

    def how(self, names: Collection[str]) -> str:
        """How tensors are stored that are quantized already, in words."""
        found = [tensor for name in sorted(names) if isinstance(tensor := self.tensors[name], PackedTensor)]
        return " and ".join(dict.fromkeys(tensor.how for tensor in found))

    def part_codes(self, part: Part, start: int, stop: int) -> tuple[Grid, Codes]:
        """Rows ``start`` to ``stop``, counted within ``part``, as the integers that the checkpoint stores for them."""
        matrix, grid = self._matrix(part), self.grid(part)
        if isinstance(grid, str) or matrix is None:
            raise ValueError(f"{part.tensor} has no codes to keep: {grid}")
        return grid, matrix.codes(part.start + start, part.start + stop)

    def part_order(self, part: Part) -> NDArray[np.int32] | None:
        """Which column each column of :meth:`part_codes` is, (columns,); None where they are in their places."""
        matrix = self._matrix(part)
        return None if matrix is None else matrix.order()

    def source_hashes(self) -> dict[str, str]:
        """SHA-256 of the config, of every file with weights and of the index that names them, by file name."""
        files = [*self.weight_files]
        if not self.made:
            files.append(self.directory / "config.json")
            if self.weight_files[0].name != SINGLE:
                files.append(self.directory / INDEX)
        found = {file.name: sha256_file(file) for file in sorted(files, key=lambda file: file.name)}
        for number, adapter in enumerate(self.adapters, 1):
            found |= {f"adapter {number}: {name}": digest for name, digest in adapter.hashes().items()}
        return found


def _shards(directory: Path) -> dict[Path, list[str]]:
    """Files with weights, and the tensors that an index says are in each."""
    if (single := member(directory, SINGLE)) is not None:
        return {single: []}
    if (index := member(directory, INDEX)) is not None:
        return _read_index(directory, index)
    raise refuse_without_weights(directory, f"{SINGLE} and no {INDEX}")


@cache
def _folder() -> TemporaryDirectory[str]:
    """A folder that is removed when the process ends."""
    return TemporaryDirectory(prefix="edgepress-")


@cache
def _made(path: Path, kind: str, stamp: tuple[int, int]) -> Path:
    """Where what is made of a file lies, as long as the file is the same: ``stamp`` is its time and size."""
    folder = Path(mkdtemp(prefix=f"{kind}-{stamp[1]}-", dir=_folder().name)) / path.name
    folder.mkdir()
    return folder


def member(directory: Path, name: str) -> Path | None:
    """Path of a file in a checkpoint directory, None when absent.

    It may be a link to a file in the same directory, or one of the hub cache's to its blobs
    (:mod:`edgepress.disk.hub_layout`). Any other could put an unrelated file in the bundle.
    """
    path = directory / name
    if not os.path.lexists(path):
        return None
    resolve_inside(path, directory)
    return path


def _read_index(directory: Path, index: Path) -> dict[Path, list[str]]:
    """Shards in the order of their names, each with the tensors that the index expects in it."""
    weight_map = read_object(index, _AGAIN).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map; {_AGAIN}")
    names: dict[str, list[str]] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not name.endswith(".safetensors") or re.search(r"[/\\:\0]", name):
            raise InputError(
                f"{index}: {tensor} is said to be in {name!r}; shards must be .safetensors files in the same directory"
            )
        names.setdefault(name, []).append(tensor)
    shards: dict[Path, list[str]] = {}
    for name in sorted(names):
        file = member(directory, name)
        if file is None:
            raise InputError(f"{INDEX} names {name}, which is not in {directory}; download the missing shard")
        shards[file] = names[name]
    return shards


def same_tensor(checkpoint: Checkpoint, first: str, second: str) -> bool:
    """Whether two tensors have the same dtype, shape and bytes; read in bounded pieces."""
    a, b = checkpoint.tensors[first], checkpoint.tensors[second]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    for start in range(0, a.nbytes, _COMPARED_PIECE):
        count = min(_COMPARED_PIECE, a.nbytes - start)
        if not np.array_equal(a.read(start, count), b.read(start, count)):
            return False
    return True
