"""What a run leaves for the next one to go on from, in files that carry a digest of what is in them.

A flipped bit in a weight is a weight: nothing but a digest tells it from the one that was written. So each of these
files is written whole, with the SHA-256 of its content, and is believed only when that still fits.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError

Arrays = dict[str, NDArray[Any]]

_SEAL = "sealed"  # the one entry of a file's metadata: safetensors writes several in any order
_DIGEST = "sha256"


class DamagedError(Exception):
    """A file is not as it was written."""


def save_sealed(path: Path, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, object]) -> None:
    """Write ``arrays`` and ``notes``, which are JSON, into a safetensors file, whole or not at all.

    Raises:
        InputError: the disk is full, or cannot be written.

    """
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
    text = json.dumps(notes, sort_keys=True)
    digest = _start(text)
    for name in sorted(contiguous):
        _add(digest, name, contiguous[name])
    partial = path.with_suffix(".partial")
    try:
        save_file(contiguous, partial, {_SEAL: json.dumps({"notes": text, _DIGEST: digest.hexdigest()})})
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        size = sum(array.nbytes for array in contiguous.values())
        raise InputError(
            f"{path}, {size:,} bytes, cannot be written: {error}; free space there, or choose another output"
        ) from error
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def load_sealed(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What :func:`save_sealed` wrote, arrays and notes.

    Raises:
        DamagedError: it is not as it was written.

    """
    arrays: Arrays = {}
    notes = _read(path, arrays)
    return arrays, notes


def check_sealed(path: Path) -> dict[str, Any]:
    """The notes of a file that :func:`save_sealed` wrote; its arrays are looked at one at a time.

    Raises:
        DamagedError: it is not as it was written.

    """
    return _read(path, None)


def _read(path: Path, into: Arrays | None) -> dict[str, Any]:
    with _damage(path), safe_open(path, "numpy") as file:
        seal = json.loads(file.metadata()[_SEAL])
        text: str = seal["notes"]
        digest = _start(text)
        for name in sorted(file.keys()):
            array = file.get_tensor(name)
            _add(digest, name, array)
            if into is not None:
                into[name] = array
        if seal[_DIGEST] != digest.hexdigest():
            raise DamagedError(f"{path.name}: its SHA-256 is not the one noted when it was written")
        notes: dict[str, Any] = json.loads(text)
    return notes


def _start(notes: str) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps(notes).encode())


def _add(digest: "hashlib._Hash", name: str, array: NDArray[Any]) -> None:
    digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
    if array.size:  # an empty array gives no bytes, and no view of them either
        digest.update(array.reshape(-1).view(np.uint8).data)


def write_sealed_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON object with its digest, whole or not at all."""
    partial = path.with_suffix(".partial")
    read: dict[str, object] = json.loads(json.dumps(content))  # as it will be read: every key a string
    partial.write_text(json.dumps({**read, _DIGEST: _json_digest(read)}, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def read_sealed_json(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed_json` wrote.

    Raises:
        DamagedError: it is not as it was written, or not there.

    """
    with _damage(path):
        content: dict[str, Any] = json.loads(path.read_bytes())
        if content.pop(_DIGEST) != _json_digest(content):
            raise DamagedError(f"{path.name}: its SHA-256 is not the one noted when it was written")
    return content


def _json_digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hashes(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of files in ``folder``, to be noted beside them."""
    return {name: sha256_file(folder / name) for name in names}


def check_hashes(folder: Path, noted: Mapping[str, str]) -> None:
    """Raise DamagedError when a file in ``folder`` is not what :func:`hashes` noted."""
    for name, digest in noted.items():
        with _damage(folder / name):
            if sha256_file(folder / name) != digest:
                raise DamagedError(f"{name}: its SHA-256 is not the one noted when it was written")


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedError:
        raise
    except Exception as error:  # flipped bytes make each reader fail in its own way
        raise DamagedError(f"{path.name} cannot be read ({error})") from error
