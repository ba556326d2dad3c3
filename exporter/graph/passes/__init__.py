"""Legalization passes: an ONNX graph in, one that a stricter provider takes out, with the same outputs.

``passes/<name>.py`` (dashes as underscores) ends in ``PASS = Pass(...)``; nothing else lists it. Passes work on any
model: a decoder, an encoder or a CNN, ours or not.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from edgepress.errors import InputError
from edgepress.exporter.graph.weights import Weights


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
    """

    name: str
    description: str
    operators: tuple[str, ...]
    apply: Callable[[onnx.ModelProto, Context], int]


def pass_names() -> list[str]:
    """Names of the passes found on disk."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find_pass(name: str) -> Pass:
    """Load the pass called ``name``; InputError when there is none."""
    if name not in pass_names():
        near = difflib.get_close_matches(name, pass_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"no pass {name!r}; {hint}Known: {', '.join(pass_names())}")
    found: Pass = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").PASS
    return found


def run_passes(model: onnx.ModelProto, names: Iterable[str], context: Context | None = None) -> dict[str, int]:
    """Run passes over ``model`` in order, in place; return how many changes each made."""
    context = Context() if context is None else context
    return {name: find_pass(name).apply(model, context) for name in names}


def pass_for(domain: str, op: str) -> str:
    """The name of the pass that removes an operator, "" when there is none."""
    wanted = f"{domain}.{op}" if domain else op
    return next((name for name in pass_names() if wanted in find_pass(name).operators), "")
