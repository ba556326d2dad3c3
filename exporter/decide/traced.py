"""Everything that is decided of a traced model before a weight is read; see :mod:`.prepare` for language models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from glob import escape
from math import prod
from pathlib import Path
from typing import Self

import numpy as np
import onnx

from edgepress import __version__
from edgepress.errors import InputError
from edgepress.exporter.bundle.cpu_graph import check_legal
from edgepress.exporter.bundle.files import DATA_FILE, MODEL_FILE
from edgepress.exporter.bundle.forms import find_form
from edgepress.exporter.bundle.parities.traced import parity_traced
from edgepress.exporter.bundle.stream import Made
from edgepress.exporter.decide.checks import check_recipe
from edgepress.exporter.decide.opening import ask_recipe, find_targets
from edgepress.exporter.decide.shrinking import shrink_traced
from edgepress.exporter.doors.traced import Samples, Traced
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.foreign.normal import read_normal, write_normal
from edgepress.exporter.graph.foreign.planned import build_planned
from edgepress.exporter.graph.foreign.quantized import describe_static, place, planned_bits, widths_of
from edgepress.exporter.graph.foreign.roles import Foreign, describe, natural
from edgepress.exporter.graph.qdq import Calibrator, quantize
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.description import Weight
from edgepress.exporter.plan.plan import Plan, make_plan
from edgepress.exporter.recipe.recipe import KEPT_BITS, Override, Recipe, Storage
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.progress import Progress, silent
from edgepress.targets import Target
from edgepress.tasks.task import Task

_PIECE = 1 << 22  # elements of a weight that are looked at at a time
RECIPE = "int8"
"""The recipe of a model that is no language model when none is named."""


@dataclass(frozen=True, kw_only=True)
class PreparedTraced:
    """A traced model, the recipe, and what will be done to each weight.

    ``model`` is its graph as it is planned, ``weights`` where its bytes lie. ``float_file`` is that graph on disk where
    the whole graph becomes integers, ``quantized`` what it became, and ``made`` what was made of the weights. ``steps``
    is what the steps of ``prune`` came to, from the original on, ``steps_not_run`` those that a plan leaves out.
    """

    traced: Traced
    model: onnx.ModelProto
    weights: Weights
    description: Foreign
    source: OnnxFile
    recipe: Recipe
    plan: Plan
    targets: tuple[Target, ...]
    samples: Samples | None = None
    float_file: Path | None = None
    quantized: onnx.ModelProto | None = None
    made: Made | None = None
    steps: tuple[Mapping[str, object], ...] = ()
    steps_not_run: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """What was opened."""
        return self.traced.file

    @property
    def task(self) -> Task:
        """What the bundle is for."""
        return self.traced.task

    @property
    def notes(self) -> tuple[str, ...]:
        """What the door passed over or chose."""
        return self.traced.notes

    def graph(self) -> onnx.ModelProto:
        """The graph of what is planned; InputError when a target's CPU lacks a kernel for it."""
        if self.quantized is not None:
            return self.quantized
        graph = build_planned(
            self.model, self.weights, self.description, self.plan, data_file=DATA_FILE, version=__version__
        )
        for target in self.targets:
            if target.is_cpu:
                check_legal(graph, target, (CONTRIB,))  # the others are the model's own, which onnxruntime opened
        return graph

    def write_files(self, bundle: Path) -> None:
        """Write the graph, and the texts that the bundle takes along."""
        (bundle / MODEL_FILE).write_bytes(self.graph().SerializeToString(deterministic=True))
        for name, path in self.traced.texts.items():
            shutil.copyfile(path, bundle / name)

    def score(self, bundle: Path, progress: Progress) -> dict[str, object]:
        """How near the bundle's outputs are to the model's; see :mod:`edgepress.exporter.bundle.parities.traced`."""
        samples = iter(()) if self.samples is None else self.samples()
        return parity_traced(
            bundle,
            self.traced,
            self.model,
            self.source,
            None if self.quantized is not None else self.plan,
            samples=samples,
            progress=progress,
        )

    def within_float16(self) -> Self:
        """The same with weights that float16 cannot hold kept in float32: where it is to store some, these are read."""
        top = float(np.finfo(np.float16).max)
        sizes = {
            tensor.weight.name: largest_of(self.source, tensor.weight)
            for tensor in self.plan.tensors
            if tensor.form == "half"
        }
        lost = {name: size for name, size in sizes.items() if size > top}
        if not lost:
            return self
        kept = tuple(
            Override(escape(name), Storage(bits=KEPT_BITS), f"it holds {size:g}, and float16 ends at {top:g}")
            for name, size in lost.items()
        )
        recipe = replace(self.recipe, overrides=(*self.recipe.overrides, *kept))
        return replace(self, plan=plan_traced(self.description, recipe, self.source))

    def learn(self, progress: Progress) -> Self:
        """Find the ranges of every value on the samples and write the graph in integers, where the recipe asks that."""
        if self.float_file is None or self.samples is None:
            return self
        calibrator = Calibrator(self.float_file)
        with progress(1, "calibrating", " pass") as advance:
            for feed in self.samples():
                calibrator.run(feed)
            advance(1)
        activations, bits = self.recipe.activations, planned_bits(self.plan)
        quantized = quantize(
            self.float_file,
            calibrator.ranges(activations),
            widths_of(activations, self.recipe.weights.bits),
            bits=bits,
        )
        made = place(quantized, FloatModel(self.float_file), self.plan, DATA_FILE)
        return replace(self, quantized=quantized, made=made)


def decide_traced(
    traced: Traced,
    *,
    target: str | Sequence[str],
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    samples: Samples | None = None,
    folder: Path,
    stages: Callable[[], Path] | None = None,
    train: bool = False,
    progress: Progress = silent,
) -> PreparedTraced:
    """Read the graph of ``traced``, prune it and plan its export; what has to lie in a file meanwhile is in ``folder``.

    What pruning leaves lies in ``stages()`` or there. Steps that only train are left out, but with ``train``.

    Raises:
        InputError: the graph cannot be read, or the recipe or target asks for what such models do not have.

    """
    targets, _ = find_targets(target, socs)
    found = ask_recipe(RECIPE if recipe is None else recipe, None, ())
    check_recipe(found, graphs=True)
    _refuse_what_looks(traced.file, found)
    pruned_in = folder / "pruning" if stages is None or not found.prune else stages()
    shrunk = shrink_traced(traced, found, samples, stages=pruned_in, train=train, progress=progress)
    traced = shrunk.traced
    model, weights = read_normal(traced.file)
    description, file = describe(model, traced.model_type), None
    if found.activations.is_calibrated:
        if samples is None:
            raise InputError(
                f"recipe {found.name} finds the ranges of every value on real inputs, and there are none; give some by "
                "--calibration"
            )
        file = write_normal(model, weights, folder / "float.onnx")
        description = describe_static(FloatModel(file), description)
    unbounded = frozenset(weight.name for weight in description.listed if weight.kind == "constant")
    source = OnnxFile(traced.file, model, weights, unbounded=unbounded, hashes=traced.source)
    plan = plan_traced(description, found, source)
    prepared = PreparedTraced(
        traced=traced,
        model=model,
        weights=weights,
        description=description,
        source=source,
        recipe=found,
        plan=plan,
        targets=targets,
        samples=samples,
        float_file=file,
        steps=shrunk.steps,
        steps_not_run=shrunk.skipped,
    )
    for one in targets:
        if one.form is not None:
            find_form(one.form).refuse(prepared, one, ())
    if file is None:
        prepared.graph()
    return prepared


def largest_of(source: OnnxFile, weight: Weight) -> float:
    """The largest magnitude of a weight, read a piece at a time."""
    (part,) = weight.parts
    step = max(1, _PIECE // prod(weight.shape[1:]))
    pieces = (source.part_rows(part, at, min(at + step, weight.shape[0])) for at in range(0, weight.shape[0], step))
    return max(float(np.abs(piece).max()) for piece in pieces)


def plan_traced(description: Foreign, recipe: Recipe, source: OnnxFile) -> Plan:
    """The plan of a graph's weights; what is stored in floats keeps its own shape."""
    plan = make_plan(description, recipe, source.itemsize)
    tensors = tuple(
        replace(tensor, weight=natural(tensor.weight)) if tensor.form in {"float", "half"} else tensor
        for tensor in plan.tensors
    )
    return replace(plan, tensors=tensors)


def _refuse_what_looks(path: Path, recipe: Recipe) -> None:
    """Refuse recipes that need activations."""
    storages = (recipe.weights, *(entry.storage for entry in recipe.overrides))
    methods = [storage.method for storage in storages if not isinstance(load_method(storage.method), Method)]
    steps = [*recipe.before, *recipe.after, *methods, *(["[budget]"] if recipe.budget else [])]
    if recipe.activations.type == "float16":
        steps.append(f"{recipe.activations.type} activations")
    if steps:
        raise InputError(
            f"recipe {recipe.name} has {', '.join(dict.fromkeys(steps))}, and {path} is no language model, whose "
            f'weights are rounded as they are: take {RECIPE}, or a recipe of your own with method = "rtn" and nothing '
            "else"
        )


def refuse_of_language_models(
    model: str, *, context_length: int | None, adapters: Sequence[str | Path], slots: Sequence[str | Path]
) -> None:
    """Raise InputError when something is asked for that only language models have."""
    for what, asked in (("--context", context_length), ("--adapter", adapters), ("--adapter-slots", slots)):
        if asked:
            raise InputError(f"{model} is no language model, for which {what} has no effect; leave it out")
