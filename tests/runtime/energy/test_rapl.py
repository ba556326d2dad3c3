"""RAPL on a made-up sysfs tree: packages once, wrap-around, and a reason where there is nothing to read."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.machine.energy.rapl import energy_between, open_rapl
from edgepress.runtime.machine.metering.readings import Meter, Unavailable

RANGE = 262_143_328_850


def joules(meter: Meter) -> float:
    """What the rails that count have shown together."""
    shown = {reading.rail: reading.value for reading in meter.read()}
    return sum(shown[rail.name] for rail in meter.rails if rail.total)


def domain(root: Path, folder: str, name: str, microjoules: int, range_: int = RANGE) -> Path:
    path = root / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{range_}\n")
    return path / "energy_uj"


@given(range_=st.integers(1, 10**12), data=st.data())
def test_a_counter_that_starts_again_loses_nothing(range_: int, data: st.DataObject) -> None:
    before = data.draw(st.integers(0, range_))
    used = data.draw(st.integers(0, range_))
    after = (before + used) % (range_ + 1)
    assert energy_between(before, after, range_) == used


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    first = domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    second = domain(tmp_path, "intel-rapl:1", "package-1", RANGE - 499_999)
    part = domain(tmp_path, "intel-rapl:0:0", "core", 0)
    memory = domain(tmp_path, "intel-rapl:0:1", "dram", 0)
    system = domain(tmp_path, "intel-rapl:2", "psys", 0)
    meter = open_rapl(tmp_path)
    assert not isinstance(meter, Unavailable)
    assert joules(meter) == 0
    first.write_text("3000000")
    second.write_text("1000000")  # past its range: 500,000 to the end, then 1,000,000
    part.write_text("900000000")
    system.write_text("900000000")
    assert joules(meter) == pytest.approx(2.0 + 1.5)
    memory.write_text("250000")  # which no package's counter has in it
    assert joules(meter) == pytest.approx(2.0 + 1.5 + 0.25)
    second.write_text("1500000")
    assert joules(meter) == pytest.approx(4.0 + 0.25)


def test_every_reading_is_added_so_a_long_run_may_wrap_many_times(tmp_path: Path) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 0, range_=999)
    meter = open_rapl(tmp_path)
    assert not isinstance(meter, Unavailable)
    total = 0
    for _ in range(10):
        total += 700
        counter.write_text(str(total % 1000))
        joules(meter)
    assert joules(meter) == pytest.approx(total / 1e6)


def test_a_machine_without_it_gives_the_reason(tmp_path: Path) -> None:
    found = open_rapl(tmp_path / "none")
    assert isinstance(found, Unavailable)
    assert "no intel-rapl package" in found.reason


def test_a_counter_for_root_only_gives_the_reason_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter = domain(tmp_path, "intel-rapl:0", "package-0", 5)
    read = Path.read_text

    def refuse(path: Path, *arguments: str, **options: str) -> str:
        if path == counter:  # chmod would not stop root, as whom tests may run
            raise PermissionError
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    found = open_rapl(tmp_path)
    assert isinstance(found, Unavailable)
    assert "only root may read" in found.reason
    assert "chmod a+r" in found.reason


def test_a_counter_that_is_no_number_gives_the_reason(tmp_path: Path) -> None:
    domain(tmp_path, "intel-rapl:0", "package-0", 5).write_text("abc")
    assert isinstance(open_rapl(tmp_path), Unavailable)
