"""The graphs that CPUs run: built from a plan, and checked against the kernels that onnxruntime has."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import onnx

from edgepress import __version__
from edgepress.bundle.graphs import GraphEntry
from edgepress.errors import InputError
from edgepress.exporter.bundle.files import DATA_FILE, HALF_FILE, MODEL_FILE
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.models.decoder import build_decoder
from edgepress.exporter.graph.models.mtp import build_mtp
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.plan.making import in_float16
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.plan.planned import Planned
from edgepress.onnx_graph.walk import all_nodes, normal_domain, opsets_of
from edgepress.targets import Operator, Target, has_kernel, missing_kernels


@dataclass(frozen=True)
class Graph:
    """One graph of a bundle: its file, what it computes, and what it requires of a processor.

    ``casts`` says that others run it by casting: no product with weights is in float16.
    """

    file: str
    plan: Plan
    requires: tuple[str, ...] = ()
    casts: bool = False

    @property
    def entry(self) -> GraphEntry:
        """What the manifest says of it."""
        return GraphEntry(self.file, self.requires, self.plan.states, self.casts)


def planned_graphs(planned: Planned) -> tuple[Graph, ...]:
    """The graphs of a bundle over its one data file, in the order of preference; the last one runs everywhere.

    There is none in float16 where nothing of the model can compute in it.
    """
    everywhere, activations = Graph(MODEL_FILE, planned.plan), planned.recipe.activations
    if not activations.float16_graph:
        return (everywhere,)
    half = in_float16(planned.plan, planned.decoder, activations.kept_layers, whole=False)
    if half.states == planned.plan.states:
        return (everywhere,)
    return (Graph(HALF_FILE, half, ("fp16",), casts=True), everywhere)


def named_graph(graphs: Sequence[Graph], targets: Sequence[Target]) -> str:
    """The file that ``genai_config.json`` names: the preferred one, where all targets have what it requires.

    onnxruntime-genai takes caches of one type only.
    """
    preferred = graphs[0]
    one_type = len({state.type for state in preferred.plan.states if state.in_place}) <= 1
    return preferred.file if one_type and all(target.float16 for target in targets) else graphs[-1].file


def make_graphs(planned: Planned, cpu: Target) -> dict[str, onnx.ModelProto]:
    """The graphs that ``cpu`` and its like run, by their files; their weights are regions of the data file.

    Raises:
        InputError: onnxruntime's CPU provider lacks a kernel for a node.

    """
    return {graph.file: make_graph(planned.decoder, graph.plan, cpu) for graph in planned_graphs(planned)}


def graphs_to_compare(planned: Planned, cpu: Target) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The graph that computes what is planned in float32, and the one in float16 with nothing kept from it."""
    decoder, plain = planned.decoder, float32_plan(planned)
    half = in_float16(plain, decoder, whole=planned.recipe.activations.type == "float16")
    return make_graph(decoder, plain, cpu), make_graph(decoder, half, cpu)


def float32_plan(planned: Planned) -> Plan:
    """The plan of a graph in float32 that keeps all tokens, without adapters: which there will be is not known."""
    return replace(planned.plan, adapter_slots=None, half_layers=(), states=planned.decoder.states())


def make_graph(decoder: Decoder, plan: Plan, cpu: Target) -> onnx.ModelProto:
    """One of :func:`make_graphs`."""
    graph = build_decoder(
        decoder,
        plan,
        data_file=DATA_FILE,
        version=__version__,
        has_half=lambda operator: has_kernel(cpu, operator, "float16"),
    )
    check_legal(graph, cpu)
    return graph


def make_mtp_graph(planned: Planned, cpu: Target) -> onnx.ModelProto | None:
    """The graph of what predicts a token further, which ``cpu`` and its like run; None where nothing does.

    Raises:
        InputError: onnxruntime's CPU provider lacks a kernel for a node.

    """
    mtp = planned.decoder.mtp
    if mtp is None:
        return None
    graph = build_mtp(
        mtp,
        planned.plan,
        data_file=DATA_FILE,
        version=__version__,
        has_half=lambda operator: has_kernel(cpu, operator, "float16"),
    )
    check_legal(graph, cpu)
    return graph


def check_legal(graph: onnx.ModelProto, target: Target, domains: Collection[str] = ("", CONTRIB)) -> None:
    """Raise InputError when ``target``'s provider lacks a kernel for a node of ``graph`` in one of the ``domains``."""
    versions = opsets_of(graph)
    nodes = [(normal_domain(node.domain), node.op_type) for node in all_nodes(graph.graph.node)]
    used = {Operator(domain, op, versions[domain]) for domain, op in nodes if domain in domains}
    missing = missing_kernels(target, used)
    if missing:
        names = ", ".join(f"{operator.domain or 'ai.onnx'}.{operator.op} v{operator.version}" for operator in missing)
        raise InputError(f"{target.name}: {target.provider} has no kernel for {names}; use another target or recipe")
