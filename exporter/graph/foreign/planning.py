"""The plan of a graph that nobody here wrote: as of any model, its codes as the targets' kernels are fastest."""

from collections.abc import Sequence
from dataclasses import replace

from edgepress.exporter.graph.foreign.roles import Foreign, natural
from edgepress.exporter.plan.making import in_pairs, make_plan
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.targets import Target, faster_forms


def plan_traced(description: Foreign, recipe: Recipe, source: OnnxFile, targets: Sequence[Target]) -> Plan:
    """The plan of a graph's weights, their codes as the targets' kernels are fastest.

    What is stored in floats keeps its own shape.
    """
    asked = replace(recipe, context_length=None)  # such a graph has no positions
    plan = make_plan(description, asked, source.itemsize)
    is_dynamic = recipe.activations.is_integer and not recipe.activations.is_calibrated

    def planned(tensor: PlannedTensor) -> PlannedTensor:
        if tensor.form in {"float", "half"}:
            return replace(tensor, weight=natural(tensor.weight))
        why = description.in_float.get(tensor.weight.name, "")
        if tensor.form == "folded" and why and is_dynamic:
            return replace(tensor, reason=f"{tensor.reason}: {why}")
        return tensor

    return in_pairs(replace(plan, tensors=tuple(planned(tensor) for tensor in plan.tensors)), faster_forms(targets))
