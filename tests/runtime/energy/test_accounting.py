"""Joules against closed forms, and their uncertainty against what it claims: made-up meters whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime.machine.metering.accounting import (
    Quantity,
    coarse,
    energy_between,
    idle_power,
    total,
    without_idle,
)
from edgepress.runtime.machine.metering.readings import Kind, Rail, Reading, Trace, traces
from edgepress.runtime.machine.metering.recorder import Recorded, Recorder
from edgepress.runtime.machine.metering.stretches import source_energy


def rail(
    kind: Kind, resolution: float | None = 0.0, interval: float | None = 0.0, gain: float = 0.0, counted: bool = True
) -> Rail:
    return Rail("it", "what is made up", kind, resolution, interval, gain, counted)


def counter(watts: float, step: float, pause: float, seconds: float = 20.0, offset: float = 0.0) -> Trace:
    """A counter of a load of constant power that shows whole steps, read every ``pause`` seconds."""
    moments = np.arange(0.0, seconds, pause)
    return Trace(rail("energy", step), moments, np.floor((watts * moments + offset) / step) * step)


@given(watts=st.floats(0.1, 50.0), start=st.floats(0.5, 8.0), length=st.floats(1.0, 9.0), step=st.floats(1e-6, 2.0))
def test_a_counter_of_constant_power_is_off_by_no_more_than_its_steps(
    watts: float, start: float, length: float, step: float
) -> None:
    found = energy_between(counter(watts, step, 0.05), start, start + length)
    assert abs(found.value - watts * length) <= 2 * step + 1e-6
    assert found.random >= step / np.sqrt(6) * (1 - 1e-9)  # two ends, each s/√12


@given(slope=st.floats(-2.0, 2.0), base=st.floats(5.0, 40.0), start=st.floats(0.0, 4.0), length=st.floats(0.5, 5.0))
def test_a_ramp_of_power_is_integrated_exactly(slope: float, base: float, start: float, length: float) -> None:
    moments = np.linspace(0.0, 10.0, 41)
    found = energy_between(Trace(rail("power"), moments, base + slope * moments), start, start + length)
    assert found.value == pytest.approx(base * length + slope * ((start + length) ** 2 - start**2) / 2, rel=1e-9)


def test_a_sine_of_power_agrees_with_its_closed_form_within_the_error() -> None:
    moments = np.arange(0.0, 10.001, 0.1)
    found = energy_between(Trace(rail("power"), moments, 5 + 2 * np.sin(moments)), 1.0, 9.0)
    truth = 5 * 8 + 2 * (np.cos(1.0) - np.cos(9.0))
    assert found.interval[0] < truth < found.interval[1]
    assert found.value == pytest.approx(truth, rel=1e-3)


def share_covered(quantities: list[Quantity], truth: list[float] | float) -> float:
    truths = np.broadcast_to(truth, len(quantities))
    return float(
        np.mean(
            [low <= true <= high for (low, high), true in zip((q.interval for q in quantities), truths, strict=True)]
        )
    )


@pytest.mark.parametrize("step", [0.05, 1.0])
def test_intervals_of_a_rounding_counter_cover_the_truth(step: float) -> None:
    chance = np.random.default_rng(3)
    found = [
        energy_between(counter(3.0, step, 0.02, 12.0, offset=chance.uniform(0, 10)), start, start + 6.0)
        for start in chance.uniform(1.0, 5.0, 300)
    ]
    assert share_covered(found, 18.0) >= 0.95


def test_intervals_of_noisy_power_cover_the_truth_and_are_no_wider_than_twice_what_is_needed() -> None:
    chance = np.random.default_rng(5)
    moments = np.arange(0.0, 10.0001, 0.05)
    found = [
        energy_between(Trace(rail("power"), moments, 4 + chance.normal(0, 0.5, len(moments))), 1.0, 9.0)
        for _ in range(300)
    ]
    assert share_covered(found, 32.0) >= 0.94
    assert np.mean([q.random for q in found]) <= 2 * np.std([q.value for q in found])


def test_idle_power_is_taken_off_and_its_error_stays() -> None:
    chance = np.random.default_rng(7)
    moments = np.arange(0.0, 30.001, 0.05)
    net = []
    for _ in range(200):
        load = np.where(moments > 12.0, 3.0, 0.0)
        trace = Trace(rail("power"), moments, 2 + load + chance.normal(0, 0.4, len(moments)))
        idle = idle_power(trace, 0.0, 10.0)
        net.append(without_idle(energy_between(trace, 13.0, 29.0), idle, 16.0))
    assert share_covered(net, 48.0) >= 0.94
    assert np.mean([q.value for q in net]) == pytest.approx(48.0, rel=0.01)


def test_idle_power_that_wanders_is_less_certain_than_each_reading() -> None:
    moments = np.arange(0.0, 16.001, 0.05)
    steady = idle_power(Trace(rail("power"), moments, np.full(len(moments), 2.0)), 0.0, 16.0)
    wandering = idle_power(Trace(rail("power"), moments, 2 + np.sin(moments / 2)), 0.0, 16.0)
    assert steady.random == pytest.approx(0.0, abs=1e-9)
    assert wandering.random > 0.1


def test_a_gap_costs_certainty() -> None:
    moments = np.arange(0.0, 10.001, 0.1)
    watts = np.where((moments * 2).astype(int) % 2, 3.0, 5.0)
    whole = energy_between(Trace(rail("power"), moments, watts), 0.5, 9.5)
    kept = (moments < 3) | (moments > 7)
    gapped = energy_between(Trace(rail("power"), moments[kept], watts[kept]), 0.5, 9.5)
    assert gapped.random > whole.random + 1.0  # 2 W of spread over 4 s, divided by √12, is 2.3 J


def test_a_slow_counter_is_as_uncertain_as_what_it_may_have_missed() -> None:
    moments = np.arange(0.0, 60.0, 0.5)
    slow = np.floor(moments / 10) * 10 * 2.0  # 2 W, shown every ten seconds
    found = energy_between(Trace(rail("energy", None, None), moments, slow), 5.0, 55.0)
    assert found.interval[0] <= 100.0 <= found.interval[1]
    assert found.random > 5.0


def test_gain_stays_in_differences_and_goes_through_rates() -> None:
    energy = Quantity(100.0, 0.0, gain=0.03)
    assert energy.error == pytest.approx(100 * 0.03 / np.sqrt(3))
    assert without_idle(energy, Quantity(2.0, 0.0, 0.03), 10.0).error == pytest.approx(80 * 0.03 / np.sqrt(3))
    assert energy.per(50).value == 2.0


def test_totals_count_each_joule_once() -> None:
    parts = [
        (rail("energy"), Quantity(3.0, 0.3)),
        (rail("energy", counted=False), Quantity(9.0, 9.0)),
        (rail("energy"), Quantity(4.0, 0.4)),
    ]
    found = total(parts)
    assert found is not None
    assert (found.value, found.random) == (7.0, pytest.approx(0.5))
    assert total([(rail("energy", counted=False), Quantity(9.0, 9.0))]) is None


@given(step=st.floats(0.01, 5.0), watts=st.floats(0.5, 20.0))
def test_the_length_that_would_do_does(step: float, watts: float) -> None:
    run = counter(watts, step, 0.02, 8.0)
    refused = coarse(energy_between(run, 1.0, 7.0), 6.0, allowed=0.05)
    if refused is None or not np.isfinite(refused.needed_seconds) or refused.needed_seconds > 2000:
        return
    needed = 1.5 * refused.needed_seconds + 2 * step / watts
    longer = counter(watts, step, needed / 100, needed + 4.0)
    assert coarse(energy_between(longer, 1.0, 1.0 + needed), needed, allowed=0.05) is None
    assert f"a run of {refused.needed_seconds:.3g} s would do" in str(refused)


def test_a_run_that_was_not_read_to_its_end_is_refused() -> None:
    with pytest.raises(InputError, match="not read from the beginning"):
        energy_between(counter(2.0, 0.1, 0.1, seconds=5.0), 1.0, 6.0)


def test_readings_are_sorted_by_rail_and_time() -> None:
    first, second = Rail("a", "", "power", 0.0, 0.0), Rail("b", "", "power", 0.0, 0.0)
    found = traces((first, second), [Reading("a", 2.0, 5.0), Reading("a", 1.0, 4.0), Reading("a", 2.0, 6.0)])
    assert [trace.rail for trace in found] == [first]
    assert (found[0].seconds.tolist(), found[0].values.tolist()) == ([1.0, 2.0], [4.0, 6.0])


class Meter:
    """Two watts, of which every third reading fails."""

    rails = (Rail("it", "two watts", "energy", 1e-6, 0.0),)

    def __init__(self, fails: bool = False) -> None:
        self.reads, self.closed, self.fails, self.began = 0, False, fails, 0.0

    def read(self) -> list[Reading]:
        from time import perf_counter

        self.reads += 1
        if self.fails or self.reads % 3 == 2:
            raise OSError("the bus is busy")
        now = perf_counter()
        self.began = self.began or now
        return [Reading("it", now, 2.0 * (now - self.began))]

    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed = True


def test_a_recorder_reads_beside_the_work_and_survives_failures() -> None:
    good, bad = Meter(), Meter(fails=True)
    with Recorder([good, bad], interval=0.005) as recorder:
        begin = recorder.read_now()
        sum(range(400_000))
        end = recorder.read_now()
    recorded = recorder.recorded()
    energy = source_energy("made-up", "two watts", recorded[0], [(begin, end)])
    assert energy.total is not None
    assert energy.total[0].value == pytest.approx(2.0 * (end - begin), rel=1e-6)
    assert good.closed
    assert recorded[1].trouble == "it gave no reading: the bus is busy"
    with pytest.raises(InputError, match="the bus is busy"):
        source_energy("made-up", "two watts", recorded[1], [(begin, end)])


def test_rails_none_of_which_is_the_whole_have_no_total() -> None:
    part = Trace(rail("power", counted=False), np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0]))
    found = source_energy("made-up", "two watts", Recorded((part,), None), [(0.5, 1.5)])
    assert found.total is None
    assert found.rails[0].joules[0].value == pytest.approx(1.0)
