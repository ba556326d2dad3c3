"""Everything that is decided of a traced model before a weight is read; see :mod:`.prepare` for language models."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from edgepress.exporter.bundle.forms import form_of
from edgepress.exporter.bundle.parities.traced import parity_traced
from edgepress.exporter.bundle.stream import Made
from edgepress.exporter.decide.checks import check_recipe
from edgepress.exporter.decide.opening import ask_recipe, find_targets, refuse_unheeded
from edgepress.exporter.decide.shrinking import shrink_traced
from edgepress.exporter.doors.traced import Feed, Samples, Traced
from edgepress.exporter.graph.builder import CONTRIB
from edgepress.exporter.graph.foreign.floats import keep_in_float, nodes_asked
from edgepress.exporter.graph.foreign.normal import read_normal, write_normal
from edgepress.exporter.graph.foreign.planned import build_planned
from edgepress.exporter.graph.foreign.planning import plan_traced
from edgepress.exporter.graph.foreign.quantized import describe_static, place, planned_bits, widths_of
from edgepress.exporter.graph.foreign.roles import Foreign, describe
from edgepress.exporter.graph.qdq import Calibrator, quantize
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.learn.graphs.asked import check_graph_methods, looks, planned_recipe, suited
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.exporter.recipe.recipe import KEPT_BITS, Override, Recipe, Storage
from edgepress.exporter.source.onnx_file import OnnxFile
from edgepress.targets import Soc, Target, faster_forms
from edgepress.tasks.task import Task
from edgepress.terminal.progress import Progress, silent

_PIECE = 1 << 22  # elements of a weight that are looked at at a time
RECIPE = "int8"
"""The recipe of a model that is no language model when none is named."""


@dataclass(frozen=True, kw_only=True)
class PreparedTraced:
    """A traced model, the recipe, and what will be done to each weight.

    ``model`` is its graph as it is planned, ``weights`` where its bytes lie. ``float_file`` is that graph on disk where
    the whole graph becomes integers or methods look at what it computes; ``quantized`` is what it became, ``made`` what
    was made of the weights, ``learned`` what methods say that they did, and ``before`` the graph that they began with.
    ``steps`` is what the steps of ``prune`` came to, from the original on, ``steps_not_run`` those that a plan
    leaves out. ``decisions`` is what a budget chose, and ``budget`` what it measured.
    """

    traced: Traced
    model: onnx.ModelProto
    weights: Weights
    description: Foreign
    source: OnnxFile
    recipe: Recipe
    plan: Plan
    targets: tuple[Target, ...]
    socs: tuple[Soc, ...] = ()
    samples: Samples | None = None
    float_file: Path | None = None
    quantized: onnx.ModelProto | None = None
    made: Made | None = None
    steps: tuple[Mapping[str, object], ...] = ()
    steps_not_run: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    before: tuple[onnx.ModelProto, OnnxFile] | None = None
    decisions: Decisions = field(default_factory=Decisions)
    budget: dict[str, object] | None = None

    @property
    def decided(self) -> Recipe:
        """The recipe with what was decided put in."""
        return self.decisions.applied(self.recipe)

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
        """What the door passed over or chose, what is left out, and what steps and methods have to say."""
        left_out = (f"{name} is left out: {why}" for name, why in self.decisions.left_out.items())
        return (*self.traced.notes, *left_out, *self.learned)

    def graph(self) -> onnx.ModelProto:
        """The graph of what is planned; InputError when a target's CPU lacks a kernel for it."""
        if self.quantized is not None:
            return self.quantized
        graph = build_planned(
            self.model,
            self.weights,
            self.description,
            self.plan,
            data_file=DATA_FILE,
            version=__version__,
            faster=faster_forms(self.targets),
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
        model, source = self.before or (self.model, self.source)
        return parity_traced(
            bundle,
            self.traced,
            model,
            source,
            None if self.quantized is not None else self.plan,
            learned=None if self.before is None else (self.model, self.source),
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
        recipe = replace(self.decided, overrides=(*self.decided.overrides, *kept))
        return replace(self, plan=plan_traced(self.description, planned_recipe(recipe), self.source, self.targets))

    def learn(self, progress: Progress) -> Self:
        """Do what methods learn on the samples; find the ranges of every value and write the graph in integers.

        Each where the recipe asks that.
        """
        if self.float_file is None or self.samples is None:
            return self
        if looks(self.recipe):
            return self._learn(self.float_file, list(self.samples()), progress)
        if not self.recipe.activations.is_calibrated:
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
            floats=self.decisions.kept_layers,
        )
        made = place(quantized, FloatModel(self.float_file), self.plan, DATA_FILE)
        return replace(self, quantized=quantized, made=made)

    def _learn(self, file: Path, feeds: list[Feed], progress: Progress) -> Self:
        from edgepress.exporter.learn.graphs.made import MadeRows
        from edgepress.exporter.learn.graphs.run import learn_graph
        from edgepress.exporter.streams.shipping_task import Coded

        activations, is_static = self.recipe.activations, self.recipe.activations.is_calibrated
        widths = widths_of(activations, self.recipe.weights.bits) if is_static else None
        bits, answers = planned_bits(self.plan), self.task.answers
        coded = {
            tensor.weight.name: Coded(tensor.scheme, tensor.weight.parts[0].transposed, tensor.weight.shape[0])
            for tensor in self.plan.tensors
            if tensor.scheme is not None
        }
        is_logits = answers is not None and answers.classes is not None and answers.classes.scores == "softmax"
        found = learn_graph(
            file,
            feeds,
            self.decided,
            folder=file.with_name("learned"),
            widths=widths,
            bits=bits,
            floats=self.decisions.kept_layers,
            coded={} if is_static else coded,
            loss="kl" if is_logits else "square",
            progress=progress,
        )
        if widths is not None:
            floats = self.decisions.kept_layers
            quantized = quantize(found.file, found.ranges, widths, found.rounded, bits=bits, floats=floats)
            made = place(quantized, FloatModel(found.prepared), self.plan, DATA_FILE)
            return replace(self, quantized=quantized, made=made, learned=found.notes)
        model, weights = read_normal(found.file)
        source = OnnxFile(self.traced.file, model, weights, unbounded=self.unbounded, hashes=self.traced.source)
        return replace(
            self,
            model=model,
            weights=weights,
            source=source,
            made=MadeRows(found.codes, found.reports),
            learned=found.notes,
            before=(self.model, self.source),
        )

    @property
    def unbounded(self) -> frozenset[str]:
        """Weights that may hold infinity, as masks do."""
        return frozenset(weight.name for weight in self.description.listed if weight.kind == "constant")


def decide_traced(
    traced: Traced,
    *,
    target: str | Sequence[str],
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
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
    targets, chips = find_targets(target, socs)
    asked = ask_recipe(RECIPE if recipe is None else recipe, context_length, ())
    is_static = not all(one.form in (None, "ort-format") for one in targets)
    if not is_static:
        refuse_of_language_models(str(traced.file), context_length=context_length, adapters=(), slots=())
    refuse_unheeded(asked, f"{traced.file} is no language model", is_static=is_static)
    found, left_out = suited(asked)
    in_integers = found.activations.is_calibrated
    check_graph_methods(found, "channels" if in_integers else "blocks")
    check_recipe(planned_recipe(found), graphs=True)
    _refuse_others(traced.file, found)
    if (methods := looks(found)) and samples is None:
        raise InputError(
            f"recipe {found.name} has {', '.join(methods)}, which must see real inputs, and there are none; give "
            "some by --calibration"
        )
    pruned_in = folder / "pruning" if stages is None or not found.prune else stages()
    shrunk = shrink_traced(traced, found, samples, stages=pruned_in, train=train, progress=progress)
    traced = shrunk.traced
    model, weights = read_normal(traced.file)
    description, file, decisions = describe(model, traced.model_type), None, Decisions()
    if methods or found.budget is not None:
        from edgepress.exporter.interpreter.network import check_operators

        check_operators(model)
        file = write_normal(model, weights, folder / "float.onnx")
    if in_integers:
        if samples is None:
            raise InputError(
                f"recipe {found.name} finds the ranges of every value on real inputs, and there are none; give some by "
                "--calibration"
            )
        file = write_normal(model, weights, folder / "float.onnx")
        graph = FloatModel(file)
        decisions = keep_in_float(graph, description, planned_recipe(found), nodes_asked(graph, found))
        description = describe_static(graph, description, planned_recipe(decisions.applied(found)))
    unbounded = frozenset(weight.name for weight in description.listed if weight.kind == "constant")
    source = OnnxFile(traced.file, model, weights, unbounded=unbounded, hashes=traced.source)
    plan = plan_traced(description, planned_recipe(decisions.applied(found)), source, targets)
    prepared = PreparedTraced(
        traced=traced,
        model=model,
        weights=weights,
        description=description,
        source=source,
        recipe=found,
        plan=plan,
        targets=targets,
        socs=chips,
        samples=samples,
        float_file=file,
        steps=shrunk.steps,
        steps_not_run=shrunk.skipped,
        decisions=decisions,
    )
    if found.budget is not None:
        prepared = _with_nodes(prepared, progress) if in_integers else _with_budget(prepared, progress)
    prepared = replace(prepared, decisions=replace(prepared.decisions, left_out=left_out))
    for one in targets:
        if (form := form_of(one, decoder=False)) is not None:
            form.refuse(prepared, one, chips)
    if not in_integers:
        prepared.graph()
    return prepared


def _with_budget(prepared: PreparedTraced, progress: Progress) -> PreparedTraced:
    """Measure and solve the recipe's budget; methods see the samples that it is not measured on."""
    from edgepress.exporter.learn.graphs.budget import Budgeted, SeenSamples, meet_graph_budget

    recipe, samples, file = prepared.recipe, prepared.samples, prepared.float_file
    if file is None:
        raise ValueError("a budget is measured on the float graph")
    job = Budgeted(file, prepared.task, prepared.description, planned_recipe(recipe), recipe, prepared.source.itemsize)
    chosen, summary = meet_graph_budget(job, samples, progress)
    decisions = Decisions(overrides=chosen.overrides)
    plan = plan_traced(
        prepared.description, planned_recipe(decisions.applied(recipe)), prepared.source, prepared.targets
    )
    seen = None if samples is None else SeenSamples(samples)
    return replace(prepared, plan=plan, decisions=decisions, budget=summary, samples=seen)


def _with_nodes(prepared: PreparedTraced, progress: Progress) -> PreparedTraced:
    """As :func:`_with_budget` where the whole graph is in integers: which of its nodes stay in float."""
    from edgepress.exporter.learn.graphs.budget import Budgeted, SeenSamples, keep_nodes

    recipe, samples, file, plan = prepared.recipe, prepared.samples, prepared.float_file, prepared.plan
    if file is None or samples is None:
        raise ValueError("integers have their ranges from samples of the float graph")
    description, task, itemsize = prepared.description, prepared.task, prepared.source.itemsize
    bits, decided = planned_bits(plan), planned_recipe(prepared.decided)
    job = Budgeted(file, task, description, decided, recipe, itemsize, bits)
    widths = widths_of(recipe.activations, recipe.weights.bits)
    reasons, summary = keep_nodes(job, recipe.activations, widths, samples, progress)
    graph, plain = FloatModel(file), describe(prepared.model, prepared.traced.model_type)
    decisions = keep_in_float(graph, plain, planned_recipe(recipe), {**reasons, **nodes_asked(graph, recipe)})
    chosen = planned_recipe(decisions.applied(recipe))
    static = describe_static(graph, plain, chosen)
    return replace(
        prepared,
        description=static,
        plan=plan_traced(static, chosen, prepared.source, prepared.targets),
        decisions=decisions,
        budget=summary,
        samples=SeenSamples(samples),
    )


def largest_of(source: OnnxFile, weight: Weight) -> float:
    """The largest magnitude of a weight, read a piece at a time."""
    (part,) = weight.parts
    step = max(1, _PIECE // prod(weight.shape[1:]))
    pieces = (source.part_rows(part, at, min(at + step, weight.shape[0])) for at in range(0, weight.shape[0], step))
    return max(float(np.abs(piece).max()) for piece in pieces)


def _refuse_others(path: Path, recipe: Recipe) -> None:
    """Refuse what is not done to such models as yet."""
    if recipe.activations.type == "float16":
        raise InputError(
            f"recipe {recipe.name} has float16 activations, and {path} is no language model: on ARM CPUs these take "
            f"fewer instructions in 8 bits than in float16, in which some take more than in float32; take {RECIPE}, "
            "int8-dynamic or int8-static, or a recipe of your own without that"
        )


def refuse_of_language_models(
    model: str, *, context_length: int | None, adapters: Sequence[str | Path], slots: Sequence[str | Path]
) -> None:
    """Raise InputError when something is asked for that only language models have."""
    for what, asked in (("--context", context_length), ("--adapter", adapters), ("--adapter-slots", slots)):
        if asked:
            raise InputError(f"{model} is no language model, for which {what} has no effect; leave it out")
