"""Nodes of a graph in integers that compute in float all the same: which, why, and what that makes of weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from glob import escape

from edgepress.errors import InputError
from edgepress.exporter.graph.foreign.roles import Foreign
from edgepress.exporter.graph.qdq.floats import close_floats, name_of, reads_as_weight, reads_infinity
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.exporter.recipe.recipe import KEPT_BITS, Override, Recipe, Storage

_ALONG = "goes with what it bounds, or moves what is in float32"


def nodes_asked(model: FloatModel, recipe: Recipe) -> dict[str, str]:
    """The nodes that ``[activations] kept`` names, and that as the reason.

    Raises:
        InputError: a pattern names none.

    """
    names, found = [name_of(node) for node in model.nodes], dict[str, str]()
    for pattern in recipe.activations.kept:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            raise InputError(
                f"[activations] kept has {pattern!r}, which names no node; the first ones are: "
                f"{', '.join(names[:6])}, …"
            )
        found |= dict.fromkeys(matched, f"[activations] kept = {pattern!r}")
    return found


def keep_in_float(model: FloatModel, foreign: Foreign, recipe: Recipe, reasons: Mapping[str, str]) -> Decisions:
    """The nodes of ``reasons``, those whose weights the recipe keeps, and those that go along, each with its reason.

    Weights that are read by such nodes alone stay float32.
    """
    kept = {w.name for w in foreign.listed if recipe.storage(w.name, w.kind)[0].bits == KEPT_BITS}
    floats, named = close_floats(model, reasons, kept), dict[str, str]()
    for node in model.nodes:
        name = name_of(node)
        if name in floats:
            by_itself = "its weight is kept" if reads_as_weight(model, node, kept) else _ALONG
            by_itself = "it computes with a constant that is not finite" if reads_infinity(model, node) else by_itself
            named[name] = reasons.get(name, by_itself)
    storage = Storage(bits=KEPT_BITS)
    overrides = [
        Override(escape(weight), storage, f"the node {node} computes in float32: {named[node]}")
        for weight, node in kept_weights(model, floats).items()
        if weight not in kept
    ]
    return Decisions(kept_layers=named, overrides=tuple(overrides))


def kept_weights(model: FloatModel, floats: Collection[str]) -> dict[str, str]:
    """Weights that no node in integers multiplies by, and the first node that does."""
    readers: dict[str, list[str]] = defaultdict(list)
    for node in model.nodes:
        for name in dict.fromkeys(node.input):
            if name in model.constants and reads_as_weight(model, node, {name}):
                readers[name].append(name_of(node))
    return {name: nodes[0] for name, nodes in readers.items() if all(node in floats for node in nodes)}
