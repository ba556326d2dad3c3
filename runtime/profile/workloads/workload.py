"""A workload: an open bundle that does what it is for, turn after turn; and what a kind of bundle has to say for that.

A turn begins with a part whose size can be chosen (a prompt, a source, a run of some examples); where the model answers
token by token, steps follow.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from edgepress.cores import usable_cores
from edgepress.runtime.measures.counting.operators import Kernel
from edgepress.tasks.task import Task

if TYPE_CHECKING:
    from edgepress.runtime.profile.settings import Settings


@dataclass(frozen=True)
class Part:
    """A part of a turn.

    - ``what``: its name, such as ``prefill``
    - ``quantity``: what its times are called, such as ``ttft_seconds``
    - ``done``: the phase of memory after it, such as ``prefilled``
    - ``axis``: what its size counts: the ``length`` of a text or sound, or ``rows``, examples
    """

    what: str
    quantity: str
    done: str
    axis: str


DECODE = Part("decode", "step_seconds", "decoded", "length")
"""A token after the other."""


class Workload(ABC):
    """An open bundle: what a turn begins with, in each of ``sizes`` (ascending), and steps after it."""

    first: ClassVar[Part]
    then: ClassVar[Part | None] = None
    """What follows; None of a model that has answered after the first part."""
    sizes: tuple[int, ...]

    @property
    def repeated(self) -> Part:
        """What there is most of: steps, else the first part."""
        return self.then or self.first

    @property
    @abstractmethod
    def ran_on(self) -> str:
        """What computes."""

    @abstractmethod
    def begin(self, size: int) -> list[float]:
        """Begin a turn anew with ``size``; return the seconds of each time that its first part was done."""

    @abstractmethod
    def steps(self, count: int) -> list[float]:
        """Do ``count`` more of what is :attr:`repeated`; return the seconds of each.

        A text that is full begins anew, untimed, with the size that the turn began with.
        """

    @abstractmethod
    def units(self, part: Part) -> tuple[str, int]:
        """What energy is told of, and how many of it one part of the largest size does: tokens, sources, examples."""

    def held(self) -> dict[str, Any]:
        """What is noted beside a reading of memory: how much is held."""
        return {}

    @property
    def run_seconds(self) -> float | None:
        """Seconds spent inside onnxruntime until now; None where nobody counts them."""
        return None


@dataclass(frozen=True)
class Opening:
    """How a pass opens the bundle, JSON values, since it is sent to the device; ``work`` is what its kind is told."""

    bundle: str
    threads: int | None
    cores: tuple[int, ...] | None
    context: int
    graph: str | None
    prepared: bool
    work: dict[str, Any] = field(default_factory=dict)

    def keep_to_cores(self) -> None:
        """Let this process run on the cores that were chosen, as far as the system can do that."""
        if self.cores and hasattr(os, "sched_setaffinity"):
            allowed = os.sched_getaffinity(0)
            os.sched_setaffinity(0, set(self.cores) & allowed or allowed)

    @property
    def cores_used(self) -> int:
        """How many cores are kept busy."""
        return self.threads or usable_cores()


@dataclass(frozen=True)
class Timed:
    """Nodes of a graph in some runs of one part of a turn, by onnxruntime's profiler; ``size`` is that of the part."""

    part: Part
    size: int
    runs: list[list[Kernel]]


@dataclass(frozen=True)
class Kind:
    """A kind of bundle.

    - ``suits``: whether it is that of a bundle with such a task; None is no task
    - ``settings``: names of those :class:`~edgepress.runtime.profile.settings.Settings` that not all kinds take
    - ``settle``: these, checked, with all that was left open decided; InputError where the bundle cannot do it
    - ``open``: the bundle, open, and the seconds which that took
    - ``operators``: its nodes timed, with a folder to work in
    """

    name: str
    suits: Callable[[Task | None], bool]
    settings: tuple[str, ...]
    settle: Callable[[Path, "Settings"], "Settings"]
    open: Callable[[Opening], tuple[Workload, float]]
    operators: Callable[[Opening, Path], Iterator[Timed]]
