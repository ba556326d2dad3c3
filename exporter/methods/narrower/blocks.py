"""Residual blocks of an ONNX graph, and the graph without some of them.

A block is a sum of a value with what is computed from it; without it the value itself goes on::

    x ─┬─ … ─ branch ─ Add ─ y        x ─────────── y
       └────────────────┘
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Feed
from edgepress.exporter.methods.narrower.coupling import find_coupling
from edgepress.exporter.methods.narrower.task import GraphTask
from edgepress.exporter.methods.narrower.trace import node_name
from edgepress.exporter.methods.options import Options
from edgepress.onnx_graph.values import Scope
from edgepress.onnx_graph.walk import read_by
from edgepress.sessions import open_on_cpu


@dataclass(frozen=True)
class ResidualBlock:
    """A block by the name of its sum, the sum ``y``, and the value ``x`` that goes around it."""

    name: str
    x: str
    y: str


def find_blocks(model: onnx.ModelProto) -> list[ResidualBlock]:
    """The residual blocks of the main graph, in the order of its nodes; those that give an output are left out."""
    scope = Scope(model)
    outputs = {value.name for value in model.graph.output}
    before: dict[str, int] = {}  # of each value, the values that it is computed from, as bits
    bit: dict[str, int] = {}
    found = []
    for node in model.graph.node:
        own = 0
        for name in read_by(node):
            if name not in bit:
                bit[name] = 1 << len(bit)
            own |= bit[name] | before.get(name, 0)
        for name in node.output:
            before[name] = own
        if node.op_type != "Add" or node.domain or node.output[0] in outputs:
            continue
        for x, branch in ((node.input[0], node.input[1]), (node.input[1], node.input[0])):
            is_around = x not in scope.constants and before.get(branch, 0) & bit[x]
            if is_around and scope.shape(x) is not None and scope.shape(x) == scope.shape(node.output[0]):
                found.append(ResidualBlock(node_name(node), x, node.output[0]))
                break
    return found


def without_blocks(model: onnx.ModelProto, gone: Collection[ResidualBlock]) -> onnx.ModelProto:
    """``model`` without some blocks, nor what was computed for them alone."""
    new = onnx.ModelProto()
    new.CopyFrom(model)
    instead: dict[str, str] = {}
    for block in find_blocks(model):
        if block in gone:
            instead[block.y] = instead.get(block.x, block.x)
    for node in new.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = instead.get(name, name)
    _drop_dead(new)
    return new


def _drop_dead(model: onnx.ModelProto) -> None:
    """Remove nodes that no output needs, and constants that nothing reads."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if any(name in needed for name in node.output):
            needed.update(read_by(node))
            kept.append(node)
    nodes, tensors = [], []
    for node in reversed(kept):
        nodes.append(onnx.NodeProto())
        nodes[-1].CopyFrom(node)
    for tensor in model.graph.initializer:
        if tensor.name in needed:
            tensors.append(onnx.TensorProto())
            tensors[-1].CopyFrom(tensor)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(tensors)


def check(task: GraphTask, options: Options) -> None:
    """See :class:`~edgepress.exporter.methods.kinds.GraphPruning`."""
    blocks = find_blocks(task.model)
    if not blocks:
        raise InputError("depth finds no residual block in this graph: no sum of a value with what is computed from it")
    if task.samples is None:
        raise InputError(
            "depth looks at what the graph computes without each residual block, and there are no samples; give some"
        )
    count = int(options["blocks"])
    if count and float(options["share"]):
        raise InputError("[options.depth] give blocks or share, not both")
    if count >= len(blocks):
        raise InputError(f"[options.depth] blocks = {count}, and there are {len(blocks)}; leave at least one")
    if not count and not float(options["share"]):
        raise InputError("[options.depth] needs blocks, how many go, or share, of the multiply-adds that stays")


def remove_blocks(task: GraphTask, options: Options) -> None:
    """Remove the residual blocks without which the outputs change least, each looked at by itself."""
    check(task, options)
    assert task.samples is not None  # checked
    feeds = [feed for feed, _ in zip(task.samples(), range(int(options["samples"])), strict=False)]
    blocks = find_blocks(task.model)
    expected = _outputs(task.model, feeds)
    power = float(np.square(expected).sum())
    changes = {}
    with task.progress(len(blocks), "depth", " blocks") as advance:
        for block in blocks:
            found = _outputs(without_blocks(task.model, [block]), feeds)
            changes[block] = float(np.square(found - expected).sum()) / max(power, 1e-30)
            advance(1)
    order = sorted(blocks, key=lambda block: changes[block])
    count, share = int(options["blocks"]), float(options["share"])
    whole = _multiply_adds(task.model)
    gone: list[ResidualBlock] = []
    model = task.model
    while len(gone) < count or (not count and _multiply_adds(model) > share * whole):
        if len(gone) == len(order) - 1:
            raise InputError(
                f"[options.depth] share = {share:g} of the {whole:,} multiply-adds cannot be reached: with one "
                f"residual block left {_multiply_adds(model) / whole:.3f} remain; give more"
            )
        gone.append(order[len(gone)])
        model = without_blocks(task.model, gone)
    task.made = model
    task.report["removed"] = {block.name: changes[block] for block in gone}


def _multiply_adds(model: onnx.ModelProto) -> int:
    coupling = find_coupling(model)
    return coupling.multiply_adds(coupling.all_kept())


def _outputs(model: onnx.ModelProto, feeds: Iterable[Feed]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """All outputs in float32 of all feeds, one after the other."""
    session = open_on_cpu(model.SerializeToString())
    values = [value for feed in feeds for value in session.run(None, dict(feed)) if value.dtype == np.float32]
    return np.concatenate([value.reshape(-1).astype(np.float64) for value in values])
