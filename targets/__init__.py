"""What a device can run: one file per target, data first.

``targets/<name>.py`` (dashes as underscores) ends in ``TARGET = Target(...)``; nothing else lists it.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from edgepress.errors import InputError


@dataclass(frozen=True)
class Target:
    """A device class: the onnxruntime execution provider that runs there, and how legality is known.

    ``checked`` says where the knowledge comes from: ``asked`` (the provider's own compiler or kernel registry),
    ``emulated`` or ``table``.
    """

    name: str
    description: str
    provider: str
    checked: Literal["asked", "emulated", "table"]


@dataclass(frozen=True)
class Operator:
    """One kind of node: operator, domain (``""`` is ONNX's own) and the opset version in force."""

    domain: str
    op: str
    version: int


def target_names() -> list[str]:
    """Names of the targets found on disk."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find_target(name: str) -> Target:
    """Return the target called ``name``; InputError lists what is known. A broken target file raises as it is."""
    if name not in target_names():
        near = difflib.get_close_matches(name, target_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(f"unknown target {name!r}{hint} Known: {', '.join(target_names())}")
    target: Target = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
    return target


def missing_kernels(target: Target, operators: Iterable[Operator]) -> list[Operator]:
    """Return the operators for which ``target``'s provider has no kernel, by onnxruntime's own registry.

    The registry is that of the running onnxruntime; kernels are registered alike on x86-64 and ARM.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    ranges: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == target.provider:
            ranges.setdefault((kernel.domain, kernel.op_name), []).append(tuple(kernel.version_range))
    return [
        operator
        for operator in operators
        if not any(low <= operator.version <= high for low, high in ranges.get((operator.domain, operator.op), []))
    ]
