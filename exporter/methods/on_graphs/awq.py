"""AWQ of a graph's products: inputs that are large have their columns scaled up before rounding (Lin et al. 2023).

The search is that of :mod:`~edgepress.exporter.methods.transform.awq`, for all products that read one value together::

    x / s ─┬ MatMul(s W₁)          s is searched by the error of all their outputs
           └ MatMul(s W₂)

x / s costs nothing where what makes x can be divided instead: the gain and bias of a norm that nothing else reads, or
the product before with nothing but Relu between. Elsewhere, as behind a GELU or where the residual stream reads x too,
it is a Mul of its own: that is added where the error falls to ``most`` of what it was, or below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.interpreter.network import Network, Step
from edgepress.exporter.interpreter.walk import Walk
from edgepress.exporter.methods.kinds import GraphMethod
from edgepress.exporter.methods.on_graphs.equalize import Pair, by_output, find_pairs, scaled_inputs, scaled_outputs
from edgepress.exporter.methods.options import Option, Options, whole_number
from edgepress.exporter.methods.transform.awq import matrix_error, search_scales
from edgepress.exporter.streams.shipping_task import ShippingTask

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class _Group:
    """Products with weights in codes that read one value, and the node that makes it (None: the graph's input)."""

    value: str
    products: tuple[Step, ...]
    maker: Step | None
    alone: bool  # nothing else reads the value


def _groups(network: Network, coded: Sequence[str]) -> list[_Group]:
    steps = network.between(network.inputs, network.outputs)
    readers: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        for name in dict.fromkeys((*step.inputs, *step.reads)):
            readers[name].append(step)
    makers = {name: step for step in steps for name in step.outputs}
    found: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        is_product = step.key in ("Gemm", "MatMul") and not step.attributes.get("transA", 0)
        is_matrix = is_product and step.inputs[1] in coded and network.constants[step.inputs[1]].dim() == 2
        if is_matrix and len(readers[step.inputs[1]]) == 1:
            found[step.inputs[0]].append(step)
    return [
        _Group(
            value,
            tuple(products),
            makers.get(value),
            len(readers[value]) == len(products) and value not in network.outputs,
        )
        for value, products in found.items()
        if value not in network.constants
    ]


def _run(task: ShippingTask, options: Options) -> None:
    network, grid, rows = task.network, int(options["grid"]), int(options["rows"])
    groups = _groups(network, list(task.coded))
    pairs = {pair.second.step.name: pair for pair in find_pairs(network, through_caps=False)}
    walk, counts = Walk(network, task.feeds), {"folded": 0, "by a Mul": 0, "left": 0}
    found: list[tuple[_Group, Tensor, float]] = []
    with task.progress(len(groups), "searching scales", " inputs") as advance:
        for group in groups:
            moments = Moments(network.constants[group.products[0].inputs[1]].shape[_columns(group.products[0])])
            for given in walk.before(group.products[0]):
                moments.add(given[group.value])
            found.append((group, *_search(task, group, moments, grid, rows)))
            advance(1)
    for group, scales, left in found:  # after the walk, which computes the graph as it came
        if left >= 1:
            counts["left"] += 1
        elif _fold(task, group, scales, pairs):
            counts["folded"] += 1
        elif left <= float(options["most"]):
            _scale(task, group, scales)
            task.multiply(group.value, 1 / scales, [step.name for step in group.products])
            counts["by a Mul"] += 1
        else:
            counts["left"] += 1
    ratios = sorted(left for _, _, left in found)
    middle = f"; the error of the middle one became {ratios[len(ratios) // 2]:.2f} of what it was" if ratios else ""
    task.notes.append(f"awq: inputs of products scaled: {', '.join(f'{n} {how}' for how, n in counts.items())}{middle}")


def _columns(step: Step) -> int:
    """The axis of a product's weight along which its inputs lie."""
    return 1 if step.key == "Gemm" and step.attributes.get("transB", 0) else 0


def _search(task: ShippingTask, group: _Group, moments: Moments, grid: int, rows: int) -> tuple[Tensor, float]:
    """Scales (columns,), and the error with them as a share of that without."""
    weights = [
        (by_output(s, task.network.constants[s.inputs[1]]), task.coded[s.inputs[1]].scheme) for s in group.products
    ]

    def error(scales: Tensor) -> float:
        return sum(matrix_error(full, scheme, scales, moments, rows) for full, scheme in weights)

    size = moments.mean_square.sqrt()
    scales = search_scales(size, error, grid)
    before = error(torch.ones_like(size))
    return scales, error(scales) / before if before > 0 else 1.0


def _scale(task: ShippingTask, group: _Group, scales: Tensor) -> None:
    """Multiply the columns of the group's weights."""
    for step in group.products:
        task.put(step.inputs[1], scaled_inputs(step, task.network.constants[step.inputs[1]], scales))


def _fold(task: ShippingTask, group: _Group, scales: Tensor, pairs: dict[str, Pair]) -> bool:
    """Divide what makes the value, and multiply the weights; False where it cannot be divided."""
    constants, maker = task.network.constants, group.maker
    if not group.alone or maker is None:
        return False
    if maker.key in _NORMS and maker.outputs[0] == group.value:
        parts = [name for name in maker.inputs[1:] if name]
        if any(name not in constants or constants[name].shape != scales.shape for name in parts):
            return False
        if any(sum(name in step.inputs for step in task.network.steps) != 1 for name in parts):
            return False
        for name in parts:
            task.put(name, constants[name] / scales)
        _scale(task, group, scales)
        return True
    pair = pairs.get(group.products[0].name)
    if pair is None or len(group.products) > 1:
        return False
    task.put(pair.first.weight, scaled_outputs(pair.first.step, constants[pair.first.weight], 1 / scales))
    if pair.first.bias:
        task.put(pair.first.bias, constants[pair.first.bias] / scales)
    _scale(task, group, scales)
    return True


METHOD = GraphMethod(
    name="awq",
    place="before",
    run=_run,
    forms=frozenset({"blocks"}),
    declared={
        "grid": whole_number(20),
        "rows": whole_number(512),
        "most": Option(0.9, least=0, most=1),
    },
)
