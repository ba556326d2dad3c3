"""A pattern of load and rest by which a power log can be found again: the clocks of a meter and a device differ."""

import os
import threading
from dataclasses import dataclass
from time import perf_counter, sleep

import numpy as np

_PATTERN = (True, True, True, False, False, True, False)  # the Barker code of length 7: like itself at no other shift
_SIZE = 256


@dataclass(frozen=True)
class Pulse:
    """One stretch of load (all cores busy) or rest, in seconds of ``perf_counter``."""

    start: float
    end: float
    load: bool


def give_pulses(unit: float = 0.5, rest: float = 1.0) -> tuple[Pulse, ...]:
    """Load all cores and rest in turn, ``unit`` seconds a step of the pattern, after ``rest`` seconds of rest."""
    pulses: list[Pulse] = []
    for load in (False, *_PATTERN, False):
        length = unit if pulses else rest
        start = perf_counter()
        if load:
            _busy(start + length)
        else:
            sleep(length)
        pulses.append(Pulse(start, perf_counter(), load))
    return tuple(pulses)


def _busy(end: float) -> None:
    threads = [threading.Thread(target=_multiply, args=(end,)) for _ in range(os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _multiply(end: float) -> None:
    matrix = np.ones((_SIZE, _SIZE), np.float32)
    while perf_counter() < end:
        matrix @ matrix  # numpy lets other threads run meanwhile
