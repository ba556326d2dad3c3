"""A bundle's score on labelled samples, beside that of the model it was made from.

An interval is the middle 95 % of the metric over samples drawn again with replacement [Efron 1979]; that of the
difference draws the same samples for both models, so it says whether a change is more than chance.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.scoring.kinds import Metric, Predict, Predictions, Rows
from edgepress.runtime.tasks.kinds import TaskModel
from edgepress.samples.sample import Sample, Samples
from edgepress.terminal.tables import format_table
from edgepress.whole import whole_number

DRAWS = 1000
_LOW, _HIGH = 2.5, 97.5  # percent
_PIECE = 100  # draws whose counts are there at once


@dataclass(frozen=True)
class Score:
    """A metric's value and its interval; of the reference, and of what lies between, None where there is none.

    ``changed`` is the share of samples of which the two models say different things.
    """

    metric: str
    samples: int
    value: float
    interval: tuple[float, float]
    reference: float | None = None
    reference_interval: tuple[float, float] | None = None
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    changed: float | None = None
    higher_is_better: bool = True

    def to_json(self) -> dict[str, Any]:
        """Its entries."""
        return asdict(self)


def score(
    model: TaskModel,
    samples: Sequence[Sample],
    metrics: Sequence[Metric],
    *,
    reference: TaskModel | None = None,
    seed: int = 0,
) -> list[Score]:
    """Each metric of ``model`` on labelled samples, beside ``reference``'s.

    Raises:
        InputError: there are no samples, one cannot be read, its label is missing or means nothing, or the metric gives
            no finite number, as where all labels are equal.

    """
    if not samples:
        raise InputError("there are no samples to score on")
    models = [model] if reference is None else [model, reference]
    said: dict[Predict, list[Predictions]] = {}
    scores = []
    for metric in metrics:
        if metric.predict not in said:
            values = [sample.value for sample in samples]
            said[metric.predict] = [metric.predict(one, values) for one in models]
        predictions = said[metric.predict]
        rows = [metric.rows(model, one, samples) for one in predictions]
        scores.append(_scored(metric, rows, predictions, seed))
    return scores


def _scored(metric: Metric, rows: list[Rows], predictions: list[Predictions], seed: int) -> Score:
    count = len(rows[0])
    values = [float(metric.value(part, np.ones((1, count)))[0]) for part in rows]
    if wrong := [value for value in values if not np.isfinite(value)]:
        raise InputError(
            f"{metric.name} is {wrong[0]} for these {count:,} samples: their labels, or all answers, are alike, or "
            "there is nothing to be right about; give other samples"
        )
    drawn = [_drawn(metric.value, part, seed) for part in rows]  # (DRAWS,) each, of the same samples
    if len(rows) == 1:
        return Score(metric.name, count, values[0], _interval(drawn[0]), higher_is_better=metric.higher_is_better)
    changed = [not metric.same(one, other) for one, other in zip(*predictions, strict=True)]
    return Score(
        metric.name,
        count,
        values[0],
        _interval(drawn[0]),
        reference=values[1],
        reference_interval=_interval(drawn[1]),
        difference=values[0] - values[1],
        difference_interval=_interval(drawn[0] - drawn[1]),
        changed=float(np.mean(changed)),
        higher_is_better=metric.higher_is_better,
    )


def _drawn(value: Callable[[Rows, Rows], Rows], rows: Rows, seed: int) -> Rows:
    """The metric of ``DRAWS`` draws of the samples."""
    generator, count = np.random.default_rng(seed), len(rows)
    pieces = []
    for start in range(0, DRAWS, _PIECE):
        size = min(_PIECE, DRAWS - start)
        counts = generator.multinomial(count, np.full(count, 1 / count), size).astype(np.float64)
        pieces.append(value(rows, counts))
    return np.concatenate(pieces)


def _interval(values: Rows) -> tuple[float, float]:
    """The middle 95 %; draws in which a metric means nothing (all labels are equal) are left out."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return (float("nan"), float("nan"))
    low, high = np.percentile(finite, [_LOW, _HIGH])
    return float(low), float(high)


def spread_over(samples: Samples, most: int | None, seed: int = 0) -> list[Sample]:
    """``most`` of the samples, drawn from all of them, in their order; all where it is None."""
    if most is None or whole_number("samples", most) >= len(samples):
        return list(samples)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(samples))[:most])
    return [samples.number(int(index)) for index in chosen]


def format_scores(scores: Sequence[Score]) -> str:
    """Scores as a table."""
    header = ["metric", "samples", "bundle", "95 %"]
    compared = any(one.reference is not None for one in scores)
    if compared:
        header += ["reference", "95 %", "difference", "95 %", "answers changed"]
    rows = []
    for one in scores:
        row = [one.metric, f"{one.samples:,}", f"{one.value:.4f}", _between(one.interval)]
        if one.reference is not None and one.difference is not None and one.changed is not None:
            row += [
                f"{one.reference:.4f}",
                _between(one.reference_interval),
                f"{one.difference:+.4f}",
                _between(one.difference_interval),
                f"{one.changed:.2%}",
            ]
        rows.append(row)
    return format_table(header, rows, right=range(1, len(header)))


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
