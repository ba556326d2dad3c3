"""Energy of several stretches of time, by source and rail: what a measurement keeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from edgepress.errors import InputError
from edgepress.runtime.machine.metering.accounting import Quantity, energy_between, total
from edgepress.runtime.machine.metering.recorder import Recorded


@dataclass(frozen=True)
class RailEnergy:
    """Joules of one rail in each stretch; ``counted`` says whether the source's total has it."""

    rail: str
    measures: str
    counted: bool
    joules: tuple[Quantity, ...]


@dataclass(frozen=True)
class SourceEnergy:
    """Joules of one source in each stretch: of the rails that count, together (None where none does), and of each."""

    name: str
    measures: str
    total: tuple[Quantity, ...] | None
    rails: tuple[RailEnergy, ...]


def source_energy(
    name: str, measures: str, recorded: Recorded, stretches: Sequence[tuple[float, float]]
) -> SourceEnergy:
    """Energy that the source of this name saw in ``stretches``, each from a moment of ``perf_counter`` to another.

    Raises:
        InputError: the meter's readings cannot be used, or do not reach from the beginning of a stretch to its end.

    """
    if recorded.trouble is not None:
        raise InputError(recorded.trouble)
    by_rail = [
        (trace.rail, tuple(energy_between(trace, start, end) for start, end in stretches)) for trace in recorded.traces
    ]
    totals = [total([(rail, quantities[index]) for rail, quantities in by_rail]) for index in range(len(stretches))]
    known = tuple(quantity for quantity in totals if quantity is not None)
    rails = tuple(RailEnergy(rail.name, rail.measures, rail.total, quantities) for rail, quantities in by_rail)
    return SourceEnergy(name, measures, known or None, rails)
