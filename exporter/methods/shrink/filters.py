"""Convolutions of an ONNX graph written as depthwise filters and a 1 × 1 convolution, without the least of the filters.

They are scored by what the outputs lose, held against what they take, and every product behind them is fitted anew.
"""

from __future__ import annotations

from itertools import islice

from edgepress.errors import InputError
from edgepress.exporter.methods.kinds import GraphPruning
from edgepress.exporter.methods.narrower.choose import matching, measure
from edgepress.exporter.methods.narrower.filters import (
    cost_of,
    find_convolutions,
    find_filters,
    keep_filters,
    written_as_filters,
)
from edgepress.exporter.methods.narrower.refit import fit_anew
from edgepress.exporter.methods.narrower.task import GraphTask, rows_of
from edgepress.exporter.methods.narrower.trace import node_name
from edgepress.exporter.methods.options import Option, Options, whole_number

_OF = ("multiply_adds", "parameters")


def _names(task: GraphTask, options: Options) -> list[str]:
    """The convolutions that may be written so.

    Raises:
        InputError: there is none, or a pattern matches none.

    """
    found = find_convolutions(task.model)
    if not found:
        raise InputError(
            "filters finds no convolution in this graph that has one group, a larger kernel than 1 × 1 and a constant "
            "weight of its own; take channels, mlp_width or heads"
        )
    return matching(found, str(options["only"]), str(options["skip"]), METHOD.name, "convolutions")


def check(task: GraphTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.GraphPruning`."""
    _names(task, options)
    if task.samples is None:
        raise InputError(
            "prune: filters looks at what samples send through the graph, and there are none; give some, or take "
            'channels with by = "weights"'
        )


def run(task: GraphTask, options: Options) -> None:
    """Write convolutions as filters until a share of the work remains."""
    check(task, options)
    assert task.samples is not None  # checked
    feeds = list(islice(task.samples(), int(options["samples"])))
    of, share, multiple = str(options["of"]), float(options["share"]), int(options["multiple"])
    found = find_filters(task.model, _names(task, options), feeds, seed=task.seed)
    whole = measure(task.coupling, (), of)(task.coupling.all_kept())
    costs = {name: cost_of(task.coupling, name, own.kernels, of) for name, own in found.items()}
    others = whole - sum(now for now, _ in costs.values())
    kept = keep_filters(found, costs, share * whole - others, multiple)
    if kept is None:
        least = others + sum(min(now, each * min(multiple, len(found[name]))) for name, (now, each) in costs.items())
        what = of.replace("_", "-")
        raise InputError(
            f"[options.filters] share = {share:g} of the {whole:,} {what} cannot be reached: with {multiple} filters "
            f"in each of {len(found)} convolutions {least / max(whole, 1):.3f} remain; give more, or more convolutions"
        )
    chosen = {name: found[name].some(places) for name, places in kept.items()}
    task.made = written_as_filters(task.model, chosen)
    changed = {node.input[1] for node in task.made.graph.node if node.op_type == "Conv" and node_name(node) in chosen}
    task.report["fitted"] = list(fit_anew(task.made, task.model, changed, feeds))
    task.report["samples"] = sum(map(rows_of, feeds))
    task.report["filters"] = {name: [len(own), len(found[name])] for name, own in chosen.items()}


METHOD = GraphPruning(
    name="filters",
    run=run,
    declared={
        "share": Option(0.5, above=0, below=1),
        "of": Option("multiply_adds", choices=_OF),
        "multiple": whole_number(8),
        "samples": whole_number(64),
        "only": Option(""),
        "skip": Option(""),
    },
    check=check,
)
