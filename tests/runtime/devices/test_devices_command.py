"""``edgepress devices``: lists, descriptions, and what is refused; of devices of every kind, without touching one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.recorded_devices import board, phone

from edgepress import cli
from edgepress.runtime.machine import devices
from edgepress.runtime.machine.devices.common.errors import AccessDenied
from edgepress.runtime.machine.devices.common.protocol import Found
from edgepress.runtime.machine.devices.describing import linux
from edgepress.runtime.machine.devices.describing.description import Description, read_description

_RECORDS = {"local": board(), "adb:1": phone()}


class _Recorded:
    """A device that says what it was recorded to say, and remembers that it was cleaned."""

    cleaned: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def describe(self, *, runner: bool = False) -> Description:
        if self.name == "ssh:closed":
            raise AccessDenied("ssh:closed: it lets nobody in")
        found = linux.describe(self.name, _RECORDS[self.name])
        return Description(**{**vars(found), "providers": ("CPUExecutionProvider",)}) if runner else found

    def clean(self) -> None:
        _Recorded.cleaned += (self.name,)


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of each kind: one that is there, one that is not, one that refuses, one that nobody asked for."""

    @contextmanager
    def opened(name: str) -> Iterator[_Recorded]:
        assert name != "ssh:quiet", "it was not named"
        yield _Recorded(name)

    found = [
        Found("local", "this machine"),
        Found("adb:1", "Pixel 6"),
        Found("ssh:closed"),
        Found("ssh:quiet", "asked when it is named", ask=False),
        Found("emulator:CPU", why_not="run: edgepress emulator setup"),
    ]
    monkeypatch.setattr(devices, "open_device", opened)
    monkeypatch.setattr(devices, "find_devices", lambda: found)
    monkeypatch.setattr(_Recorded, "cleaned", ())


def test_the_list_says_what_each_can_measure_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "local                    this machine",
        "  measures time, memory, clocks, temperature, energy",
        "adb:1                    Pixel 6",
        "  measures time, memory, clocks, temperature, energy",
        "ssh:closed",
        "  not reached: ssh:closed: it lets nobody in",
        "ssh:quiet                asked when it is named",
        "emulator:CPU",
        "  not reached: run: edgepress emulator setup",
    ]


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--json"]) == 0
    entries = {entry["device"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["local"]["abilities"] == dict.fromkeys(("time", "memory", "clocks", "temperature", "energy"))
    assert read_description(entries["adb:1"]["description"]).soc == "Google Tensor"
    assert entries["ssh:closed"]["why_not"] == "ssh:closed: it lets nobody in"
    assert entries["ssh:quiet"] == {
        **dict.fromkeys(("why_not", "description", "abilities")),
        **{"device": "ssh:quiet", "about": "asked when it is named"},
    }


def test_one_device_in_lines_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "adb:1", "--runner"]) == 0
    said = capsys.readouterr().out
    for words in (
        "4 × Cortex-A55, up to 1803 MHz, governor sched_pixel",
        "83 %, Charging",
        "BIG 42 °C",
        "iio s2mpg10-odpm",
    ):
        assert words in said
    assert "CPUExecutionProvider" in said
    assert cli.main(["devices", "adb:1", "local", "--json"]) == 0
    assert [entry["model"] for entry in json.loads(capsys.readouterr().out)] == [
        "Google Pixel 6",
        "Raspberry Pi 5 Model B Rev 1.0",
    ]


def test_clean_is_for_devices_that_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["devices", "--clean"]) == 2
    assert "--clean is for devices that are named" in capsys.readouterr().err
    assert cli.main(["devices", "--runner"]) == 2
    assert cli.main(["devices", "ssh:closed"]) == 2
    assert cli.main(["devices", "adb:1", "--clean"]) == 0
    assert _Recorded.cleaned == ("adb:1",)
