"""How many instructions a token will take on ARM: an estimate, from what was counted on emulated processors.

``targets/legality/arm_instructions.json`` has, for each processor, what an operator takes for each weight, number or
key that it works through, fitted to whole models that were counted (``benchmarks/arm_costs.py``), and how far from
those counts it is. A graph with an operator that works through weights or states and was counted in no model has no
estimate. Instructions are no times (docs/benchmarks.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import onnx
from onnx import TensorProto

from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.graph.primitives import LOGITS_START
from edgepress.onnx_graph.walk import attribute, operand

TABLE = "arm_instructions.json"
CONTEXTS, PROMPT = (64, 1024), 128  # tokens before a call, and tokens of a prompt that are computed at once
DECODE, PREFILL = "decode", "prefill"
APART = _BLOCKS, _ATTENTION = "MatMulNBits", "GroupQueryAttention"
_LIGHT = frozenset(
    {
        *("Add", "Cast", "Concat", "Cos", "Gather", "GatherBlockQuantized", "Max", "Mul", "Pad", "QuickGelu", "Range"),
        *(
            "ConstantOfShape",
            "ReduceSum",
            "Reshape",
            "Shape",
            "SimplifiedLayerNormalization",
            "Sin",
            "Size",
            "Slice",
            "Squeeze",
        ),
        *("SkipSimplifiedLayerNormalization", "Sub", "Unsqueeze"),
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
    """For each processor and graph where all that it needs was counted; none where no target is of ARM's processors.

    Of graphs with slots for adapters it is what they take without: slots were counted in few models.
    """
    contexts = [at for at in CONTEXTS if at + PROMPT <= prepared.plan.context_length]
    if not contexts or not any(target.float16 for target in prepared.targets):
        return []
    without = replace(prepared, plan=replace(prepared.plan, adapter_slots=None))
    models = (prepared if prepared.adapter_slots is None else without).make_graphs()
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


def work_of(model: onnx.ModelProto, phase: str, context: int) -> Mapping[str, Work]:
    """What each operator has to do for a token: amounts by quantity, a prompt's shared by its tokens.

    Quantities are ``weights`` and ``edges`` (rows and columns) of products, for tokens of a prompt together; those of
    its last token alone (after the last state, in the head) are ``last weights`` and so on. Attention has ``heads``,
    the numbers in them (``width``), and these times the keys before (``width keys``). All else is numbers that are
    worked through, nodes, and calls with their keys, of which tables of rotation are made.
    """
    walk = _Walk(model.graph, phase, context)
    for node in model.graph.node:
        walk.add(node)
    walk.note(OTHERS, {"calls": walk.share, "keys": context * walk.share})
    return walk.found


def widest_node(model: onnx.ModelProto) -> int:
    """The most numbers for each token of a prompt that go into a node and come out of it."""
    walk = _Walk(model.graph, PREFILL, 0)
    for node in model.graph.node:
        walk.add(node)
    return walk.widest


class _Walk:
    """Nodes in their order, and what was found of their work so far."""

    def __init__(self, graph: onnx.GraphProto, phase: str, context: int) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self.share = 1 / PROMPT if phase == PREFILL else 1.0  # a token's, of what is done once a call
        self._phase, self._context = phase, context
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._states = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output)}
        self._widths: dict[str, int] = {}  # numbers that a value has for each token
        self._trimmed: set[str] = set()  # values of the last token alone
        self.widest = 0

    def add(self, node: onnx.NodeProto) -> None:
        """Note what one node does, and what its results are."""
        inputs = [name for name in node.input if name]
        last = LOGITS_START in inputs or not self._trimmed.isdisjoint(inputs)
        width = max((self._widths[name] for name in inputs if name in self._widths), default=0)
        if node.op_type == _BLOCKS:
            width, columns = attribute(node, "N"), attribute(node, "K")
            self.note(self._product(node), {"weights": width * columns, "edges": width + columns}, last=last)
        elif node.op_type == _ATTENTION:
            heads, width = attribute(node, "num_heads"), self._attended(node)
            work = {"heads": heads, "width": width, "width keys": width * self._context}
            self.note(self._attention(node), work, last=last)
        else:
            if node.op_type == "GatherBlockQuantized":
                width = self._constants[node.input[0]].dims[1] * 8 // attribute(node, "bits", 4)
            known = node.op_type in _LIGHT
            self.note(OTHERS if known else node.op_type, {"nodes": self.share, "numbers": width}, last=last)
        made = [name for name in node.output if name]
        self._widths |= dict.fromkeys(made, width) if width else {}
        if not last:
            given = made[:1] if node.op_type == _ATTENTION else made  # the others of attention are states
            values = {name for name in (*inputs, *given) if name not in self._constants}
            self.widest = max(self.widest, sum(self._widths.get(name, 0) for name in values))
        self._trimmed.update(made if last else ())

    def note(self, operator: str, amounts: Mapping[str, float], *, last: bool = False) -> None:
        """Add amounts; those of a prompt's ``last`` token are shared by all."""
        alone, counts = last and self._phase == PREFILL, self.found.setdefault(operator, {})
        for quantity, amount in amounts.items():
            named = f"{LAST}{quantity}" if alone else quantity
            counts[named] = counts.get(named, 0.0) + (amount * self.share if alone else amount)

    def _attended(self, node: onnx.NodeProto) -> int:
        """Numbers of all heads, from the shape of the keys that are read: those before, or another layer's after."""
        return int(attribute(node, "num_heads") * self._states[node.input[3]].shape.dim[-1].dim_value)

    def _attention(self, node: onnx.NodeProto) -> str:
        """What kind of attention a node is: such a kind as was counted, or one with more words."""
        kind = TensorProto.DataType.Name(self._states[node.input[3]].elem_type).lower()
        is_plain = attribute(node, "local_window_size", -1) < 0 and attribute(node, "do_rotary", 0)
        return ", ".join([node.op_type, kind, *([] if is_plain else ["a window, or no rotation in it"])])

    def _product(self, node: onnx.NodeProto) -> str:
        """What kind of MatMulNBits a node is: such a kind as was counted, or one with more words."""
        words = [node.op_type, f"{attribute(node, 'bits')} bits", f"block {attribute(node, 'block_size')}"]
        if attribute(node, "accuracy_level", 0) != _LEVEL:
            words.append(f"accuracy level {attribute(node, 'accuracy_level', 0)}")
        scales = self._constants.get(operand(node, 2))
        if scales is not None and scales.data_type == TensorProto.FLOAT16:
            words.append("float16")
        return ", ".join([*words, *(["zero points"] if operand(node, 3) else [])])
