"""Arrays from a file of numpy's (.npz), which holds no Python objects."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgepress.errors import InputError

MOST = 8 << 30
"""Bytes that all arrays of a file may take: what a small file can claim fills no memory."""


def array_types(path: Path) -> dict[str, str]:
    """The types of an .npz file's arrays by their names, "" where one cannot be told; none where it is no such file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy"): _type(archive, name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return {}


def _type(archive: zipfile.ZipFile, name: str) -> str:
    try:
        with archive.open(name) as file:
            read = npy.read_array_header_1_0 if npy.read_magic(file) == (1, 0) else npy.read_array_header_2_0
            return str(read(file)[2])
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):
        return ""  # it is told when it is read


def read_arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    """Every array of an .npz file by its name.

    Raises:
        InputError: there is no such file, it is damaged, holds Python objects, or more than ``MOST`` bytes.

    """
    remedy = "write it with numpy.savez, the arrays by the names of the model's inputs"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MOST:
            raise InputError(f"{path} holds {size:,} bytes, more than the {MOST:,} that are read; {remedy}")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if path.is_file() and path.suffix.lower() != ".npz":
            raise InputError(
                f"{path} is no .npz file, and nothing is known of how anything else becomes the model's inputs; "
                "export the model with --task FILE.json that says it (docs/tasks.md), or save arrays with numpy.savez"
            ) from error
        raise InputError(f"{path} is no .npz file that can be read ({error}); {remedy}") from error
