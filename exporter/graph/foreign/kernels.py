"""Forms that onnxruntime's CPU kernels are faster with, which a target may ask for; what is computed stays.

::

    Add ─ LayerNormalization       ─►  Sum ─ LayerNormalization
    x ─┬ DynamicQuantizeMatMul (W) ─►  x ─ DynamicQuantizeLinear ─┬ MatMulIntegerToFloat (W)
       └ DynamicQuantizeMatMul (V)                                └ MatMulIntegerToFloat (V)
"""

from collections import Counter

import onnx
from onnx import helper

from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.editing import set_nodes
from edgepress.onnx_graph.walk import graphs, operand


def keep_norms_apart(model: onnx.ModelProto) -> int:
    """Write what goes into a layer norm as a Sum; return how many those are.

    onnxruntime makes one node of Add and LayerNormalization, whose kernel computes a number at a time (1.31; 1.2 ms of
    512 × 384 numbers with AVX-512), where the two apart compute a vector at a time (0.2 ms). It does not look for Sum.
    """
    changes = 0
    for graph in graphs(model.graph):
        normed = {node.input[0] for node in graph.node if node.op_type == "LayerNormalization"}
        for node in graph.node:
            if node.op_type == "Add" and node.output[0] in normed:
                node.op_type = "Sum"
                changes += 1
    return changes


def round_once(model: onnx.ModelProto) -> int:
    """Round what several integer products read in a node of its own; return how many products those are."""
    changes = 0
    for graph in reversed(list(graphs(model.graph))):  # inner ones first, as nodes are copied with them
        products = [node for node in graph.node if node.op_type == "DynamicQuantizeMatMul"]
        shared = {name for name, count in Counter(node.input[0] for node in products).items() if count > 1}
        if not shared:
            continue
        lines: list[onnx.NodeProto] = []
        done: set[str] = set()
        for node in graph.node:
            x = node.input[0] if node.input else ""
            if node.op_type != "DynamicQuantizeMatMul" or x not in shared:
                lines.append(node)
                continue
            rounded = [f"{x}.codes{mark}" for mark in ("", ".scale", ".zero_point")]
            if x not in done:
                done.add(x)
                lines.append(helper.make_node("DynamicQuantizeLinear", [x], rounded, name=rounded[0]))
            weight, scale, zero_point, bias = (operand(node, index) for index in (1, 2, 3, 4))
            inputs = [rounded[0], weight, rounded[1], scale, rounded[2], zero_point, bias]
            while not inputs[-1]:
                inputs.pop()
            y = list(node.output)
            lines.append(helper.make_node("MatMulIntegerToFloat", inputs, y, name=node.name, domain=CONTRIB))
            changes += 1
        set_nodes(graph, lines)
    return changes
