"""Passes as device_lab.py changes them: slowed down on purpose, without circumstances, or ahead of other processes.

A module of its own, because the process that measures imports the function by its name.
"""

import os
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.generation.penalties import Floats
from edgepress.runtime.model import Model
from edgepress.runtime.profile import rounds
from edgepress.runtime.profile.circumstances import Moment
from edgepress.runtime.profile.passes import roofline, speed
from edgepress.runtime.profile.workloads.workload import Part, Workload

SLOWER = 0.05


def slowed(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Each decoded token takes ``SLOWER`` longer, spent in a loop: a sleep of so few microseconds takes many more."""
    plain = Model.decode

    def decode(model: Model, token: int) -> Floats:
        start = perf_counter()
        logits = plain(model, token)
        end = start + (1 + SLOWER) * (perf_counter() - start)
        while perf_counter() < end:
            pass
        return logits

    Model.decode = decode  # type: ignore[method-assign]  # in a process that ends with this round
    return speed.measure(arguments, arrays)


class Slowed(Workload):
    """A workload whose steps take ``share`` longer, spent in a loop."""

    def __init__(self, inside: Workload, share: float) -> None:
        self._inside, self._share, self.sizes = inside, share, inside.sizes

    @property
    def ran_on(self) -> str:
        """What computes."""
        return self._inside.ran_on

    def begin(self, size: int) -> list[float]:
        """As inside."""
        return self._inside.begin(size)

    def steps(self, count: int) -> list[float]:
        """Each with a loop after it."""
        seconds = []
        for _ in range(count):
            (took,) = self._inside.steps(1)
            start = perf_counter()
            while self._share and perf_counter() < start + self._share * took:
                pass
            seconds.append(took + perf_counter() - start)
        return seconds

    def units(self, part: Part) -> tuple[str, int]:
        """As inside."""
        return self._inside.units(part)


def speed_first(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """``speed``, ahead of all other processes."""
    go_first()
    return speed.measure(arguments, arrays)


def roofline_first(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """``roofline``, ahead of all other processes."""
    go_first()
    return roofline.measure(arguments, arrays)


def slowed_first(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """:func:`slowed`, ahead of all other processes."""
    go_first()
    return slowed(arguments, arrays)


def bare_first(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """:func:`without_circumstances`, ahead of all other processes."""
    go_first()
    return without_circumstances(arguments, arrays)


def go_first() -> None:
    """Let the scheduler prefer this process, and the session that it leads, to others; root may do that."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    with suppress(FileNotFoundError):  # a kernel without groups of sessions
        Path("/proc/self/autogroup").write_text("-20", encoding="ascii")


def without_circumstances(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Nothing of the system is read around a turn."""
    rounds.read_moment = lambda: Moment(seconds=perf_counter())
    return speed.measure(arguments, arrays)
