"""A graph trained to compute what the float graph computes: distillation from its outputs and from values inside.

The student is any graph of the same outputs: the one that ships, its constants made of codes and scales that are
trained, or a smaller one. The teacher is the float graph, run in torch as well. Each sample is one feed.

Losses, each a mean over the feed (Hinton et al. 2015; Romero et al. 2015):

- ``kl``: KL(teacher ‖ student) of softmax(logits / T) over the last axis, times T²;
- ``square``: ‖student − teacher‖² / ‖teacher‖².
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.arrays.activations import BATCH_TOKENS
from edgepress.exporter.interpreter.network import Feed, Network, Tensors
from edgepress.exporter.streams.learned import split
from edgepress.exporter.streams.training import Trained, Training, summed
from edgepress.terminal.progress import Progress, duration

_KEPT = 1 << 28  # bytes of a teacher's values that are kept instead of computed again

_log = logging.getLogger("edgepress.calibration")


@dataclass(frozen=True)
class Match:
    """A value of the student that is to be one of the teacher, by what loss, and how much it weighs."""

    student: str
    teacher: str
    loss: Literal["kl", "square"] = "square"
    weight: float = 1.0
    temperature: float = 1.0

    def of(self, found: Tensor, wanted: Tensor) -> Tensor:
        """The loss of one feed."""
        if self.loss == "square":
            power = summed(wanted.square()).clamp_min(torch.finfo(wanted.dtype).tiny)
            return self.weight * summed((found - wanted).square()) / power
        a, b = ((y / self.temperature).log_softmax(-1) for y in (found, wanted))
        divergence = functional.kl_div(a, b, reduction="none", log_target=True)
        return self.weight * self.temperature**2 * summed(divergence) / (found.numel() / found.shape[-1])


@dataclass(frozen=True)
class Frame:
    """Coordinates of a weight: a change of it is D · ``root`` by its rows, (out, numbers), and D is what is trained.

    ``root`` is symmetric, (numbers, numbers); ``rows_first`` says whether the weight is (out, …) or (numbers, out).
    """

    root: Tensor
    rows_first: bool

    def out(self, learned: Tensor) -> Tensor:
        """The change of the weight, in its shape."""
        return (learned.flatten(1) @ self.root if self.rows_first else self.root @ learned).reshape(learned.shape)

    def into(self, weight: Tensor) -> Tensor:
        """What D would be for all of a weight, (out, numbers)."""
        rows = weight.flatten(1) if self.rows_first else weight.T
        found: Tensor = torch.linalg.solve(self.root, rows.T)  # (numbers, out)
        return found.T


@dataclass(frozen=True)
class Student:
    """A graph that is trained: ``trained`` are the numbers that change, ``constants()`` what they make.

    ``settle()`` clips them to their range after each step, ``snapshot()`` copies what is to be kept of them.
    """

    network: Network
    trained: Mapping[str, Trained]
    constants: Callable[[], Tensors]
    snapshot: Callable[[], dict[str, Tensor]]
    settle: Callable[[], None] = lambda: None

    @classmethod
    def of(
        cls, network: Network, names: Sequence[str], rate: float, frames: Mapping[str, Frame] | None = None
    ) -> Student:
        """All of these constants, each at ``rate`` times its mean magnitude; in its frame, where it has one."""
        starts, inside = {name: network.constants[name] for name in names}, dict(frames or {})
        learned = {
            name: (torch.zeros_like(value) if name in inside else value.clone()).requires_grad_()
            for name, value in starts.items()
        }

        def constants() -> dict[str, Tensor]:
            return {
                name: starts[name] + inside[name].out(value) if name in inside else value
                for name, value in learned.items()
            }

        def size(name: str) -> float:
            value = inside[name].into(starts[name]) if name in inside else starts[name]
            return max(float(value.abs().mean()), 1e-4)

        return cls(
            network,
            {name: Trained(value, rate * size(name)) for name, value in learned.items()},
            constants,
            lambda: {name: value.detach().clone() for name, value in constants().items()},
        )


class _Teacher:
    """The teacher's values of each feed, kept while there is room."""

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        self._network, self._names = network, names
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._bytes = 0

    def __call__(self, index: int, feed: Feed) -> dict[str, Tensor]:
        if index in self._kept:
            return self._kept[index]
        with torch.no_grad():
            found = self._network.run(self._network.tensors(feed), self._names)
        size = sum(value.nbytes for value in found.values())
        if self._bytes + size <= _KEPT:
            self._kept[index] = found
            self._bytes += size
        return found


def distil(
    student: Student,
    teacher: Network,
    feeds: Sequence[Feed],
    matches: Sequence[Match],
    *,
    name: str,
    state_file: Path,
    steps: int,
    batch: int,
    checked: Sequence[Feed] = (),
    progress: Progress,
    seed: int = 0,
) -> Training:
    """Take ``steps`` steps of ``batch`` feeds; the training, whose ``best`` is the snapshot to be kept.

    The feeds ``checked``, or where there are none one feed in sixteen (at least one), are not trained on and pick the
    best state, which is the start where no later one was better. A killed run continues from ``state_file``, which
    stays: whoever has put ``best`` where it is safe removes it. How long it will take is logged before the first step.

    Raises:
        InputError: there is only one feed, or the loss is not finite.

    """
    if checked:
        trained_on, held_out = np.arange(len(feeds)), np.arange(len(feeds), len(feeds) + len(checked))
    else:
        trained_on, held_out = split(len(feeds), seed, name, "the number of calibration samples")

    def feed_of(index: int) -> Feed:
        return feeds[index] if index < len(feeds) else checked[index - len(feeds)]

    truth = _Teacher(teacher, list(dict.fromkeys(match.teacher for match in matches)))
    wanted = list(dict.fromkeys(match.student for match in matches))
    network = student.network

    def loss(some: NDArray[np.int64]) -> Tensor:
        constants, losses = student.constants(), []
        for index in some:
            feed = feed_of(int(index))
            found = network.run(network.tensors(feed), wanted, constants=constants)
            right = truth(int(index), feed)
            losses += [match.of(found[match.student], right[match.teacher]) for match in matches]
        return torch.stack(losses).sum() / len(some)

    training = Training(
        name=name,
        trained=student.trained,
        loss=loss,
        snapshot=student.snapshot,
        held_out=held_out,
        length=BATCH_TOKENS,  # a feed is computed by itself
        state_file=state_file,
        seed=seed,
        settle=student.settle,
    )
    begun = time.monotonic()
    with torch.no_grad():
        loss(trained_on[:1])
    seconds = 3 * (time.monotonic() - begun) * min(batch, len(trained_on)) * steps  # backward takes two forward
    _log.info("%s: %d steps of %d feeds, about %s", name, steps, batch, duration(seconds))
    training.run(trained_on, steps=steps, batch=batch, progress=progress, label=name)
    return training
