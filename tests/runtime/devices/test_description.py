"""A record understood: recorded phones and boards, and what no device should ever say."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.recorded_devices import CPU, phone

from edgepress.errors import InputError
from edgepress.runtime.machine.devices.describing import android, linux, record
from edgepress.runtime.machine.devices.describing.description import Description, abilities, read_description


def test_a_phone_is_its_clusters_its_battery_and_its_rails() -> None:
    found = linux.describe("adb:1", phone())
    assert (found.model, found.soc, found.os) == ("Google Pixel 6", "Google Tensor", "Android 14 (API 34)")
    assert (found.architecture, found.kernel) == ("aarch64", "Linux 5.10.157-android13")
    names = [(cluster.name, cluster.cores, cluster.max_mhz) for cluster in found.clusters]
    assert names == [
        ("Cortex-A55", (0, 1, 2, 3), 1803.0),
        ("Cortex-A76", (4, 5), 2253.0),
        ("Cortex-X1", (6, 7), 2802.0),
    ]
    assert found.clusters[1].mhz == (738.0, 738.0)
    assert found.fast_cores() == (6, 7)
    assert found.memory_bytes == 7664640 * 1024
    assert found.storage_free_bytes == 100000 * 1024
    [zone] = found.thermal_zones
    assert (zone.name, zone.celsius, zone.throttles_at) == ("BIG", 41.5, (70.0,))
    [battery] = found.batteries
    assert (battery.level_percent, battery.celsius, battery.volts, battery.current) == (83, 29.4, 4.123, -351562)
    assert battery.charging is True
    assert [(counter.kind, counter.name) for counter in found.counters] == [
        ("iio", "s2mpg10-odpm"),
        ("power_supply", "battery"),
    ]
    assert found.awake is False
    assert not found.notes


def test_a_charging_battery_alone_is_no_meter() -> None:
    told = {name: text for name, text in phone().items() if "iio" not in name}
    assert _energy(told) == "the battery is charging, and there is no other counter"
    told["sys/class/power_supply/battery/status"] = "Discharging"
    assert _energy(told) == ""


def _energy(told: dict[str, str]) -> str:
    """Why energy cannot be measured."""
    return next(one.why_not for one in abilities(linux.describe("x", told)) if one.name == "energy")


def test_a_board_without_midr_files_is_told_by_cpuinfo() -> None:
    block = "processor\t: {}\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
    told = {
        "proc/cpuinfo": "\n".join(block.format(core) for core in range(4)),
        "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0 ",
        "sys/firmware/devicetree/base/compatible": "raspberrypi,5-model-b brcm,bcm2712 ",
    }
    found = linux.describe("ssh:pi", told)
    assert [(one.name, one.cores) for one in found.clusters] == [("Cortex-A76", (0, 1, 2, 3))]
    assert (found.model, found.soc) == ("Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712")
    assert found.features == ("asimd", "asimddp", "fp")


def test_a_design_that_is_not_known_is_noted() -> None:
    told = {f"{CPU}/cpu0/regs/identification/midr_el1": "0x00000000410fffe0"}
    assert linux.describe("x", told).notes == ("the design of MIDR 0x410fffe0 is not in the table",)


def test_dumpsys_tells_of_a_battery_that_sys_hides() -> None:
    text = """Current Battery Service state:
  AC powered: false
  Charge counter: 3218000
  status: 3
  present: true
  level: 50
  scale: 100
  voltage: 3891
  temperature: 251
"""
    [battery] = android.batteries(text)
    assert (battery.level_percent, battery.status, battery.volts, battery.celsius) == (50, "Discharging", 3.891, 25.1)
    assert (battery.charge_counter_uah, battery.charging) == (3218000, False)
    assert android.batteries(text.replace("present: true", "present: false")) == ()


def test_the_script_tells_what_the_files_say(tmp_path: Path) -> None:
    """Read through a shell and as a folder, a recorded device is the same."""
    for name, text in phone().items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    asked = record.script().replace(" /proc", f" {tmp_path}/proc").replace(" /sys", f" {tmp_path}/sys")
    asked = asked.replace("/sys/firmware/*)", f"{tmp_path}/sys/firmware/*)").replace(" /sys/*)", f" {tmp_path}/sys/*)")
    printed = subprocess.run(["sh", "-c", asked], capture_output=True, text=True, check=True).stdout
    files = {name: text for name, text in phone().items() if not name.startswith("commands/")}
    read = record.parse(printed.replace(str(tmp_path), ""))
    assert {name: text for name, text in read.items() if name.startswith(("sys/", "proc/"))} == files
    assert record.read_folder(tmp_path) == phone()


def test_a_description_comes_back_from_its_json() -> None:
    found = linux.describe("adb:1", phone())
    assert read_description(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(InputError, match="version 99"):
        read_description(found.to_json() | {"version": 99})
    with pytest.raises(InputError, match="no description of a device"):
        read_description(found.to_json() | {"memory_bytes": "much"})


@given(st.sets(st.integers(0, 4095)))
def test_a_list_of_cores_is_read_as_it_was_written(cores: set[int]) -> None:
    """Written here in the kernel's way: runs of neighbours, joined by commas."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][-1] == core - 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    text = ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    assert linux.core_list(text) == tuple(sorted(cores))


_NAMES = st.sampled_from(sorted(phone()))
_TEXTS = st.one_of(
    st.text(max_size=40), st.integers(-(10**30), 10**30).map(str), st.sampled_from(["0x", "-", "0-", "∞"])
)


@settings(max_examples=40)
@given(st.dictionaries(st.one_of(_NAMES, st.text(max_size=60)), _TEXTS, max_size=30))
def test_whatever_a_device_says_is_described(told: dict[str, str]) -> None:
    """No file of a device can stop its description, nor make one that is no JSON."""
    found = linux.describe("x", phone() | told)
    assert isinstance(found, Description)
    assert read_description(json.loads(json.dumps(found.to_json()))) == found
    assert len(abilities(found)) == 5


@settings(max_examples=40)
@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z0-9:_]{1,8}){0,3}", fullmatch=True), st.text(max_size=50)))
def test_what_a_shell_prints_is_read_back(files: dict[str, str]) -> None:
    clean = {name: text.replace("\x1e", "").replace("\0", " ").strip("\n") for name, text in files.items()}
    printed = "".join(f"\x1e/{name}\n{text}\n" for name, text in clean.items())
    assert record.parse(printed) == {name: text for name, text in clean.items() if text.strip()}


@given(st.text(), st.text())
def test_services_may_say_anything(text: str, other: str) -> None:
    android.batteries(text)
    android.awake(other)
    assert android.os_name(android.properties(text)) is None or "ro.build" in text
