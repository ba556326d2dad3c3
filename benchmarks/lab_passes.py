"""The pass ``speed`` as device_lab.py changes it: slowed down on purpose, and without its circumstances.

A module of its own, because the process that measures imports the function by its name.
"""

from time import perf_counter
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.model import Floats, Model
from edgepress.runtime.profile import rounds
from edgepress.runtime.profile.circumstances import Moment
from edgepress.runtime.profile.passes import speed

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


def without_circumstances(arguments: dict[str, Any], arrays: Arrays) -> Answer:
    """Nothing of the system is read around a turn."""
    rounds.read_moment = lambda: Moment(seconds=perf_counter())
    return speed.measure(arguments, arrays)
