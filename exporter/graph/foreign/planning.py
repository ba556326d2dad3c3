"""The plan of a graph that nobody here wrote: as of any model, its codes as the targets' kernels are fastest."""

from collections.abc import Sequence
from dataclasses import replace

from edgepress.exporter.graph.foreign.roles import Foreign, natural
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.targets import Target


def plan_traced(description: Foreign, recipe: Recipe, source: OnnxFile, targets: Sequence[Target]) -> Plan:
    """The plan of a graph's weights, their codes as the targets' kernels are fastest.

    What is stored in floats keeps its own shape.
    """
    asked = replace(recipe, context_length=None)  # such a graph has no positions
    plan, is_signed = make_plan(description, asked, source.itemsize), "int8 weights" in faster_forms(targets)
    is_dynamic = recipe.activations.is_integer and not recipe.activations.is_calibrated

    def planned(tensor: PlannedTensor) -> PlannedTensor:
        if tensor.form in {"float", "half"}:
            return replace(tensor, weight=natural(tensor.weight))
        why = description.in_float.get(tensor.weight.name, "")
        if tensor.form == "folded" and why and is_dynamic:
            return replace(tensor, reason=f"{tensor.reason}: {why}")
        if tensor.form == "dynamic" and is_signed:
            return replace(tensor, form="dynamic pairs", reason=f"{tensor.reason}; int8 whose pairs fit into 16 bits")
        return tensor

    return replace(plan, tensors=tuple(planned(tensor) for tensor in plan.tensors))


def faster_forms(targets: Sequence[Target]) -> frozenset[str]:
    """What any of the targets' CPUs computes faster (:data:`edgepress.targets.FASTER`): all of them can compute it."""
    return frozenset[str]().union(*(target.faster for target in targets))
