"""Everything that is decided of a model of dense layers before a weight is read; see :mod:`.prepare` for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgepress import __version__
from edgepress.errors import InputError
from edgepress.exporter.bundle.cpu_graph import check_legal
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.bundle.parity_dense import parity_dense
from edgepress.exporter.decide.checks import check_recipe
from edgepress.exporter.decide.opening import ask_recipe, find_targets
from edgepress.exporter.graph.dense import build_dense
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.dense import Dense, read_dense
from edgepress.exporter.plan.plan import Plan, make_plan
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.progress import Progress
from edgepress.targets import Target

RECIPE = "int8"
"""The recipe of a model of dense layers when none is named."""


@dataclass(frozen=True, kw_only=True)
class PreparedDense:
    """A model of dense layers, the recipe, and what will be done to each weight."""

    source: OnnxFile
    description: Dense
    recipe: Recipe
    plan: Plan
    targets: tuple[Target, ...]

    def graph(self) -> onnx.ModelProto:
        """The graph of what is planned; InputError when a target's CPU lacks a kernel for it."""
        graph = build_dense(self.description, self.plan, data_file=DATA_FILE, version=__version__)
        for target in self.targets:
            check_legal(graph, target)
        return graph

    def write_files(self, bundle: Path) -> None:
        """Write the graph; there is nothing else."""
        (bundle / MODEL_FILE).write_bytes(self.graph().SerializeToString(deterministic=True))

    def score(self, bundle: Path, progress: Progress) -> dict[str, object]:
        """How near the bundle's outputs are to the model's; see :mod:`edgepress.exporter.bundle.parity_dense`."""
        return parity_dense(bundle, self.source, self.plan, progress)


def is_onnx(model: str | Path) -> bool:
    """Whether a model is named that is a file of ONNX, by its name."""
    return Path(model).suffix.lower() == ".onnx" and Path(model).is_file()


def decide_dense(
    path: Path,
    *,
    target: str | Sequence[str],
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    calibration: Sequence[str | Path] = (),
    revision: str | None = None,
    adapters: Sequence[str | Path] = (),
    adapter_slots: Sequence[str | Path] = (),
) -> PreparedDense:
    """Read the graph of ``path`` and plan its export.

    Raises:
        InputError: it has anything but dense layers, or the recipe or target asks for what such models do not have.

    """
    without = {
        "--context": context_length,
        "--calibration": calibration,
        "--revision": revision,
        "--adapter": adapters,
        "--adapter-slots": adapter_slots,
    }
    for what, asked in without.items():
        if asked:
            raise InputError(f"{path} is an ONNX file, for which {what} has no effect; leave it out")
    targets, _ = find_targets(target, socs)
    for one in targets:
        if not one.is_cpu or one.form is not None:
            raise InputError(f"{one.name} takes language models only as yet; for {path} take arm64-cpu or x86-cpu")
    found = ask_recipe(RECIPE if recipe is None else recipe, None, ())
    check_recipe(found)
    _refuse_what_looks(path, found)
    source = OnnxFile(path)
    description = read_dense(path, source.model, source.tensors)
    plan = make_plan(description, found, source.itemsize)
    prepared = PreparedDense(source=source, description=description, recipe=found, plan=plan, targets=targets)
    prepared.graph()
    return prepared


def _refuse_what_looks(path: Path, recipe: Recipe) -> None:
    """Refuse recipes that need activations: there is no text to run through such a model."""
    storages = (recipe.weights, *(entry.storage for entry in recipe.overrides))
    methods = [storage.method for storage in storages if not isinstance(load_method(storage.method), Method)]
    steps = [*recipe.prune, *recipe.before, *recipe.after, *methods, *(["[budget]"] if recipe.budget else [])]
    if recipe.activations.type != "float32":
        steps.append(f"{recipe.activations.type} activations")
    if steps:
        raise InputError(
            f"recipe {recipe.name} has {', '.join(dict.fromkeys(steps))}, and {path} is an ONNX file, whose weights "
            f'are rounded as they are: take {RECIPE}, or a recipe of your own with method = "rtn" and nothing else'
        )
