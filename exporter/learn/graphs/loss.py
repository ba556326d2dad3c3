"""How much worse than the float model a graph is: by its outputs, or by the metric of its task.

What computes a graph is a function from a feed to its outputs (``Run``), in torch or by onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.scoring.kinds import Metric, chosen_metrics, find_metric, metric_names
from edgepress.runtime.scoring.score import Score, score
from edgepress.runtime.tasks.kinds import TaskModel, open_task
from edgepress.samples.sample import Sample
from edgepress.tasks.task import Task

Arrays = Mapping[str, NDArray[np.generic]]
Run = Callable[[Arrays], Arrays]
"""The outputs of a graph for a feed."""


@dataclass(frozen=True)
class Distance:
    """How far outputs are from those of the float model.

    - ``kl``: of logits whose softmax is the answer, KL(float ‖ found) in nats a row, the mean over all rows;
    - ``error``: Σ (y − ŷ)² / Σ y² over all samples, the mean over ``outputs``.
    """

    kind: Literal["kl", "error"]
    outputs: tuple[str, ...]

    @property
    def unit(self) -> str:
        """What it is measured in."""
        return "nats a sample" if self.kind == "kl" else "of the outputs' squares"

    def __call__(self, found: Sequence[Arrays], truth: Sequence[Arrays]) -> float:
        """The distance of outputs ``found`` of some feeds from what is right; infinite where one is not finite."""
        parts = _divergence if self.kind == "kl" else _squares
        distances = []
        for name in self.outputs:
            lost, of = np.sum([parts(a[name], b[name]) for a, b in zip(found, truth, strict=True)], axis=0)
            distances.append(lost / max(of, np.finfo(np.float64).tiny))
        distance = float(np.mean(distances))
        return distance if np.isfinite(distance) else float("inf")


def find_distance(task: Task, kind: Literal["kl", "error"] | None = None) -> Distance:
    """The distance of ``kind``, or the one that suits a task: of a classifier by softmax its divergence.

    Raises:
        InputError: it is ``kl``, and the task's answers are not the softmax of logits; or there is no float output.

    """
    classes = None if task.answers is None else task.answers.classes
    is_softmax = classes is not None and classes.scores == "softmax"
    if kind == "kl" and not is_softmax:
        raise InputError(
            f"[budget] kl is of models whose answers are the softmax of logits, and this one is for {task.name}; take "
            "error, or metric_loss with labelled samples"
        )
    if classes is not None and is_softmax and kind != "error":
        return Distance("kl", (classes.output,))
    floats = tuple(edge.name for edge in task.outputs if np.dtype(edge.type).kind == "f")
    if not floats:
        raise InputError("the model has no output of floats, by which what rounding loses could be measured")
    return Distance("error", floats)


def _divergence(found: NDArray[np.generic], truth: NDArray[np.generic]) -> tuple[float, float]:
    """Σ KL of rows, and how many there are."""
    p, q = _log_softmax(truth), _log_softmax(found)
    return float((np.exp(p) * (p - q)).sum()), float(p.size / p.shape[-1])


def _log_softmax(logits: NDArray[np.generic]) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values = values - values.max(axis=-1, keepdims=True)
    return np.asarray(values - np.log(np.exp(values).sum(axis=-1, keepdims=True)))


def _squares(found: NDArray[np.generic], truth: NDArray[np.generic]) -> tuple[float, float]:
    """Σ (y − ŷ)² and Σ y²."""
    right = truth.astype(np.float64)
    return float(np.square(found.astype(np.float64) - right).sum()), float(np.square(right).sum())


class TaskScore:
    """A metric of a task on samples, beside the float model's; ``folder`` has the files that the task names.

    Without a ``name`` it is the first that the task has, which says when two answers are the same.

    Raises:
        InputError: the metric is not the task's, or there is none.

    """

    def __init__(self, task: Task, folder: Path, samples: Sequence[Sample], name: str | None, truth: Run) -> None:
        self._task, self._folder, self._samples = task, folder, samples
        names = [name] if name is not None else [one for one in metric_names() if task.name in find_metric(one).tasks]
        self.metric: Metric = chosen_metrics(names[:1], task.name, labelled=True)[0]
        self._truth = self._open(truth)
        self._said = self.metric.predict(self._truth, [sample.value for sample in samples])

    @property
    def is_labelled(self) -> bool:
        """Whether the samples say what the metric needs to know of them."""
        return not self.metric.labelled or all(sample.label is not None for sample in self._samples)

    def _open(self, run: Run) -> TaskModel:
        return open_task(self._task, run, self._folder)

    def __call__(self, run: Run) -> Score:
        """The metric of what ``run`` computes, the float model's, and the share of answers that changed."""
        (found,) = score(self._open(run), self._samples, [self.metric], reference=self._truth)
        return found

    def changed(self, run: Run) -> float:
        """The share of samples of which ``run`` says something else than the float model."""
        said = self.metric.predict(self._open(run), [sample.value for sample in self._samples])
        same = [self.metric.same(one, other) for one, other in zip(said, self._said, strict=True)]
        return 1.0 - sum(same) / len(same)


def lost(found: Score) -> float:
    """How much worse a metric is than the float model's; below 0 where it is better."""
    difference = found.difference or 0.0
    return 0.0 - difference if found.higher_is_better else difference
