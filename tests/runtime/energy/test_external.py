"""A meter with a clock of its own: its file read, and its clock found by load pulses."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime.machine.energy.external import aligned, read_power_log
from edgepress.runtime.machine.metering.accounting import energy_between
from edgepress.runtime.machine.metering.pulses import Pulse, give_pulses
from edgepress.runtime.machine.metering.readings import Rail, Trace


@pytest.fixture(scope="module")
def pulses() -> tuple[Pulse, ...]:
    return give_pulses(unit=0.02, rest=0.04)


def test_pulses_are_a_pattern_of_load_and_rest_in_our_clock(pulses: tuple[Pulse, ...]) -> None:
    assert [pulse.load for pulse in pulses] == [False, True, True, True, False, False, True, False, False]
    assert all(pulse.end > pulse.start for pulse in pulses)
    assert all(first.end <= second.start for first, second in pairwise(pulses))


PATTERN = tuple(
    Pulse(100.0 + 0.5 * index, 100.5 + 0.5 * index, load)
    for index, load in enumerate([False, False, True, True, True, False, False, True, False, False])
)


def log(shift: float, noise: float = 0.0, pause: float = 0.02, seed: int = 0) -> Trace:
    """What a meter whose clock is ``shift`` seconds ahead sees: 2 W at rest, 5 W in load, then a run of 4 W."""
    ours = np.arange(90.0, 130.0, pause)
    watts = np.full(len(ours), 2.0)
    for pulse in PATTERN:
        if pulse.load:
            watts[(ours >= pulse.start) & (ours < pulse.end)] = 5.0
    watts[(ours >= 110.0) & (ours < 120.0)] = 4.0
    return Trace(
        Rail("external", "", "power", None, None),
        ours + shift,
        watts + np.random.default_rng(seed).normal(0, noise, len(ours)),
    )


@given(shift=st.floats(-1e5, 1e5), noise=st.floats(0.0, 0.5), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_any_shift_of_the_clock_is_found(shift: float, noise: float, seed: int) -> None:
    trace = log(shift, noise, seed=seed)
    moved = aligned(trace, PATTERN)
    assert moved.seconds[0] == pytest.approx(90.0, abs=0.03)
    energy = energy_between(moved, 110.5, 119.5)
    low, high = energy.interval
    # Twice its width, four standard errors: beyond 95 % lies one seed in twenty, which a search would find.
    assert abs(energy.value - 36.0) <= high - low + 0.1


def test_intervals_have_the_energy_as_often_as_they_say() -> None:
    logs = [aligned(log(0.0, 0.5, seed=seed), PATTERN) for seed in range(100)]
    intervals = [energy_between(moved, 110.5, 119.5).interval for moved in logs]
    assert sum(low - 0.1 <= 36.0 <= high + 0.1 for low, high in intervals) >= 95


def test_a_log_without_the_pulses_is_refused() -> None:
    flat = log(0.0, noise=0.3)
    flat = Trace(flat.rail, flat.seconds, np.random.default_rng(1).normal(2.0, 0.3, len(flat.seconds)))
    with pytest.raises(InputError, match=r"within its noise|as well at"):
        aligned(flat, PATTERN)
    with pytest.raises(InputError, match="start the meter before the run"):
        aligned(Trace(flat.rail, flat.seconds[:50], flat.values[:50]), PATTERN)


def test_two_runs_in_one_log_are_refused() -> None:
    once = log(0.0)
    twice = Trace(once.rail, np.concatenate([once.seconds, once.seconds + 50.0]), np.tile(once.values, 2))
    with pytest.raises(InputError, match="cut the log to one run"):
        aligned(twice, PATTERN)


@pytest.mark.parametrize(
    ("header", "row", "watts"),
    [
        ("Time (s),Power (mW)", "{t},1500", 1.5),
        ("timestamp [ms],V (V),I (mA)", "{ms},5,300", 1.5),
        ("time,power", "{t},1.5", 1.5),
        ("Time (ms),Current (µA),Voltage (mV)", "{ms},300000,5000", 1.5),
    ],
)
def test_headers_and_units(tmp_path: Path, header: str, row: str, watts: float) -> None:
    rows = [row.format(t=0.1 * index, ms=100 * index) for index in range(12)]
    (tmp_path / "log.csv").write_text("\n".join([header, *rows]))
    found = read_power_log(tmp_path / "log.csv")
    assert found.values.tolist() == pytest.approx([watts] * 12)
    assert found.seconds[-1] == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no line at all"),
        ("a,b\n1,2", "needs a header with a time"),
        ("time,power\n" + "\n".join(f"{i},x" for i in range(12)), "line 2: column 2 is no number"),
        ("time,power\n1,2\n2,3", "2 rows"),
        ("time,power\n" + "\n".join(f"{-i},1" for i in range(12)), "time that only grows"),
        ("time,power (hp)\n1,2", "unit 'hp'"),
        ("time,power\n" + "\n".join(f"{i},nan" for i in range(12)), "not finite"),
    ],
)
def test_a_file_that_is_no_power_log_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_power_log(tmp_path / "log.csv")
