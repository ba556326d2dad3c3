"""How well a bundle does its task on labelled samples, and how often it answers as the model that it was made from.

The same on every try, since the same samples are drawn; `edgepress eval` shows how far that is from all there could be.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from edgepress.errors import InputError
from edgepress.runtime.gate.alike import GRAPH, SEQUENCES, only_figures_of
from edgepress.runtime.gate.figures import Better, Figure, Gauge, Option, Request
from edgepress.runtime.loading import load_task
from edgepress.runtime.scoring.kinds import chosen_metrics
from edgepress.runtime.scoring.score import score, spread_over
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.read import read_samples

_FIGURES = {
    "value": "of the metric",
    "lost": "by how much that is worse than the reference's",
    "changed_share": "share of samples of which the two say different things",
}
_COMPARED = ("lost", "changed_share")


def _take(requests: list[Request]) -> list[list[Figure]]:
    only_figures_of(requests, "score", dict.fromkeys(_FIGURES, (GRAPH, SEQUENCES)))
    return [_figures(request) for request in requests]


def _figures(request: Request) -> list[Figure]:
    options = request.options
    compares = any(name in request.names for name in _COMPARED)
    if compares and options["reference"] is None:
        raise InputError(f"{' and '.join(_COMPARED)} need a model to compare with; give reference in [score]")
    request.told(f"score: {request.bundle} on {options['data']}")
    model = load_task(request.bundle)
    samples = spread_over(read_samples(options["data"], model.feeder.takes), options["samples"])
    asked = [] if options["metric"] is None else [options["metric"]]
    metrics = chosen_metrics(asked, model.task.name, labelled=samples[0].label is not None)
    with ExitStack() as stack:
        reference = None
        if compares:
            opens = _bundle if request.task_reference_of is None else request.task_reference_of
            reference = stack.enter_context(opens(model, options["reference"]))
        found = score(model, samples, metrics[:1], reference=reference)[0]
    # kernels differ in the last bits from one processor to the next; a share of a rule is for that, not an interval
    better: Better = "more" if found.higher_is_better else "less"
    figures = [Figure("value", found.metric, better, (found.value,), exact=True)]
    if found.difference is not None and found.changed is not None:
        lost = -found.difference if found.higher_is_better else found.difference
        figures.append(Figure("lost", found.metric, "less", (lost,), exact=True))
        figures.append(Figure("changed_share", "", "less", (found.changed,), exact=True))
    return figures


def _bundle(_model: TaskModel, reference: str) -> AbstractContextManager[TaskModel]:
    """Another bundle, which is all that is opened where nothing else can be."""
    return nullcontext(load_task(reference))


GAUGE = Gauge(
    "score",
    _FIGURES,
    {
        "data": Option(Path, required=True),
        "metric": Option(str),
        "reference": Option(str),
        "samples": Option(int),
    },
    _take,
)
