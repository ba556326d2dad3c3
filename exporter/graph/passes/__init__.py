"""Legalization passes: an ONNX graph in, one that a stricter provider takes out, with the same outputs.

``passes/<name>.py`` (dashes as underscores) ends in ``PASS = Pass(...)``; nothing else lists it. Passes work on any
model: a decoder, an encoder or a CNN, ours or not.
"""

import difflib
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from edgepress.errors import InputError
from edgepress.exporter.graph.weights import Weights
from edgepress.modules import modules_in

STATIC = "static shapes"
FLOAT32 = "float32 alone"
FACTS = {STATIC: "every dimension is a number", FLOAT32: "no float16 and bfloat16"}
"""What may be known of a graph, besides operators that it does not have."""


@dataclass(frozen=True)
class Context:
    """What passes work with: ``shapes`` gives symbolic dimensions their sizes, ``weights`` reads and takes weights."""

    shapes: Mapping[str, int] = field(default_factory=dict)
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True)
class Pass:
    """One legalization.

    ``operators`` are the operators that it removes, with their domain unless that is ONNX's own
    (``com.microsoft.GroupQueryAttention``). ``apply`` changes the model in place and returns how many changes it made;
    a node that it does not know how to change with the same outputs it leaves alone, or refuses with an InputError
    when nothing later could.

    A fact is an operator that is gone, by its name, or one of :data:`FACTS`. ``requires`` are facts without which it
    would miss what it is for, ``ensures`` those that hold after it besides that ``operators`` are gone; these are gone
    for sure only where the facts ``where`` hold. ``makes`` are operators that it may write and another pass removes.
    """

    name: str
    description: str
    operators: tuple[str, ...]
    apply: Callable[[onnx.ModelProto, Context], int]
    requires: tuple[str, ...] = ()
    ensures: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()


def pass_names() -> list[str]:
    """Names of the passes found on disk."""
    return sorted(module.name.replace("_", "-") for module in modules_in(__path__))


def find_pass(name: str) -> Pass:
    """Load the pass called ``name``; InputError when there is none."""
    if name not in pass_names():
        near = difflib.get_close_matches(name, pass_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"no pass {name!r}; {hint}Known: {', '.join(pass_names())}")
    found: Pass = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").PASS
    return found


@dataclass(frozen=True)
class PassOrder:
    """Passes in an order that is right, which is checked when it is made: ``PassOrder(("float32", …), given)``.

    ``given`` are facts (see :class:`Pass`) that hold before the first pass.

    Raises:
        InputError: there is no such pass.
        ValueError: a pass comes before one that ensures what it requires, or after the last one that removes what it
            makes.

    """

    names: tuple[str, ...]
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        _ = self.holds

    @cached_property
    def holds(self) -> frozenset[str]:
        """The facts that hold after the last pass."""
        holds, undone = set(self.given), dict[str, str]()  # operators that come back, and the pass that makes them
        for one in map(find_pass, self.names):
            if missing := sorted(set(one.requires) - holds):
                first = ", ".join(name for name in pass_names() if missing[0] in _made_sure(find_pass(name))) or "none"
                gone = missing[0] if missing[0] in FACTS else f"no {missing[0]}"
                raise ValueError(
                    f"{one.name} requires {gone}, which nothing before it ensures; passes that do: {first}"
                )
            undone |= dict.fromkeys(holds & set(one.makes), one.name)
            holds -= set(one.makes)
            holds |= set(one.ensures)
            if set(one.where) <= holds:
                holds |= set(one.operators)
                undone = {op: maker for op, maker in undone.items() if op not in one.operators}
        for op, maker in undone.items():
            raise ValueError(f"{maker} makes {op}, which was removed before it; put {pass_of(op)} after it")
        return frozenset(holds)

    def then(self, *names: str, given: Iterable[str] = ()) -> "PassOrder":
        """The passes that follow after these, and after other steps that ensure ``given``."""
        return PassOrder(names, self.holds | set(given))

    def run(self, model: onnx.ModelProto, context: Context | None = None) -> dict[str, int]:
        """Run the passes over ``model``, in place; return how many changes each made, the last time that it ran."""
        context = Context() if context is None else context
        return {name: find_pass(name).apply(model, context) for name in self.names}


def _made_sure(one: Pass) -> set[str]:
    return {*one.operators, *one.ensures}


def pass_for(domain: str, op: str) -> str:
    """The name of the pass that removes an operator, "" when there is none."""
    return pass_of(f"{domain}.{op}" if domain else op)


def pass_of(operator: str) -> str:
    """As :func:`pass_for`, of an operator with its domain before it."""
    return next((name for name in pass_names() if operator in find_pass(name).operators), "")
