"""What a metric is, and the file that each has: ``METRIC`` in ``metrics/<metric>.py``.

A metric reads from each sample a row of numbers, such as hits and misses, and is a function of rows that are weighed:
all of them once for its value, drawn again and again for its interval.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.read import called, import_function
from edgepress.samples.sample import Sample

_METRICS = Path(__file__).parent / "metrics"
_PACKAGE = f"{__name__.rpartition('.')[0]}.{_METRICS.name}"

Rows = NDArray[np.float64]
"""What a metric counts in each sample, (samples, numbers)."""
Predictions = list[object]
Predict = Callable[[TaskModel, Sequence[object]], Predictions]


@dataclass(frozen=True)
class Metric:
    """A metric of some tasks.

    - ``predict``: what a model says of each of some values
    - ``rows``: what is counted in each sample, of predictions and samples with their labels; an InputError where a
      label is missing or means nothing
    - ``value``: the metric of rows (samples, numbers) that are weighed by counts, (draws, samples) → (draws,)
    - ``same``: whether two predictions are the same answer
    - ``labelled``: whether it reads labels; one that does not takes what is right from the values themselves
    """

    name: str
    tasks: frozenset[str]
    predict: Predict
    rows: Callable[[TaskModel, Predictions, Sequence[Sample]], Rows]
    value: Callable[[Rows, Rows], Rows]
    same: Callable[[object, object], bool]
    higher_is_better: bool = True
    labelled: bool = True


def metric_names() -> list[str]:
    """Every metric that there is a file for."""
    return sorted(module.name.replace("_", "-") for module in modules_in([str(_METRICS)]) if not module.ispkg)


def find_metric(name: str) -> Metric:
    """The metric of that name, or of a function of the user's: ``package.module:callable``.

    Raises:
        InputError: there is none.

    """
    if ":" in name:
        return of_function(name)
    known = metric_names()
    if name not in known:
        raise InputError(f"there is no metric {name!r}; there are {', '.join(known)}, or package.module:callable")
    metric: Metric = import_module(f"{_PACKAGE}.{name.replace('-', '_')}").METRIC
    return metric


def chosen_metrics(names: Sequence[str], task: str, *, labelled: bool) -> list[Metric]:
    """The metrics of these names, by default all that fit the task and the samples.

    Raises:
        InputError: there is no such metric, or it is of other tasks.

    """
    found = [find_metric(name) for name in names]
    for metric in found:
        if metric.tasks and task not in metric.tasks:
            known = " and ".join(sorted(metric.tasks))
            raise InputError(f"{metric.name} is a metric of {known}, and the bundle is for {task}; name another")
    return found or metrics_of(task, labelled=labelled)


def metrics_of(task: str, *, labelled: bool) -> list[Metric]:
    """Every metric of a task for samples that have labels, or have none.

    Raises:
        InputError: there is none.

    """
    found = [metric for metric in map(find_metric, metric_names()) if task in metric.tasks]
    fitting = [metric for metric in found if metric.labelled == labelled]
    if found and not fitting:
        raise InputError(f"the samples have no labels, which {' and '.join(one.name for one in found)} need; give some")
    if not fitting:
        raise InputError(f"there is no metric of {task}; give --metric package.module:callable")
    return fitting


def of_function(reference: str) -> Metric:
    """The metric that a function of the user's is: of answers and labels, two lists, it gives a number.

    Raises:
        InputError: it cannot be imported; when scoring, it fails or gives no number.

    """
    function = import_function(reference)
    given: list[Predictions] = []
    labels: list[object] = []

    def rows(_: TaskModel, predictions: Predictions, samples: Sequence[Sample]) -> Rows:
        given.append(predictions)
        labels[:] = [sample.label for sample in samples]
        return np.array([(len(given) - 1, index) for index in range(len(predictions))], np.float64)

    def value(rows: Rows, counts: Rows) -> Rows:
        numbers = rows.astype(np.int64)
        drawn = [np.repeat(numbers, count.astype(np.int64), axis=0) for count in counts]
        return np.array([number([given[m][i] for m, i in one], [labels[i] for _, i in one]) for one in drawn])

    def number(predictions: Predictions, truth: list[object]) -> float:
        found = called(function, reference, predictions, truth)
        try:
            return float(found)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{reference} gave {type(found).__name__}; a metric takes answers and labels, two lists, and gives a "
                "number"
            ) from error

    return Metric(reference, frozenset(), answers, rows, value, equal)


def answers(model: TaskModel, values: Sequence[object]) -> Predictions:
    """What the model's task answers, of each value."""
    return [model.answer(value) for value in values]


def equal(one: object, other: object) -> bool:
    """Whether two answers are the same."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return one == other


def share(rows: Rows, counts: Rows) -> Rows:
    """The first number's sum as a share of the second's."""
    sums = counts @ rows  # (draws, 2)
    return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0))


def class_of(sample: Sample, labels: Sequence[str]) -> int:
    """The number of the class that a sample is labelled with: its name, or its number.

    Raises:
        InputError: it has no label, or one that is none of the model's.

    """
    label = sample.label
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    number = int(label) if isinstance(label, str) and label.isdecimal() else label
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(labels):
        return number
    known = f"{', '.join(labels[:5])}{' …' if len(labels) > 5 else ''}"
    raise InputError(f"{sample.where} has the label {label!r}; the model has {len(labels):,}: {known}")


def text_of(sample: Sample) -> str:
    """The text that a sample is labelled with.

    Raises:
        InputError: it has none.

    """
    if not isinstance(sample.label, str) or not sample.label.strip():
        raise InputError(f"{sample.where} has the label {sample.label!r}; give what is said as text")
    return sample.label


def number_of(sample: Sample) -> float:
    """The number that a sample is labelled with.

    Raises:
        InputError: it has none.

    """
    try:
        number = float(str(sample.label))
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise InputError(f"{sample.where} has the label {sample.label!r}; give a number")
    return number
