"""What a model keeps of the beginning of a text, in a file: a system prompt, a document or examples, computed once.

::

    edgepress-prefix │ length of the header, 8 bytes │ header, JSON │ arrays, each from a multiple of 64 │ SHA-256

The header says of which bundle, graph and adapter it is, which tokens it holds, and the arrays' types and shapes. The
hash is of all before it. A file is mapped and hashed when it is opened; after that its stamp tells whether it changed,
and what changed is not used.
"""

import hashlib
import math
import mmap
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgepress.disk.cache import find_other_owner
from edgepress.disk.files import atomic_file
from edgepress.disk.stamps import Stamp, is_young, stamp_of
from edgepress.errors import InputError
from edgepress.runtime.sessions.session import Session, Snapshot

_MAGIC = b"edgepress-prefix"
_ALIGNMENT = 64
_DIGEST = hashlib.sha256().digest_size
_LONGEST_HEADER = 1 << 26  # bytes
_OTHER = "name another file"  # what was never ours is not to be deleted
_AGAIN = "delete it to have it made anew, or name another file"
_Natural = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]


class _Array(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["float32", "float16", "int8", "uint8"]
    shape: Annotated[list[_Natural], msgspec.Meta(max_length=10)]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * np.dtype(self.type).itemsize


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose states they are: hashes of the bundle's manifest and of an adapter, and what computes the graph."""

    bundle: str
    computed_by: str
    adapter: str | None


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    key: Key
    tokens: Annotated[list[_Natural], msgspec.Meta(min_length=1, max_length=1 << 24)]
    entries: _Natural
    earliest: _Natural
    is_long: bool
    arrays: Annotated[list[_Array], msgspec.Meta(max_length=1 << 16)]


@dataclass(frozen=True)
class Prefix:
    """The beginning of a text, mapped from a file: its tokens, and what a session keeps of them."""

    path: Path
    tokens: list[int]
    snapshot: Snapshot = field(repr=False)
    _file: mmap.mmap = field(repr=False)
    _descriptor: int = field(repr=False)
    _stamp: Stamp = field(repr=False)
    _is_young: bool = field(repr=False)

    def is_unchanged(self) -> bool:
        """Whether the file is as it was when it was hashed; where its stamp does not tell, it is hashed again."""
        try:
            alike = stamp_of(os.fstat(self._descriptor)) == self._stamp
        except OSError:
            return False
        return alike and (not self._is_young or _is_whole(self._file))

    def __del__(self) -> None:
        os.close(self._descriptor)


def write_prefix(path: Path, key: Key, tokens: Sequence[int], session: Session) -> None:
    """Write what ``session`` keeps of ``tokens``, its text; a prefix that is in ``path`` is replaced.

    Raises:
        InputError: the file cannot be written, or there is one that is no prefix.

    """
    snapshot = session.snapshot()
    arrays = [np.ascontiguousarray(array) for array in snapshot.arrays]
    described = [_Array(str(array.dtype), list(array.shape)) for array in arrays]  # type: ignore[arg-type] # a state's
    header = msgspec.json.encode(
        _Header(1, key, list(tokens), snapshot.entries, snapshot.earliest, snapshot.is_long, described)
    )
    replaces = path.is_file()
    if replaces:
        _refuse_others(path)
    digest = hashlib.sha256()
    try:
        with atomic_file(path, replace=replaces) as work, work.open("wb") as file:
            for piece in _pieces(header, arrays):
                file.write(piece)
                digest.update(piece)
            file.write(digest.digest())
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror}); name a file elsewhere, or make room") from error


def _pieces(header: bytes, arrays: Sequence[NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """What is in a file before the hash."""
    yield (begin := _MAGIC + len(header).to_bytes(8, "little") + header)
    at = len(begin)
    for array in arrays:
        yield bytes(gap := -at % _ALIGNMENT)
        yield array.data.cast("B")
        at += gap + array.nbytes


def _refuse_others(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise InputError(f"{path} is another file than a prefix, and is not replaced; name another file")


def read_prefix(path: Path, key: Key, tokens: Sequence[int], session: Session) -> Prefix:
    """Map a prefix, and check all of it.

    Args:
        path: what :func:`write_prefix` wrote.
        key: whose states they have to be.
        tokens: those that it has to hold.
        session: which they are for.

    Raises:
        InputError: the file cannot be read, is no prefix or not as it was written, others may write it, or it is of
            another bundle, graph, adapter or text.

    """
    if problem := _other_owner(path):
        raise InputError(f"{problem}, so that nothing in it can be trusted; {_AGAIN}")
    descriptor, mapped, stamp = _open(path)
    moment = time.time_ns()
    try:
        header, start = _header(mapped, path)
        _check(header, key, tokens, path)
        arrays, at = [], start
        for one in header.arrays:
            at += -at % _ALIGNMENT
            if at + one.size > len(mapped) - _DIGEST:
                raise InputError(f"{path} is shorter than it says; {_AGAIN}")
            arrays.append(np.frombuffer(mapped, one.type, math.prod(one.shape), at).reshape(one.shape))
            at += one.size
        text = np.array(header.tokens, np.int64) if session.keeps_text else None
        count = len(header.tokens)
        snapshot = Snapshot(count, session.states, header.entries, tuple(arrays), text, header.is_long, header.earliest)
        session.check_snapshot(snapshot)
    except BaseException:
        os.close(descriptor)
        raise
    return Prefix(path, header.tokens, snapshot, mapped, descriptor, stamp, is_young(stamp, moment))


def _other_owner(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path} is no file; {_OTHER}")  # a device is not to be deleted, nor a folder
        return find_other_owner(path.resolve())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error


def _open(path: Path) -> tuple[int, mmap.mmap, Stamp]:
    """The file mapped, after its hash was found right; the stamp is from before that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); {_AGAIN}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path} is no file; {_OTHER}")
        stamp = stamp_of(found)
        if stamp[0] < len(_MAGIC) + 8 + _DIGEST:
            raise InputError(f"{path} is no prefix that edgepress wrote; {_OTHER}")
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        if mapped[: len(_MAGIC)] != _MAGIC:
            raise InputError(f"{path} is no prefix that edgepress wrote; {_OTHER}")
        if not _is_whole(mapped):
            raise InputError(f"{path} is not as it was written; {_AGAIN}")
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"{path} cannot be mapped ({error.strerror}); {_OTHER}") from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, mapped, stamp


def _is_whole(mapped: mmap.mmap) -> bool:
    with memoryview(mapped) as content:
        return hashlib.sha256(content[:-_DIGEST]).digest() == bytes(content[-_DIGEST:])


def _header(mapped: mmap.mmap, path: Path) -> tuple[_Header, int]:
    """The header, and where it ends."""
    at = len(_MAGIC) + 8
    length = int.from_bytes(mapped[at - 8 : at], "little")
    if length > min(_LONGEST_HEADER, len(mapped) - at - _DIGEST):
        raise InputError(f"{path} is shorter than it says; {_AGAIN}")
    try:
        return msgspec.json.decode(mapped[at : at + length], type=_Header), at + length
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InputError(f"{path} was written by another edgepress ({error}); {_AGAIN}") from error


def _check(header: _Header, key: Key, tokens: Sequence[int], path: Path) -> None:
    found = header.key
    if found.bundle != key.bundle:
        raise InputError(f"{path} is of another bundle ({found.bundle[:12]}, not {key.bundle[:12]}); {_AGAIN}")
    if found != key:
        what = "adapter" if found.computed_by == key.computed_by else f"graph ({found.computed_by})"
        raise InputError(f"{path} is of another {what}; {_AGAIN}")
    if header.tokens != list(tokens):
        raise InputError(
            f"{path} holds another text: {len(header.tokens)} tokens, and {len(tokens)} are asked for, which differ; "
            f"{_AGAIN}"
        )
