"""The graph that CPUs run: built from a plan, and held against the kernels that onnxruntime has."""

from __future__ import annotations

import onnx

from edgepress import __version__
from edgepress.errors import InputError
from edgepress.exporter.bundle import files as bundle
from edgepress.exporter.graph.decoder import build_decoder
from edgepress.exporter.plan.planned import Planned
from edgepress.targets import Operator, Target, has_kernel, missing_kernels


def make_graph(planned: Planned, cpu: Target) -> onnx.ModelProto:
    """The graph that ``cpu`` and its like run; its weights are regions of the data file.

    Raises:
        InputError: onnxruntime's CPU provider lacks a kernel for a node.

    """
    graph = build_decoder(
        planned.decoder,
        planned.plan,
        data_file=bundle.DATA_FILE,
        version=__version__,
        has_half=lambda operator: has_kernel(cpu, operator, "float16"),
    )
    check_legal(graph, cpu)
    return graph


def check_legal(graph: onnx.ModelProto, target: Target) -> None:
    """Raise InputError when ``target``'s provider lacks a kernel for a node of ``graph``."""
    versions = {opset.domain: opset.version for opset in graph.opset_import}
    used = {Operator(node.domain, node.op_type, versions[node.domain]) for node in graph.graph.node}
    missing = missing_kernels(target, used)
    if missing:
        names = ", ".join(f"{operator.domain or 'ai.onnx'}.{operator.op} v{operator.version}" for operator in missing)
        raise InputError(f"{target.name}: {target.provider} has no kernel for {names}; use another target or recipe")
