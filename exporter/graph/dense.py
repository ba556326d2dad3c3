"""Dense layers + Plan → the graph that CPUs run: products in the form that the plan chose, functions as they were."""

import onnx

from edgepress.exporter.graph.builder import FLOAT, GraphBuilder
from edgepress.exporter.graph.linears import Projection, write_linear
from edgepress.exporter.model.dense import Dense
from edgepress.exporter.model.description import Weight
from edgepress.exporter.plan.plan import Plan


def build_dense(dense: Dense, plan: Plan, *, data_file: str, version: str) -> onnx.ModelProto:
    """The graph of ``dense``, its weights in the regions of ``data_file`` that ``plan`` gives them."""
    g = GraphBuilder(data_file)
    for edge in dense.inputs:
        g.input(edge.name, FLOAT, edge.shape)

    def vector(weight: Weight) -> str:
        return g.external(weight.name, FLOAT, weight.shape, plan.of(weight).regions["data"])

    for step in dense.steps:
        bias = "" if step.bias is None else vector(step.bias)
        if step.weight is not None:
            tensor = plan.of(step.weight)
            # every product is of a value as it comes: nothing says that its rows are alike in size
            write_linear(g, Projection(step.weight, tensor, bias, plan.accuracy_level, normed=False), step.x, step.y)
        elif bias:
            g.node("Add", [step.x, bias], step.y)
        else:
            g.node(step.op, [step.x], step.y, **(step.attributes or {}))
    for edge in dense.outputs:
        g.output(edge.name, FLOAT, edge.shape)
    return g.model("dense layers", version)
