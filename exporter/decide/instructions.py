"""How many instructions a token will take on ARM: an estimate, from what was counted on emulated processors.

``targets/legality/arm_instructions.json`` has, for each processor, what an operator takes for each weight, number or
key that it works through, fitted to whole models that were counted (``benchmarks/arm_costs.py``), and how far from
those counts it is. A graph with an operator that works through weights or states and was counted in no model has no
estimate. Instructions are no times (docs/benchmarks.md).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import onnx
from onnx import TensorProto

from edgepress.exporter.bundle.cpu_graph import make_graph, planned_graphs
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.graph.decoder import LOGITS_START
from edgepress.onnx_graph.walk import attribute, operand

TABLE = "arm_instructions.json"
CONTEXTS, PROMPT = (64, 1024), 128  # tokens before a call, and tokens of a prompt that are computed at once
DECODE, PREFILL = "decode", "prefill"
APART = _BLOCKS, _ATTENTION = "MatMulNBits", "GroupQueryAttention"
_LIGHT = frozenset(
    {
        *("Add", "Cast", "Concat", "Cos", "Gather", "GatherBlockQuantized", "Max", "Mul", "Pad", "QuickGelu", "Range"),
        *("ReduceSum", "Reshape", "Shape", "SimplifiedLayerNormalization", "Sin", "Size", "Slice", "Squeeze", "Sub"),
        *("SkipSimplifiedLayerNormalization", "Unsqueeze"),
    }
)  # operators of the models that were counted, besides
OTHERS, LAST = "others", "last "
_LEVEL = 4  # accuracy_level of the products that were counted: activations in int8

Work = Mapping[str, float]
Costs = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Estimate:
    """Instructions of one graph on one processor: a token decoded, and one of a prompt, by the tokens before them."""

    file: str
    cpu: str
    decode: Mapping[int, int]
    prefill: Mapping[int, int]


@dataclass(frozen=True)
class Table:
    """What operators take, by processor: ``costs[cpu][phase][operator][quantity]``, and how far that is from counts.

    ``largest_error`` and ``median_error`` are shares of a count.
    """

    costs: Mapping[str, Mapping[str, Costs]]
    largest_error: float
    median_error: float


@cache
def read_table() -> Table:
    """The table that is shipped."""
    data: dict[str, Any] = json.loads(files("edgepress.targets.legality").joinpath(TABLE).read_text(encoding="utf-8"))
    return Table(data["costs"], data["largest_error"], data["median_error"])


def estimates(prepared: Prepared) -> list[Estimate]:
    """For each processor and graph where all that it needs was counted; none where no target is of ARM's processors."""
    contexts = [at for at in CONTEXTS if at + PROMPT <= prepared.plan.context_length]
    if not contexts or not any(target.float16 for target in prepared.targets):
        return []
    models = {graph.file: make_graph(prepared.decoder, graph.plan, prepared.cpu) for graph in planned_graphs(prepared)}
    found = []
    for cpu, costs in read_table().costs.items():
        for file, model in models.items():
            taken = {
                (phase, at): cost_of(work_of(model, phase, at), costs, phase)
                for phase in (DECODE, PREFILL)
                for at in contexts
            }
            counts = {key: round(value) for key, value in taken.items() if value is not None}
            if len(counts) == len(taken):
                decode, prefill = ({at: counts[phase, at] for at in contexts} for phase in (DECODE, PREFILL))
                found.append(Estimate(file, cpu, decode, prefill))
    return found


def cost_of(work: Mapping[str, Work], costs: Mapping[str, Costs], phase: str) -> float | None:
    """Instructions of ``work``, by what they are in each phase; None where an operator in it was not counted.

    What the last token of a prompt does alone takes what a decoded one takes.
    """
    if not work.keys() <= costs[phase].keys():
        return None
    total = 0.0
    for operator, amounts in work.items():
        for quantity, amount in amounts.items():
            of_phase = costs[DECODE if quantity.startswith(LAST) else phase]
            total += amount * of_phase.get(operator, {}).get(quantity.removeprefix(LAST), 0.0)
    return total


def work_of(model: onnx.ModelProto, phase: str, context: int) -> dict[str, Work]:
    """What each operator has to do for a token: amounts by quantity, a prompt's shared by its tokens.

    Quantities are ``weights`` and ``edges`` (rows and columns) of products, for tokens of a prompt together; those of
    its last token alone (after the last state, in the head) are ``last weights`` and so on. Attention has ``heads``,
    the numbers in them (``width``), and these times the keys before (``width keys``). All else is numbers that are
    worked through, nodes, and calls with their keys, of which tables of rotation are made.
    """
    graph, found = model.graph, dict[str, Counter[str]]()
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    caches = {value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in graph.input}
    widths: dict[str, int] = {}  # numbers that a value has for each token
    trimmed: set[str] = set()  # values of the last token alone
    share = 1 / PROMPT if phase == PREFILL else 1.0

    def note(operator: str, last: bool, **amounts: float) -> None:
        alone = last and phase == PREFILL
        for quantity, amount in amounts.items():
            named = quantity.replace("_", " ")
            counts = found.setdefault(operator, Counter())
            counts[f"{LAST}{named}" if alone else named] += amount * share if alone else amount

    for node in graph.node:
        operator, inputs = node.op_type, [name for name in node.input if name]
        last = LOGITS_START in inputs or not trimmed.isdisjoint(inputs)
        width = max((widths[name] for name in inputs if name in widths), default=0)
        if operator == _BLOCKS:
            rows, columns = attribute(node, "N"), attribute(node, "K")
            width = rows
            note(_product(node, halves), last, weights=rows * columns, edges=rows + columns)
        elif operator == _ATTENTION:
            heads = attribute(node, "num_heads")
            width = heads * caches[node.input[3]][-1]
            key = f"{operator}, {TensorProto.DataType.Name(kinds[node.input[3]]).lower()}"
            is_plain = attribute(node, "local_window_size", -1) < 0 and attribute(node, "do_rotary", 0)
            named = key if is_plain else f"{key}, windowed or without rotation"
            note(named, last, heads=heads, width=width, width_keys=width * context)
        elif operator == "GatherBlockQuantized":
            width = shapes[node.input[0]][1] * 8 // attribute(node, "bits", 4)
        elif operator not in _LIGHT:
            note(operator, last, nodes=1)
        if operator not in APART:
            note(OTHERS, last, nodes=share)
            if width:
                note(OTHERS, last, numbers=width)
        for name in filter(None, node.output):
            if width:
                widths[name] = width
            if last:
                trimmed.add(name)
    note(OTHERS, last=False, calls=share, keys=context * share)
    return {name: dict(counts) for name, counts in found.items()}


def _product(node: onnx.NodeProto, halves: Collection[str]) -> str:
    """What kind of MatMulNBits a node is: such a kind as was counted, or one with more words."""
    words = [node.op_type, f"{attribute(node, 'bits')} bits", f"block {attribute(node, 'block_size')}"]
    if attribute(node, "accuracy_level", 0) != _LEVEL:
        words.append(f"accuracy level {attribute(node, 'accuracy_level', 0)}")
    if operand(node, 2) in halves:
        words.append("float16")
    if operand(node, 3):
        words.append("zero points")
    return ", ".join(words)
