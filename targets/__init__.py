"""What a device can run: one file per target, data first.

``targets/<name>.py`` (dashes as underscores) ends in ``TARGET = Target(...)``; nothing else lists it.
"""

import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from edgepress.errors import InputError
from edgepress.modules import modules_in

FALLBACK = "arm64-cpu"  # what runs the graph of a bundle whose targets are accelerators only
CPU = "CPUExecutionProvider"

HALF_ON_ARM = frozenset(
    {
        *("Add", "AveragePool", "Conv", "Div", "Erf", "Gelu", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul"),
        *("MaxPool", "Mul", "Relu", "Sub"),
    }
)
"""ONNX operators that onnxruntime computes in float16 on ARM CPUs with half-precision arithmetic, and on no others.

From the registry of its aarch64 build on emulated processors (tests/targets/test_emulator_registry.py): a Neoverse N2
has these and a Cortex-A53 has not. Elsewhere such a node is computed in float32 between casts.
"""


FASTER = {
    "int8 weights": (
        "products of uint8 by int8 rather than by uint8; some CPUs of x86-64 add pairs of them up in 16 bits, and the "
        "codes are such that every pair fits"
    ),
    "one rounding": "an input of several integer products rounded once, by a node of its own",
    "norms apart": "Add and LayerNormalization apart rather than as SkipLayerNormalization",
}
"""Forms of a graph that a target may have measured faster (docs/design.md, "Integer products")."""


@dataclass(frozen=True)
class Soc:
    """A chip of a target for which models are compiled ahead: ``model`` is the number the provider knows it by.

    ``arch`` is the accelerator's version (Hexagon v75 is 75), ``vtcm_mb`` its tightly coupled memory in MiB, and
    ``float16`` whether its compiler takes float graphs (computed in float16) or quantized ones only.
    """

    name: str
    description: str
    model: int
    arch: int
    vtcm_mb: int
    float16: bool


@dataclass(frozen=True)
class Table:
    """The operators that a provider takes, as its documentation lists them, for providers that cannot be asked.

    ``operators`` maps ``domain:operator`` to the table's note: sentences that each say a condition, with ``<br/>``
    between them; or ``file`` names such a table among ``onnxruntime/tools/mobile_helpers`` in the installed wheel.
    ``other`` is another such file, of the form of model that ``other_name`` chooses.

    ``more`` are conditions of the provider's source that its documentation lacks, and ``fused`` operators that it takes
    together with the one before, which must be one of those given.

    ``types`` are what values may be, ``quantized`` what QuantizeLinear may make, and ``integers`` the operators that it
    computes between DequantizeLinear and QuantizeLinear; None where the table has no fewer. ``max_rank`` bounds
    tensors; without ``dynamic`` every shape must be fixed; without ``external`` weights in external data files are not
    taken, and without ``subgraphs`` no node within If, Loop or Scan. A partition of one node of ``trivial`` is left to
    the CPU.
    """

    operators: Mapping[str, str] = field(default_factory=dict)
    file: str = ""
    other: str = ""
    other_name: str = ""
    more: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, frozenset[str]] = field(default_factory=dict)
    types: frozenset[str] = frozenset()
    quantized: frozenset[str] = frozenset()
    integers: frozenset[str] | None = None
    max_rank: int = 8
    dynamic: bool = False
    external: bool = True
    subgraphs: bool = False
    trivial: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    """A device class: the onnxruntime execution provider that runs there, and how legality is known.

    ``checked`` says where the knowledge comes from: ``asked`` (the provider's own compiler or kernel registry),
    ``emulated`` or ``table``; ``source`` names it, for a written table with its date, and ``package`` the distribution
    that it is in, whose installed version reports show. ``table`` is that table. ``socs`` are the chips that can be
    named with ``--soc``; none where one build serves all. ``form`` names what an export writes beside the CPU graph (a
    file of its ``forms/``), None where nothing is needed. ``qdq`` are the widths of QDQ models that run there in
    integers (``exporter/graph/qdq`` has their names). ``float16`` says that its CPUs may compute in float16: a bundle
    gets a graph in float16 for those beside the one in float32. ``same_layers`` says why all layers of a model must
    have the same sizes there; empty where they may differ. ``recipes`` are presets of the exporter that suit it, best
    first: the one that is taken where no recipe is named; for several targets it is one that suits all. ``faster``
    names forms of a graph that were measured faster there (:data:`FASTER`).
    """

    name: str
    description: str
    provider: str
    checked: Literal["asked", "emulated", "table"]
    source: str
    package: str = ""
    socs: tuple[Soc, ...] = ()
    form: str | None = None
    qdq: tuple[str, ...] = ()
    float16: bool = False
    table: Table | None = None
    same_layers: str = ""
    recipes: tuple[str, ...] = ("int4", "int4-channel")
    faster: frozenset[str] = frozenset()

    @property
    def is_cpu(self) -> bool:
        """Whether onnxruntime's CPU provider is the target itself; else it takes what the accelerator leaves."""
        return self.provider == CPU


@dataclass(frozen=True)
class Operator:
    """One kind of node: operator, domain (``""`` is ONNX's own) and the opset version in force."""

    domain: str
    op: str
    version: int


def target_names() -> list[str]:
    """Names of the targets found on disk: modules only, packages are what they share."""
    return sorted(module.name.replace("_", "-") for module in modules_in(__path__) if not module.ispkg)


def find_target(name: str) -> Target:
    """Return the target called ``name``; InputError lists what is known. A broken target file raises as it is."""
    if name not in target_names():
        near = difflib.get_close_matches(name, target_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise InputError(f"unknown target {name!r}{hint} Known: {', '.join(target_names())}")
    target: Target = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").TARGET
    return target


def default_recipe(targets: Sequence[Target]) -> tuple[str, str]:
    """The preset that suits ``targets`` where no recipe is named, and why it is that one.

    Of those that suit all of them, the one that is furthest to the front of their lists together.

    Raises:
        InputError: none suits all; the message says what suits each.

    """
    common = [name for name in targets[0].recipes if all(name in target.recipes for target in targets)]
    if not common:
        suits = "; ".join(f"{target.name}: {', '.join(target.recipes)}" for target in targets)
        raise InputError(f"no one recipe suits these targets ({suits}); name one, or export them one by one")
    found = min(common, key=lambda name: sum(target.recipes.index(name) for target in targets))
    names = " and ".join(target.name for target in targets)
    if all(found == target.recipes[0] for target in targets):
        return found, f"the default of {names}"
    own = ", ".join(f"{target.recipes[0]} of {target.name}" for target in targets)
    return found, f"suits {names}, whose defaults differ: {own}"


def find_soc(target: Target, name: str) -> Soc:
    """Return the chip of ``target`` called ``name``.

    Raises:
        InputError: the target has no such chip, or none at all.

    """
    names = [soc.name for soc in target.socs]
    for soc in target.socs:
        if soc.name == name:
            return soc
    if not names:
        raise InputError(f"target {target.name} has no chips to choose from; leave {name!r} out")
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise InputError(f"target {target.name} knows no chip {name!r}{hint} Known: {', '.join(names)}")


def faster_forms(targets: Iterable[Target]) -> frozenset[str]:
    """What any of the targets' CPUs computes faster (:data:`FASTER`): all of them can compute it."""
    return frozenset[str]().union(*(target.faster for target in targets))


def missing_kernels(target: Target, operators: Iterable[Operator]) -> list[Operator]:
    """Return the operators for which ``target``'s provider has no kernel, by onnxruntime's own registry.

    The registry is that of the running onnxruntime. Operators and versions are registered alike on x86-64 and ARM;
    float16 has more kernels on ARM (:data:`HALF_ON_ARM`).
    """
    return [operator for operator in operators if not _kernels_of(target, operator)]


def has_kernel(target: Target, operator: Operator, float_type: Literal["float32", "float16"]) -> bool:
    """Whether ``target``'s provider has a kernel of ``operator`` that computes in ``float_type``.

    By the same registry. onnxruntime accepts a node for which there is none, and runs it in float32 between casts that
    it inserts.
    """
    name = {"float32": "tensor(float)", "float16": "tensor(float16)"}[float_type]
    return any(name in types for kernel in _kernels_of(target, operator) for types in kernel.constraints.values())


@dataclass(frozen=True)
class Kernel:
    """What the registry says of a kernel: the opset versions that it is for, and the types of each type parameter."""

    low: int
    high: int
    constraints: Mapping[str, frozenset[str]]


def kernels_of(provider: str, domain: str, op: str) -> Sequence[Kernel]:
    """Return every kernel that ``provider`` has of an operator, of any version."""
    return _registry(provider).get((domain, op), ())


def _kernels_of(target: Target, operator: Operator) -> list[Kernel]:
    found = kernels_of(target.provider, operator.domain, operator.op)
    return [kernel for kernel in found if kernel.low <= operator.version <= kernel.high]


@cache
def _registry(provider: str) -> dict[tuple[str, str], list[Kernel]]:
    """The provider's kernels by domain and operator."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kernels: dict[tuple[str, str], list[Kernel]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider == provider:
            constraints = {name: frozenset(types) for name, types in kernel.type_constraints.items()}
            low, high = kernel.version_range
            kernels.setdefault((kernel.domain, kernel.op_name), []).append(Kernel(low, high, constraints))
    return kernels
