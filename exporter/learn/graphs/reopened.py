"""A bundle that is no language model, planned again from its manifest: what it rounds of the float graph, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from edgepress.bundle.manifest import Manifest, find_problems, read_manifest
from edgepress.errors import InputError
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.doors.traced import Traced
from edgepress.exporter.graph.foreign.normal import read_normal, write_normal
from edgepress.exporter.graph.foreign.planning import plan_traced
from edgepress.exporter.graph.foreign.quantized import describe_static
from edgepress.exporter.graph.foreign.roles import describe
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.interpreter.network import Network
from edgepress.exporter.learn.graphs.asked import planned_recipe
from edgepress.exporter.learn.graphs.exclusions import Rounded, find_rounded
from edgepress.exporter.plan.plan import Plan, PlannedTensor
from edgepress.exporter.recipe.decisions import Decisions, decisions_from_json
from edgepress.exporter.recipe.recipe import Recipe, recipe_from_json
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.targets import find_target


@dataclass(frozen=True)
class Stored:
    """Something that a bundle rounds, as what it is stored, and in how many bytes; a value has none."""

    rounded: Rounded
    stored_as: str
    bytes: int


@dataclass(frozen=True)
class Reopened:
    """The float ``network``, what a bundle rounds of it, and constants of the bundle's that are others, in float.

    ``in_integers`` says that every value is rounded, not weights alone.
    """

    network: Network
    stored: tuple[Stored, ...]
    changed: Mapping[str, Tensor]
    in_integers: bool


def reopen(bundle: Path, traced: Traced, folder: Path) -> Reopened:
    """What ``bundle`` rounds of ``traced``, which it was made from; the float graph is written into ``folder``.

    Raises:
        InputError: the bundle is damaged, of another model, version or kind, or of float weights that are not kept.

    """
    for problem in find_problems(bundle):
        raise InputError(f"{bundle}: {problem}; export the bundle again")
    manifest = read_manifest(bundle)
    recipe, decisions = _recipe(bundle, manifest, traced)
    model, weights = read_normal(traced.file)
    description, in_integers = describe(model, traced.model_type), recipe.activations.is_calibrated
    file = write_normal(model, weights, folder / "float.onnx")
    if in_integers:
        description = describe_static(FloatModel(file), description, planned_recipe(decisions.applied(recipe)))
    source = OnnxFile(traced.file, model, weights, hashes=dict(traced.source))
    targets = tuple(map(find_target, manifest.targets))
    plan = plan_traced(description, planned_recipe(decisions.applied(recipe)), source, targets)
    regions = {
        tensor.weight.name: {part: [region.offset, region.nbytes] for part, region in tensor.regions.items()}
        for tensor in plan.tensors
    }
    if regions != {tensor["name"]: tensor["regions"] for tensor in manifest.tensors}:
        raise _another_version(bundle, manifest)
    network = Network.read(file)
    if in_integers:
        integers = onnx.load(bundle / MODEL_FILE)
        return Reopened(network, _in_integers(FloatModel(file), integers, plan, recipe), {}, in_integers)
    values = StoredWeights(bundle / DATA_FILE, plan)
    stored = {
        name: torch.from_numpy(np.ascontiguousarray(values(name)).reshape(tuple(source.tensors[name].dims)))
        for name in regions
    }
    parts = [_weight(network, tensor, stored[tensor.weight.name]) for tensor in plan.tensors if tensor.form != "float"]
    names = {part.rounded.name for part in parts}
    changed = {name: value for name, value in stored.items() if name not in names}
    return Reopened(network, tuple(parts), changed, in_integers)


def _recipe(bundle: Path, manifest: Manifest, traced: Traced) -> tuple[Recipe, Decisions]:
    """What was asked and decided, where the float weights that were rounded are the model's."""
    if manifest.task is None or manifest.task.sequences is not None:
        kind = "a language model" if manifest.task is None else "an encoder and a decoder, which are not told apart yet"
        raise InputError(f"{bundle} is of {kind}; name what it was made from, or a bundle of one graph")
    for name in sorted({*manifest.source, *traced.source}):
        if manifest.source.get(name) != traced.source.get(name):
            raise InputError(f"{bundle} was not made from this model: {name} differs; name what it was made from")
    try:
        recipe, decisions = recipe_from_json(manifest.recipe), decisions_from_json(manifest.decisions)
    except (TypeError, KeyError) as error:
        raise _another_version(bundle, manifest) from error
    if made := [*recipe.prune, *recipe.before]:
        raise InputError(
            f"{bundle} was rounded from float weights that {', '.join(made)} made, and they are not kept; blame a "
            "bundle of a recipe without"
        )
    return recipe, decisions


def _another_version(bundle: Path, manifest: Manifest) -> InputError:
    return InputError(
        f"{bundle} was made for another task, or by edgepress {manifest.versions.get('edgepress', '?')}, which laid "
        "tensors out in another way; name the task by --task, or export it again"
    )


def _in_integers(model: FloatModel, integers: onnx.ModelProto, plan: Plan, recipe: Recipe) -> tuple[Stored, ...]:
    """Values and weights that a graph in integers rounds."""
    tensors = {tensor.weight.name: tensor for tensor in plan.tensors}
    found = []
    for one in find_rounded(model, integers):
        tensor = None if one.values else tensors.get(one.name)
        value = f"{recipe.activations.type}, {recipe.activations.ranges} range"
        found.append(Stored(one, *((value, 0) if tensor is None else (tensor.stored_as, tensor.bytes_after))))
    return tuple(found)


def _weight(network: Network, tensor: PlannedTensor, value: Tensor) -> Stored:
    name = tensor.weight.name
    readers = frozenset(step.name for step in network.steps if name in (*step.inputs, *step.reads))
    return Stored(Rounded(name, readers, apply=lambda _: value), tensor.stored_as, tensor.bytes_after)
