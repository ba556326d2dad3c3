"""Compression methods: one file each, ``compress/<method>.py``, ending in ``METHOD: Method``.

The file's name is the method's key. Arithmetic shared by methods is in :mod:`.packing`.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.scheme import Scheme

_NOT_METHODS = ("packing",)


@dataclass(frozen=True)
class Quantized:
    """Rows as they are stored: see :mod:`.packing` for the layout."""

    values: NDArray[np.uint8]  # (rows, blocks, bytes in a block)
    scales: NDArray[np.float32]  # (rows, blocks)


@dataclass(frozen=True)
class Method:
    """How rows become codes and scales.

    ``quantize(rows, scheme, importance)``: ``rows`` is finite float32 (rows, columns); ``importance`` ≥ 0, float32
    (columns,), weighs the squared error of each column, None being all alike. Rows are independent of each other: the
    result may not depend on how a tensor was cut into calls.
    """

    name: str
    quantize: Callable[[NDArray[np.float32], Scheme, NDArray[np.float32] | None], Quantized]


def method_names() -> list[str]:
    """Names of the methods found on disk, none of them imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NOT_METHODS)


def load_method(name: str) -> Method:
    """Import the method's file; an error in it is raised as it is.

    Raises:
        InputError: no file has that name.

    """
    known = method_names()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown compression method {name!r}; {hint}known: {', '.join(known)}")
    method = importlib.import_module(f"{__name__}.{name}").METHOD
    if not isinstance(method, Method) or method.name != name:
        raise TypeError(f"{__name__}.{name}.METHOD must be a Method named {name!r}, not {method!r}")
    return method
