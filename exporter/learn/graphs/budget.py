"""What a recipe's ``[budget]`` makes of a graph of any model: measure → solve → measure.

Of the samples every third is kept apart: prices and choices are measured on these, and nothing is learned from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import torch

from edgepress.errors import InputError
from edgepress.exporter.doors.samples import GivenSamples
from edgepress.exporter.doors.traced import Feed, Samples
from edgepress.exporter.graph.qdq import Widths, calibrate, quantize
from edgepress.exporter.graph.qdq.graph import FloatModel
from edgepress.exporter.interpreter.network import Network, Tensors, arrays
from edgepress.exporter.learn.budget.schemes import (
    ChosenSchemes,
    Prices,
    choose_schemes,
    prices_to_json,
    refuse_impossible,
)
from edgepress.exporter.learn.budget.sensitivity import TensorGroup, with_choice
from edgepress.exporter.learn.graphs.exclusions import (
    PRICED_ON,
    find_rounded,
    measure_rounded,
    node_work,
    nodes_of,
    order,
    shortest,
)
from edgepress.exporter.learn.graphs.loss import Arrays, Run, TaskScore, find_distance, lost
from edgepress.exporter.learn.graphs.prices import Rounder, WeightPrices, graph_groups, measure_prices
from edgepress.exporter.learn.graphs.run import learn_graph
from edgepress.exporter.methods.kinds import LinearMethod, start_method
from edgepress.exporter.model.subject import Description
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import CHOSEN_BY_BUDGET, Activations, Budget, Recipe
from edgepress.exporter.streams.shipping_task import Coded
from edgepress.samples.sample import Sample
from edgepress.sessions import open_on_cpu
from edgepress.tasks.task import Task
from edgepress.terminal.progress import Progress

_APART = 3  # one sample in so many is measured on
_OF_LANGUAGE_MODELS = ("memory_mb", "ms_per_token")
_OF_METRICS = ("metric_loss", "changed")


@dataclass(frozen=True)
class SeenSamples:
    """The samples that methods see: those that a budget is not measured on; all where there are too few for both."""

    every: Samples

    def __call__(self) -> Iterator[Feed]:
        """The inputs."""
        few = len(list(islice(self.every(), _APART))) < _APART
        return (feed for index, feed in enumerate(self.every()) if few or index % _APART != _APART - 1)


@dataclass(frozen=True)
class _Scored:
    """What is measured on: inputs, and samples with what a metric needs of them, none where they are arrays."""

    feeds: list[Feed]
    samples: list[Sample]
    folder: Path


@dataclass(frozen=True)
class Budgeted:
    """A graph whose budget is to be met: its float ``file``, what is planned of it, and by which recipe.

    ``recipe`` is the one that plans go by, ``asked`` the user's, whose methods may be those of graphs. ``bits`` are
    those of weights in integers.
    """

    file: Path
    task: Task
    subject: Description
    recipe: Recipe
    asked: Recipe
    itemsize: Callable[[str], float]
    bits: Mapping[str, int] = field(default_factory=dict)

    @property
    def budget(self) -> Budget:
        """Its budget."""
        if self.recipe.budget is None:
            raise ValueError(f"recipe {self.recipe.name} has no budget")
        return self.recipe.budget


def check_graph_budget(job: Budgeted, groups: Sequence[TensorGroup]) -> None:
    """Refuse what no sample is needed for to say that it cannot be done.

    Raises:
        InputError: the budget has what language models alone have, or candidates that cannot be stored or are too many
            bytes.

    """
    budget = job.budget
    if (
        budget.group != "tensor"
        or budget.measure != "every"
        or any(getattr(budget, key) is not None for key in _OF_LANGUAGE_MODELS)
    ):
        raise InputError(
            f"[budget] {', '.join(_OF_LANGUAGE_MODELS)}, group and measure are for language models; of another model "
            "take like, size_mb, kl, error, metric_loss or changed"
        )
    for number in range(max((len(group.candidates) for group in groups), default=0)):
        chosen = [min(number, len(group.candidates) - 1) for group in groups]
        try:
            make_plan(job.subject, with_choice(job.recipe, groups, chosen), job.itemsize)
        except InputError as error:
            labels = sorted({group.candidates[option].label for group, option in zip(groups, chosen, strict=True)})
            raise InputError(f"[budget] candidates: {', '.join(labels)} cannot be chosen: {error}") from error
    refuse_impossible(job.subject, job.recipe, itemsize=job.itemsize, groups=groups)


def meet_graph_budget(
    job: Budgeted, samples: Samples | None, progress: Progress
) -> tuple[ChosenSchemes, dict[str, object]]:
    """Choose how each weight is stored; returns that with the manifest's entry about the choice.

    Raises:
        InputError: the samples do not suffice, or nothing among the candidates meets the budget.

    """
    budget = job.budget
    groups = graph_groups(job.subject, job.recipe, budget)
    check_graph_budget(job, groups)
    if samples is None:
        raise InputError(
            f"recipe {job.recipe.name} has [budget] {budget.limit}, which is measured on real inputs, and there are "
            "none; give some by --calibration"
        )
    bench = _Bench(job, groups, samples, progress)
    prices = bench.prices()
    found = choose_schemes(
        job.subject,
        job.recipe,
        itemsize=job.itemsize,
        prices=Prices(groups, prices.loss, unit="KL" if bench.distance.kind == "kl" else "error"),
        measure=bench.lost,
        measured_in=bench.unit,
        begin=sum(max(row) for row in prices.loss) / 4 if _is_of_metric(budget) else None,
    )
    return found, {**bench.describe(found), **_prices_to_json(groups, prices)}


class _Bench:
    """The float graph, and what choices are measured on."""

    def __init__(self, job: Budgeted, groups: Sequence[TensorGroup], samples: Samples, progress: Progress) -> None:
        self._job, self._groups, self._progress = job, groups, progress
        self.network, self.seen = Network.read(job.file), list(SeenSamples(samples)())
        self._scored = _apart(samples, job.budget)
        budget, run = job.budget, run_of(self.network)
        self.distance = find_distance(
            job.task, "kl" if budget.kl is not None else "error" if budget.error is not None else None
        )
        self._score = _task_score(job, self._scored, run)
        self._truth = [run(feed) for feed in self._scored.feeds]
        self._rounder = Rounder(self.network, job.recipe)

    @property
    def unit(self) -> str:
        """What a limit in loss is in."""
        if not _is_of_metric(self._job.budget) or self._score is None:
            return self.distance.unit
        return "of the answers" if self._job.budget.changed is not None else f"of {self._score.metric.name}"

    def prices(self) -> WeightPrices:
        """What each candidate of each weight costs by itself."""
        return measure_prices(
            self.network,
            self._groups,
            self._rounder,
            self.distance,
            seen=self.seen,
            scored=self._scored.feeds,
            truth=self._truth,
            progress=self._progress,
        )

    def priced(self, most: int) -> tuple[list[Feed], list[Arrays]]:
        """At most so many of the inputs that are measured on, spread over them, and the float model's outputs."""
        count = min(most, len(self._truth))
        chosen = [index * len(self._truth) // count for index in range(count)]
        return [self._scored.feeds[index] for index in chosen], [self._truth[index] for index in chosen]

    def lost(self, chosen: Sequence[int]) -> float:
        """What is lost with a choice, in what the limit is in where that is one in loss."""
        return self.lost_by(self._made(chosen))

    def lost_by(self, run: Run) -> float:
        """The same of any graph."""
        if self._score is None or not _is_of_metric(self._job.budget):
            return self._far(run)
        return self._score.changed(run) if self._job.budget.changed is not None else lost(self._score(run))

    def describe(self, found: ChosenSchemes) -> dict[str, object]:
        """The manifest's entry of a choice: what was asked, used and measured."""
        schemes = [scheme for group in self._groups for one in group.candidates for scheme in one.schemes if scheme]
        return {
            "limit": found.limit,
            "used": f"{found.used:.6f} {found.unit}",
            "predicted": float(f"{found.predicted:.6g}"),
            **self.measured(self._made(found.chosen)),
            "rounded_by": sorted({start_method(scheme.method, self._job.recipe).name for scheme in schemes}),
        }

    def measured(self, run: Run) -> dict[str, object]:
        """The part of it that says how far a graph is from the float model."""
        return {
            "measured_in": self.distance.unit,
            "measured": float(f"{self._far(run):.6g}"),
            **({} if self._score is None or not self._score.is_labelled else {"score": self._score(run).to_json()}),
            "samples": len(self._scored.feeds),
        }

    def _far(self, run: Run) -> float:
        return self.distance([run(feed) for feed in self._scored.feeds], self._truth)

    def _made(self, chosen: Sequence[int]) -> Run:
        """The graph as it ships with a choice, without repairs: what a budget is about is the loss by rounding."""
        job = self._job
        plan = make_plan(job.subject, with_choice(job.recipe, self._groups, chosen), job.itemsize)
        coded = [(tensor.weight, tensor.scheme) for tensor in plan.tensors if tensor.scheme is not None]
        methods = [start_method(scheme.method, job.recipe) for _, scheme in coded]
        if not job.asked.before and not any(isinstance(method, LinearMethod) for method in methods):
            rounded = {weight.name: self._rounder.round(weight, scheme, None) for weight, scheme in coded}
            return run_of(self.network, rounded)
        recipe = replace(with_choice(job.asked, self._groups, chosen), after=())
        recipe = recipe.with_methods(lambda method: start_method(method, job.recipe).name)
        with TemporaryDirectory(prefix="edgepress-choice-") as folder:
            made = learn_graph(
                job.file,
                self.seen,
                recipe,
                folder=Path(folder),
                coded={w.name: Coded(scheme, w.parts[0].transposed, w.shape[0]) for w, scheme in coded},
                progress=self._progress,
            )
            return run_of(Network.read(made.file))


def _is_of_metric(budget: Budget) -> bool:
    return any(getattr(budget, key) is not None for key in _OF_METRICS)


def _apart(samples: Samples, budget: Budget) -> _Scored:
    """Every third sample, or all where there are fewer than 3; as inputs as many as the budget says, spread over them.

    Raises:
        InputError: there are none.

    """
    feeds = list(samples())
    if not feeds:
        raise InputError("there are no samples to measure the budget on; name --calibration data")
    places = list(range(_APART - 1, len(feeds), _APART)) or list(range(len(feeds)))
    count = min(len(places), budget.samples)
    chosen = [places[index * len(places) // count] for index in range(count)]
    given = samples if isinstance(samples, GivenSamples) else None
    made_of = [] if given is None else list(given.made_of())
    known = [sample for index in places if made_of and (sample := made_of[index]) is not None]
    folder = Path() if given is None else given.folder
    return _Scored([feeds[index] for index in chosen], known if len(known) == len(places) else [], folder)


def _task_score(job: Budgeted, scored: _Scored, truth: Run) -> TaskScore | None:
    """The metric that the budget names or is in; None where it is in neither.

    Raises:
        InputError: the task has no such metric, or the samples are arrays.

    """
    budget = job.budget
    if not _is_of_metric(budget) and budget.metric is None:
        return None
    if not scored.samples:
        asked = budget.limit if budget.metric is None else f"metric = {budget.metric!r}"
        raise InputError(
            f"[budget] {asked} is measured on samples of "
            f"the task {job.task.name}, and --calibration gives arrays; give images, sounds or texts"
        )
    found = TaskScore(job.task, scored.folder, scored.samples, budget.metric, truth)
    if budget.changed is None and not found.is_labelled:
        raise InputError(
            f"the samples have no labels, which {found.metric.name} needs; give some, or take [budget] changed"
        )
    return found


def run_of(network: Network, constants: Tensors | None = None) -> Run:
    """What computes a graph in torch."""

    def run(feed: Arrays) -> Arrays:
        with torch.no_grad():
            return arrays(network.run(network.tensors(feed), constants=constants))

    return run


def _prices_to_json(groups: Sequence[TensorGroup], prices: WeightPrices) -> dict[str, object]:
    """Every price: the loss by candidate, and multiply-adds with their share of those of all groups."""
    work = prices.multiply_adds
    every = max(1, sum(work.values()))
    return {
        "prices": prices_to_json(groups, prices.loss),
        "multiply_adds": {name: [count, float(f"{count / every:.4g}")] for name, count in work.items()},
    }


def keep_nodes(
    job: Budgeted, ranges: Activations, widths: Widths, samples: Samples | None, progress: Progress
) -> tuple[dict[str, str], dict[str, object]]:
    """Choose the nodes of a graph in integers that stay in float: each with its reason, and the manifest's entry.

    Raises:
        InputError: the samples do not suffice, or the budget is in what is for blocks of codes.

    """
    budget = job.budget
    if budget.most_lost is None or budget.candidates or budget.group != "tensor" or budget.measure != "every":
        raise InputError(
            f"recipe {job.recipe.name} computes in integers, of which a [budget] chooses the nodes that stay in float: "
            "take kl, error, metric_loss or changed, without candidates, group and measure"
        )
    if samples is None:
        raise InputError(f"[budget] {budget.limit} is measured on real inputs, and there are none; give --calibration")
    bench = _Bench(job, [], samples, progress)
    model = FloatModel(job.file)
    found = calibrate(job.file, bench.seen, ranges)
    always = job.recipe.activations.kept_layers

    def written(floats: Collection[str]) -> onnx.ModelProto:
        return quantize(job.file, found, widths, bits=job.bits, floats=[*always, *floats])

    rounded = find_rounded(model, written(()))
    feeds, truth = bench.priced(PRICED_ON)
    loss = measure_rounded(bench.network, rounded, bench.distance, feeds, truth, progress=progress)
    work = node_work(model, bench.network, feeds[0])
    ordered, tried = order(rounded, loss, work), dict[int, float]()

    def lost_with(count: int) -> float:
        if count not in tried:
            tried[count] = bench.lost_by(_session(written(nodes_of(ordered[:count]))))
        return tried[count]

    limit = budget.most_lost
    count = shortest(len(ordered), lambda count: lost_with(count) <= limit)
    chosen = ordered[:count]
    every, unit = max(1, sum(work.values())), "KL" if bench.distance.kind == "kl" else "error"
    reasons = {
        node: f"{CHOSEN_BY_BUDGET} {budget.limit}: {one.name} in integers costs {unit} {loss[one.name]:.2g} by itself; "
        f"{work.get(node, 0) / every:.2%} of the multiply-adds"
        for one in reversed(chosen)
        for node in sorted(one.nodes)
    }
    floats = nodes_of(chosen)
    share = sum(work.get(node, 0) for node in floats) / every
    left = sum(loss[one.name] for one in rounded if not one.nodes <= floats)
    return reasons, {
        "limit": budget.limit,
        "used": f"{lost_with(count):.6f} {bench.unit}",
        "predicted": float(f"{left:.6g}"),
        **bench.measured(_session(written(floats))),
        "rounded_by": [ranges.ranges],
        "prices": {name: float(f"{price:.4g}") for name, price in loss.items()},
        "in_float": {"nodes": sorted(floats), "multiply_adds": float(f"{share:.4g}")},
        "tried": [[number, float(f"{value:.6g}")] for number, value in sorted(tried.items())],
    }


def _session(model: onnx.ModelProto) -> Run:
    session, names = open_on_cpu(model.SerializeToString()), [value.name for value in model.graph.output]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))
