"""What a graph that is distilled learns from: samples drawn and changed, and values inside that it shall have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.interpreter.network import Feed, Network
from edgepress.exporter.methods.options import MANY, Option, Options, whole_number
from edgepress.exporter.streams.augmented import Augmented, Changes
from edgepress.exporter.streams.learned import split

OPTIONS: Mapping[str, Option] = {
    "features": Option(0.0, least=0, most=MANY),
    "features_at": whole_number(4),
    "flip": Option(False),
    "zoom": Option(1.0, least=1, most=10),
    "shift": whole_number(0, 0, 1000),
    "mix": Option(False),
    "paste": Option(False),
}
"""The weight of values inside and at how many places; what is done to samples (:class:`.augmented.Changes`)."""


@dataclass(frozen=True)
class Lessons:
    """``feeds`` to learn from, ``each`` of them a step; ``checked`` pick the best state."""

    feeds: Sequence[Feed]
    checked: Sequence[Feed]
    each: int


def make_lessons(
    samples: Sequence[Feed], *, free: bool, name: str, steps: int, batch: int, options: Options, seed: int
) -> Lessons:
    """Lessons of about ``batch`` samples a step, of all ``samples`` but those that are held out to be checked.

    Samples of one shape are drawn one by one and changed as ``options`` say, in batches where the graph's are ``free``.
    Others come as they are.

    Raises:
        InputError: there is only one sample, or they are to be changed and differ in shape.

    """
    changes = Changes(
        flip=bool(options["flip"]),
        zoom=float(options["zoom"]),
        shift=int(options["shift"]),
        mix=bool(options["mix"]),
        paste=bool(options["paste"]),
    )
    single = all(array.ndim and len(array) == 1 for feed in samples for array in feed.values())
    alike = len({tuple((name, array.shape[1:]) for name, array in sorted(feed.items())) for feed in samples}) == 1
    if not alike or not (free or single):
        if changes != Changes():
            raise InputError(
                f"[options.{name}] flip, zoom, shift, mix and paste change samples of one shape, and these differ, or "
                "the graph takes a fixed number of them at once; leave these options out"
            )
        learned, held = split(len(samples), seed, name, "the number of calibration samples")
        together = min(len(array) for array in samples[0].values() if array.ndim)
        return Lessons([samples[i] for i in learned], [samples[i] for i in held], max(1, batch // together))
    pool = {key: np.concatenate([feed[key] for feed in samples]) for key in samples[0]}
    rows = len(next(iter(pool.values())))
    learned, held = split(rows, seed, name, "the number of calibration samples")
    size, each = (batch, 1) if free else (1, batch)
    drawn = Augmented(_some(pool, learned), steps * each, size, changes, seed=seed)
    return Lessons(drawn, [_some(pool, held[start : start + size]) for start in range(0, len(held), size)], each)


def _some(pool: Feed, rows: NDArray[np.int64]) -> Feed:
    return {name: values[rows] for name, values in pool.items()}


def sums_inside(teacher: Network, student: Network, feed: Feed, count: int, name: str) -> list[str]:
    """Up to ``count`` sums of the student that both networks have in one shape, evenly spread: residual streams.

    Raises:
        InputError: there are none.

    """
    names = [step.outputs[0] for step in student.steps if step.key == "Add"]
    theirs = {name for step in teacher.steps for name in step.outputs}
    both = [name for name in names if name in theirs and name not in student.outputs]
    with torch.no_grad():
        found = [network.run(network.tensors(feed), both) for network in (student, teacher)]
    same = [name for name in both if found[0][name].dim() > 2 and found[0][name].shape == found[1][name].shape]
    if not same:
        raise InputError(
            f"[options.{name}] features: no sum inside the graph has the shape that it has in the original; leave "
            "features out"
        )
    places = np.unique(np.linspace(0, len(same) - 1, min(count, len(same))).round().astype(int))
    return [same[place] for place in places]
