"""What a device can run: one file per target, data first.

``targets/<name>.py`` (dashes as underscores) ends in ``TARGET = Target(...)``; nothing else lists it.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
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
    return [operator for operator in operators if not _kernels_of(target, operator)]


def has_kernel(target: Target, operator: Operator, float_type: Literal["float32", "float16"]) -> bool:
    """Whether ``target``'s provider has a kernel of ``operator`` that computes in ``float_type``.

    By the same registry. onnxruntime accepts a node for which there is none, and runs it in float32 between casts that
    it inserts.
    """
    name = {"float32": "tensor(float)", "float16": "tensor(float16)"}[float_type]
    return any(name in kernel.types for kernel in _kernels_of(target, operator))


@dataclass(frozen=True)
class _Kernel:
    """What the registry says of a kernel: the opset versions that it is for, and every type that it admits."""

    low: int
    high: int
    types: frozenset[str]


def _kernels_of(target: Target, operator: Operator) -> list[_Kernel]:
    found = _registry(target.provider).get((operator.domain, operator.op), [])
    return [kernel for kernel in found if kernel.low <= operator.version <= kernel.high]


@cache
def _registry(provider: str) -> dict[tuple[str, str], list[_Kernel]]:
    """The provider's kernels by domain and operator."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kernels: dict[tuple[str, str], list[_Kernel]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == provider:
            types = frozenset(name for names in kernel.type_constraints.values() for name in names)
            low, high = kernel.version_range
            kernels.setdefault((kernel.domain, kernel.op_name), []).append(_Kernel(low, high, types))
    return kernels
