"""What samples are taken under, read from a made-up system, and what follows from it."""

import os
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.profile.circumstances import Moment, between, read_moment, regime


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")


def phone(root: Path) -> Path:
    cpu = root / "sys/devices/system/cpu/cpufreq"
    for policy, cores, now, most in (
        ("policy0", "0 1 2 3", 1_800_000, 1_800_000),
        ("policy4", "4 5", 2_100_000, 2_400_000),
    ):
        write(
            cpu / policy, affected_cpus=cores, scaling_cur_freq=now, scaling_max_freq=most, scaling_governor="schedutil"
        )
    write(root / "sys/class/thermal/thermal_zone0", type="cpu-big", temp=61_500)
    write(root / "sys/class/thermal/thermal_zone1", type="off", temp=-274_000)
    write(root / "sys/class/thermal/cooling_device0", type="cpufreq-cpu4", cur_state=2)
    write(root / "sys/class/thermal/cooling_device1", type="fan", cur_state=1)
    write(root / "sys/class/power_supply/battery", type="Battery", status="Discharging", capacity=83)
    write(root / "proc", stat="cpu  100 0 50 9000 10 5 5 0 0 0\ncpu0 1 2 3")
    # fields 3 to 52 of a stat, the 39th the core; a thread's name may be anything
    for thread, name, core in ((99, "python3", 5), (100, "a) b (c", 4)):
        fields = ["S", *(str(number) for number in range(4, 39)), str(core), *(str(number) for number in range(40, 53))]
        write(root / f"proc/self/task/{thread}", stat=f"{thread} ({name}) {' '.join(fields)}")
    write(root / "proc/self/task/101", stat="101 (gone")
    return root


def test_a_phone_is_read(tmp_path: Path) -> None:
    moment = read_moment(phone(tmp_path))
    assert moment.mhz == (1800, 1800, 1800, 1800, 2100, 2100)
    assert moment.allowed_mhz == (1800, 1800, 1800, 1800, 2400, 2400)
    assert moment.celsius == {"cpu-big": 61.5}
    assert moment.cooling == {"cpufreq-cpu4 cooling_device0": 2}
    assert (moment.battery_percent, moment.charging) == (83, False)
    assert moment.busy_seconds == 1.6
    assert moment.thread_cores == (5, 4)
    assert regime(moment)["governors"] == ["schedutil"]


def test_a_system_that_tells_nothing_gives_nothing(tmp_path: Path) -> None:
    moment = read_moment(tmp_path)
    assert (moment.mhz, moment.celsius, moment.busy_seconds, moment.charging) == ((), {}, None, None)
    assert between(moment, moment, 1).marks == ()


def at(seconds: float, **values: object) -> Moment:
    return Moment(seconds, **values)  # type: ignore[arg-type] - fields of any kind are the point


def test_a_sample_is_marked_for_what_spoils_it() -> None:
    calm = at(0.0, mhz=(2000.0,), allowed_mhz=(2000.0,), busy_seconds=10.0)
    assert (
        between(calm, at(1.0, mhz=(2000.0,), allowed_mhz=(2000.0,), busy_seconds=11.0, own_seconds=1.0), 1).marks == ()
    )
    assert "throttled" in between(calm, at(1.0, mhz=(1500.0,), allowed_mhz=(1500.0,)), 1).marks
    assert "clock" in between(calm, at(1.0, mhz=(1500.0,), allowed_mhz=(2000.0,)), 1).marks
    assert "throttled" in between(calm, at(1.0, cooling={"cpu": 1}), 1).marks
    assert "charging changed" in between(at(0.0, charging=False), at(1.0, charging=True), 1).marks


def test_slow_cores_that_are_not_used_do_not_matter() -> None:
    before = at(0.0, mhz=(600.0, 600.0, 2400.0), allowed_mhz=(1800.0, 1800.0, 2400.0))
    after = at(1.0, mhz=(600.0, 600.0, 2400.0), allowed_mhz=(1800.0, 1800.0, 2400.0))
    assert between(before, after, 1).marks == ()
    assert between(before, after, 2).marks == ("clock",)


@given(seconds=st.floats(0.01, 100), own=st.floats(0, 100), others=st.floats(0, 4))
def test_other_processes_are_what_is_busy_and_not_ours(seconds: float, own: float, others: float) -> None:
    before = at(5.0, busy_seconds=100.0, own_seconds=3.0)
    after = at(5.0 + seconds, busy_seconds=100.0 + own + others * seconds, own_seconds=3.0 + own)
    found = between(before, after, 1)
    assert found.other_cores is not None
    assert abs(found.other_cores - others) < 1e-6
    assert ("busy" in found.marks) == (others * seconds > 0.1 * seconds + 0.02 + 1e-9) or abs(
        others * seconds - 0.1 * seconds - 0.02
    ) < 1e-6


def test_this_process_has_run_on_cores_that_it_may_use() -> None:
    cores = read_moment().thread_cores
    if sys.platform == "linux":
        assert set(cores) <= set(range(os.cpu_count() or 1))
        assert len(cores) >= 1
