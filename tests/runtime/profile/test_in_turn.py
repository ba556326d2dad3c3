"""Two bundles in turn: on a machine whose speed wanders, by a clock of its own, and from the command line."""

from pathlib import Path

import numpy as np
import pytest
from tiny_models import save

from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.profile.in_turn import InTurn, compare_in_turn, pairs_of
from edgepress.runtime.profile.workloads.workload import Part, Workload


class Machine:
    """Its speed wanders by a fifth over seconds, as one with neighbours does, and each step by some percent more."""

    def __init__(self, seed: int) -> None:
        self.now, self._random, self._mood = 0.0, np.random.default_rng(seed), 0.0

    def step(self, seconds: float) -> float:
        self._mood += -0.005 * self._mood + 0.02 * self._random.standard_normal()
        took = float(seconds * np.exp(self._mood + 0.05 * self._random.standard_normal()))
        self.now += took
        return took


class Steps(Workload):
    """A workload of such a machine."""

    first = Part("run", "run_seconds", "ran", "rows")
    sizes = (1,)
    ran_on = ""

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine, self._seconds = machine, seconds

    def begin(self, size: int) -> list[float]:
        return self.steps(size)

    def steps(self, count: int) -> list[float]:
        return [self._machine.step(self._seconds) for _ in range(count)]

    def units(self, part: Part) -> tuple[str, int]:
        return part.what, 1


def ratio(seed: int, slower: float, seconds: float) -> InTurn:
    machine = Machine(seed)
    works = [Steps(machine, 0.013), Steps(machine, 0.013 * slower)]
    return InTurn("run_seconds", tuple(pairs_of(works, seconds, lambda: machine.now)))


def test_five_percent_are_found_where_the_machine_wanders_by_more() -> None:
    found = [ratio(seed, 1.05, 30).ratio for seed in range(40)]
    assert sum(one.low > 1 for one in found) >= 38
    assert sum(one.low <= 1.05 <= one.high for one in found) >= 34


def test_what_is_alike_differs_no_more_often_than_it_should() -> None:
    differ = sum(not one.low <= 1 <= one.high for one in (ratio(seed, 1.0, 30).ratio for seed in range(100, 140)))
    assert differ <= 6  # of 40 at 95 %: more come with a chance of 1 %


def test_there_are_pairs_however_short_the_time_and_each_side_comes_first_as_often() -> None:
    found = ratio(3, 2.0, 1e-9)
    assert len(found.pairs) == 8
    assert 1.7 < found.ratio.value < 2.4
    assert "8 pairs in turn" in str(found)
    assert "*" in str(found)


def test_bundles_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = save("qwen3", tmp_path / "qwen3")
    for name, recipe in (("one", "fp32"), ("other", "int4")):
        export(checkpoint, out=tmp_path / name, recipe=recipe, target="x86-cpu", threads=1)
    assert main(["compare", str(tmp_path / "one"), str(tmp_path / "other"), "--seconds", "0.1", "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'other'} against {tmp_path / 'one'}" in told
    assert "step_seconds" in told
    assert main(["compare", str(tmp_path / "one"), "profile.jsonl"]) == 2
    assert "bundles are compared two at a time, and with bundles" in capsys.readouterr().err
    with pytest.raises(InputError, match="seconds is 0; give more than 0"):
        compare_in_turn(tmp_path / "one", tmp_path / "other", seconds=0)
