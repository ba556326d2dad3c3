"""Energy sources on what their kernels and programs print, recorded or made up by their documentation."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime.machine import energy
from edgepress.runtime.machine.energy import (
    EnergySource,
    android_battery,
    battery,
    nvml,
    odpm,
    powermetrics,
    tegrastats,
)
from edgepress.runtime.machine.energy.battery import amperes_per_unit, open_battery
from edgepress.runtime.machine.energy.hwmon import open_hwmon
from edgepress.runtime.machine.energy.ina3221x import open_ina3221x
from edgepress.runtime.machine.energy.nvml import open_nvml
from edgepress.runtime.machine.energy.odpm import channels_of, open_odpm
from edgepress.runtime.machine.energy.vcgencmd import open_vcgencmd, rails_of
from edgepress.runtime.machine.metering.readings import Meter, Unavailable


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def opened(found: Meter | Unavailable) -> Meter:
    assert not isinstance(found, Unavailable), found
    return found


def shown(meter: Meter) -> dict[str, float]:
    return {reading.rail: reading.value for reading in meter.read()}


def reason(found: Meter | Unavailable) -> str:
    assert isinstance(found, Unavailable)
    return found.reason


def program(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name first on the PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_every_source_found_on_disk_keeps_the_contract() -> None:
    files = {path.stem for path in Path(energy.__file__).parent.glob("*.py")} - {"__init__"}
    found = energy.sources()
    assert {source.name for source in found} == {name.replace("_", "-") for name in files}
    assert [source.name for source in energy.sources(["rapl"])] == ["rapl"]
    for source in found:
        assert isinstance(source, EnergySource)
        assert source.measures
    meters, reasons = energy.open_meters()
    for _, meter in meters:
        assert meter.rails
        meter.close()
    assert len(meters) + len(reasons) == len(files)
    assert all(reasons.values())


def test_an_unknown_source_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(InputError, match="no energy source 'sun'; known are android-battery, battery"):
        energy.open_meters(["sun"])


def test_hwmon_units_labels_and_the_board_input_that_has_all_rails_behind_it(tmp_path: Path) -> None:
    write(
        tmp_path / "hwmon/hwmon3", name="ina3221", in1_label="VDD_IN", in1_input=19112, curr1_input=240,
        in2_label="VDD_CPU_GPU_CV", in2_input=5000, curr2_input=100, in4_input=3, curr4_input=9999, in4_label="sum",
    )  # fmt: skip
    write(tmp_path / "hwmon/hwmon4", name="ina226", power1_input=1_250_000, update_interval=35, in0_input=12)
    write(tmp_path / "hwmon/hwmon5", name="BAT0", power1_input=9_000_000)
    write(tmp_path / "power_supply/BAT0", type="Battery")
    meter = opened(open_hwmon(tmp_path))
    assert shown(meter) == pytest.approx({"VDD_IN": 19.112 * 0.24, "VDD_CPU_GPU_CV": 0.5, "ina226/hwmon4/power1": 1.25})
    assert [rail.name for rail in meter.rails if rail.total] == ["VDD_IN"]
    assert meter.rails[-1].interval == pytest.approx(0.035)


def test_hwmon_counters_begin_at_opening_and_sensors_without_an_input_rail_are_added(tmp_path: Path) -> None:
    chip = write(tmp_path / "hwmon/hwmon0", name="amd_energy", energy1_input=5_000_000, energy2_input=0)
    meter = opened(open_hwmon(tmp_path))
    write(chip, energy1_input=7_500_000)
    assert shown(meter) == {"amd_energy/hwmon0/energy1": 2.5, "amd_energy/hwmon0/energy2": 0.0}
    assert all(rail.total for rail in meter.rails)
    assert "no sensor" in reason(open_hwmon(tmp_path / "nothing"))


def test_rails_of_older_jetsons(tmp_path: Path) -> None:
    write(
        tmp_path / "7-0040/iio:device0", rail_name_0="POM_5V_IN", in_power0_input=2532,
        rail_name_1="POM_5V_GPU", in_power1_input=41,
    )  # fmt: skip
    meter = opened(open_ina3221x(tmp_path))
    assert shown(meter) == {"POM_5V_IN": 2.532, "POM_5V_GPU": 0.041}
    assert [rail.name for rail in meter.rails if rail.total] == ["POM_5V_IN"]


TEGRASTATS = (
    "RAM 2840/7620MB (lfb 512x4MB) SWAP 0/4096MB (cached 0MB) CPU [25%@1420,off,off] GR3D_FREQ 76% VIC_FREQ 115 "
    "AO@42.5C thermal@41.7C VDD_IN 5765mW/5700mW VDD_CPU_GPU_CV 1548mW/1500mW VDD_SOC 1497mW"
)
OLD_TEGRASTATS = (
    "RAM 1500/3956MB (lfb 1x1MB) CPU [1%@102] PLL@34C POM_5V_IN 2532/2500 POM_5V_GPU 0/0 POM_5V_CPU 249/240"
)


@pytest.mark.parametrize(
    ("line", "rails"),
    [
        (TEGRASTATS, {"VDD_IN": 5.765, "VDD_CPU_GPU_CV": 1.548, "VDD_SOC": 1.497}),
        (OLD_TEGRASTATS, {"POM_5V_IN": 2.532, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.249}),
        ("RAM 1/2MB", {}),
    ],
)
def test_tegrastats_lines(line: str, rails: dict[str, float]) -> None:
    assert tegrastats.rails_of(line) == pytest.approx(rails)


def test_tegrastats_runs_until_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, "tegrastats", f"while :; do echo '{TEGRASTATS}'; sleep 0.02; done", monkeypatch)
    meter = opened(tegrastats.open_tegrastats())
    readings = meter.read()
    meter.close()
    assert {reading.rail for reading in readings} == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert [rail.name for rail in meter.rails if rail.total] == ["VDD_IN"]
    program(tmp_path, "tegrastats", "echo Permission denied", monkeypatch)
    assert "Permission denied" in reason(tegrastats.open_tegrastats())


@given(
    st.dictionaries(
        st.from_regex(r"[LS][0-9]{1,2}[MS]_VDD_[A-Z0-9_]{1,12}", fullmatch=True), st.integers(0, 2**63), max_size=12
    )
)
def test_odpm_lines_of_any_rails(rails: dict[str, int]) -> None:
    lines = [f"CH{index}(T={7 * index})[{name}], {value}" for index, (name, value) in enumerate(rails.items())]
    assert channels_of("\n".join(["t=2534345", *lines, ""])) == {name: value / 1e6 for name, value in rails.items()}


def test_odpm_counts_from_opening_and_leaves_out_what_lies_behind_another_rail(tmp_path: Path) -> None:
    first = write(
        tmp_path / "iio:device0", energy_value="t=1\nCH0(T=1)[S2M_VDD_CPUCL2], 100\nCH1(T=1)[L15M_VDD_SLC], 7"
    )
    write(tmp_path / "iio:device1", energy_value="t=1\nCH0(T=1)[S1S_VDD_CAMERA], 50")
    meter = opened(open_odpm(tmp_path))
    write(first, energy_value="t=9\nCH0(T=9)[S2M_VDD_CPUCL2], 2000100\nCH1(T=9)[L15M_VDD_SLC], 1000007")
    assert shown(meter) == pytest.approx({"S2M_VDD_CPUCL2": 2.0, "L15M_VDD_SLC": 1.0, "S1S_VDD_CAMERA": 0.0})
    assert {rail.name for rail in meter.rails if rail.total} == {"S2M_VDD_CPUCL2", "S1S_VDD_CAMERA"}
    assert meter.trouble() is None
    write(first, energy_value="t=1\nCH0(T=1)[S2M_VDD_CPUCL2], 5\nCH1(T=1)[L15M_VDD_SLC], 7")
    meter.read()
    assert "started again" in (meter.trouble() or "")
    assert "Pixel 6" in reason(odpm.open_odpm(tmp_path / "none"))


@pytest.mark.parametrize(
    ("current", "volts", "unit"),
    [
        (-412_000, 3.91, 1e-6),  # most phones: µA, negative while it discharges
        (412, 3.91, 1e-3),  # mA, and the other sign
        (30_000, 3.8, 1e-6),  # a phone with its display off: 0.1 W; as mA it would be 114 W
        (5_000_000, 11.1, 1e-6),  # a laptop
        (7, 3.8, None),
        (0, 3.8, None),
    ],
)
def test_the_unit_of_a_current_is_told_by_its_power(current: int, volts: float, unit: float | None) -> None:
    assert amperes_per_unit(current, volts) == unit


def phone(folder: Path, **files: object) -> Path:
    known = {"type": "Battery", "status": "Discharging", "voltage_now": 4_000_000, "current_now": -500_000}
    return write(folder / "battery", **(known | files))


def test_a_battery_gives_power_and_charge_and_adds_them_up_nowhere(tmp_path: Path) -> None:
    folder = phone(tmp_path, charge_counter=2_000_000)
    write(tmp_path / "mouse", type="Battery", scope="Device", status="Discharging")
    write(tmp_path / "usb", type="USB")
    meter = opened(open_battery(tmp_path))
    assert shown(meter) == {battery.CURRENT: 2.0, battery.CHARGE: 0.0}
    assert [rail.name for rail in meter.rails if rail.total] == [battery.CURRENT]
    write(folder, charge_counter=1_999_000, current_now=600_000)  # the vendor's sign changed: it still discharges
    assert shown(meter) == pytest.approx({battery.CURRENT: 2.4, battery.CHARGE: 1e-3 * 3600 * 4.0})
    assert meter.trouble() is None
    write(folder, status="Charging")
    meter.read()
    assert "charging during the run" in (meter.trouble() or "")


def test_laptops_have_power_and_energy(tmp_path: Path) -> None:
    folder = phone(tmp_path, power_now=11_500_000, energy_now=40_000_000)
    meter = opened(open_battery(tmp_path))
    meter.read()
    write(folder, energy_now=39_990_000)
    assert shown(meter) == pytest.approx({battery.CURRENT: 11.5, battery.CHARGE: 36.0})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"status": "Charging"}, "charging, not discharging"),
        ({"status": "Full"}, "full, not discharging"),
        ({"current_now": 3}, "no power that a device uses"),
        ({"voltage_now": "?"}, "cannot be read"),
    ],
)
def test_a_battery_that_cannot_tell_gives_the_reason(tmp_path: Path, files: dict[str, object], message: str) -> None:
    phone(tmp_path, **files)
    assert message in reason(open_battery(tmp_path))


def test_no_battery_and_two_batteries(tmp_path: Path) -> None:
    assert "no battery" in reason(open_battery(tmp_path))
    phone(tmp_path / "a"), phone(tmp_path / "b")
    both = tmp_path / "both"
    both.mkdir()
    (tmp_path / "a/battery").rename(both / "BAT0")
    (tmp_path / "b/battery").rename(both / "BAT1")
    assert "BAT0, BAT1" in reason(open_battery(both))


DUMPSYS = """Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 0
  Charge counter: {charge}
  status: {status}
  health: 2
  level: 84
  scale: 100
  voltage: 4000
  temperature: 312
  technology: Li-poly"""


def test_android_battery_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(android_battery, "_PAUSE", 0.0)
    printed = tmp_path / "printed"
    printed.write_text(DUMPSYS.format(usb="false", charge=2_448_000, status=3))
    program(tmp_path, "dumpsys", f"cat {printed}", monkeypatch)
    meter = opened(android_battery.open_android_battery())
    printed.write_text(DUMPSYS.format(usb="false", charge=2_447_000, status=3))
    assert shown(meter) == pytest.approx({"battery/charge": 1000 * 3600e-6 * 4.0})
    printed.write_text(DUMPSYS.format(usb="true", charge=2_447_000, status=2))
    meter.read()
    assert "powered by usb" in (meter.trouble() or "")
    assert "unplug" in reason(android_battery.open_android_battery())
    printed.write_text("Can't find service: battery")
    assert "no 'charge counter'" in reason(android_battery.open_android_battery())


VCGENCMD = """   3V7_WL_SW_A current(0)=0.00390372A
     VDD_CORE_A current(7)=0.81262990A
   3V7_WL_SW_V volt(8)=3.68864000V
     VDD_CORE_V volt(15)=0.88187950V
        EXT5V_V volt(24)=5.15766000V
         BATT_V volt(25)=0.00000000V"""


def test_raspberry_pi_rails_are_pairs_of_volts_and_amperes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rails_of(VCGENCMD) == pytest.approx({"3V7_WL_SW": 0.0143994, "VDD_CORE": 0.7166417}, rel=1e-5)
    program(tmp_path, "vcgencmd", f"cat <<'END'\n{VCGENCMD}\nEND", monkeypatch)
    assert {rail.name for rail in opened(open_vcgencmd()).rails} == {"3V7_WL_SW", "VDD_CORE"}
    program(tmp_path, "vcgencmd", "echo 'error=1 error_msg=\"Command not registered\"'", monkeypatch)
    assert "only a Raspberry Pi 5" in reason(open_vcgencmd())
    program(tmp_path, "vcgencmd", "echo VCHI initialization failed >&2; exit 255", monkeypatch)
    assert "VCHI initialization failed" in reason(open_vcgencmd())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("CPU Power: 823 mW\n", ("CPU", 0.823)),
        ("Combined Power (CPU + GPU + ANE): 1172 mW", ("Combined", 1.172)),
        ("Intel energy model derived package power (CPUs+GT+SA): 2.31W", ("package", 2.31)),
        ("GPU Power: 1.5 W", ("GPU", 1.5)),
        ("CPU 4 frequency: 2039 MHz", None),
        ("System Power: 2 W", None),
    ],
)
def test_powermetrics_lines(line: str, found: tuple[str, float] | None) -> None:
    assert powermetrics.power_of(line) == found


class Graphics:
    """NVML's answers: codes first."""

    def __init__(self, *millijoules: int, code: int = 0) -> None:
        self.millijoules, self.code = list(millijoules), code

    def start(self) -> int:
        return 0

    def count(self) -> tuple[int, int]:
        return 0, len(self.millijoules)

    def energy(self, index: int) -> tuple[int, int]:
        return self.code, self.millijoules[index]


def test_nvml_counts_and_never_takes_unsupported_for_nothing() -> None:
    library = Graphics(10_000, 500)
    meter = opened(open_nvml(library))
    library.millijoules[0] += 2_500
    assert shown(meter) == {"gpu-0": 2.5, "gpu-1": 0.0}
    library.code = nvml._NOT_SUPPORTED
    with pytest.raises(OSError, match="answers 3"):
        meter.read()
    assert "counts no energy" in reason(open_nvml(library))
