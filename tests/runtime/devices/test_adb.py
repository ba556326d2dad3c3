"""A phone by adb: Debian's own client and server, a daemon of ours that speaks their protocol, an arm64 machine.

No phone was at hand: what one says was put together from AOSP's sources.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.adb_phone import V1, Adb, AdbPhone
from lab.device_functions import double, end, look

from edgepress.calls import Call
from edgepress.calls.host import RunnerKilled
from edgepress.errors import InputError
from edgepress.runtime.machine.devices import find_devices, open_device
from edgepress.runtime.machine.devices.adb import devices
from edgepress.runtime.machine.devices.common import store
from edgepress.runtime.machine.devices.common.errors import (
    AccessDenied,
    ClientMissing,
    DeviceAsleep,
    DeviceFull,
    DeviceInUse,
    DeviceReadOnly,
    DeviceUnreachable,
    LinkLost,
    SeveralDevices,
)
from edgepress.runtime.machine.devices.common.linked import Linked
from edgepress.runtime.machine.devices.common.runner import _probe
from edgepress.targets.emulator import Installation
from edgepress.targets.emulator.roots import find_root


def test_a_phone_is_described_and_nothing_is_written(phone: AdbPhone) -> None:
    listed = [found for found in find_devices() if found.name == f"adb:{phone.serial}"]
    assert [(found.about, found.why_not) for found in listed] == [("Pixel 6", "")]
    with open_device("adb") as device:  # the only one
        found = device.describe()
    assert found.device == f"adb:{phone.serial}"
    assert (found.model, found.soc, found.os) == ("Google Pixel 6", "Google Tensor", "Android 14 (API 34)")
    assert [(cluster.name, len(cluster.cores)) for cluster in found.clusters] == [
        ("Cortex-A55", 4),
        ("Cortex-A76", 2),
        ("Cortex-X1", 2),
    ]
    assert (found.page_bytes, found.awake) == (4096, True)
    assert [battery.level_percent for battery in found.batteries] == [83]
    assert {path.name for path in (phone.root / "data/local/tmp").iterdir()} <= {"edgepress"}  # the fixture's
    assert {path.name for path in phone.home.glob("*")} <= {"unpacked", "edgepress-device"}


def test_functions_run_on_a_phone(phone: AdbPhone, tmp_path: Path) -> None:
    """Pushed by sync:, called by our own loader in the shell's one folder, pulled by sync:."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "it's").write_text("pushed")
    array = np.arange(100_000, dtype=np.float32)
    heard: list[dict[str, Any]] = []
    with open_device(f"adb:{phone.serial}") as device:
        there, scratch = device.push(bundle), device.scratch()
        assert there.startswith("/data/local/tmp/edgepress/trees/bundle-")
        seen, doubled = device.call(
            [Call(look, {"pushed": there, "scratch": scratch}), Call(double, {"x": 2}, {"a": array})],
            report=heard.append,
        )
        device.pull(f"{scratch}/left", tmp_path / "left")
    assert (seen[0]["machine"], seen[0]["found"]) == ("aarch64", {"it's": "pushed"})
    assert "LD_PRELOAD" not in seen[0]["environment"]  # which that phone's shell has
    np.testing.assert_array_equal(doubled[1]["a"], 2 * array)
    assert heard == [{"half": 2}]
    assert (tmp_path / "left").read_bytes() == b"\0left\n" * 1000
    assert not list((phone.home / "scratch").iterdir())
    assert not list((phone.home / "jobs").iterdir())


def test_a_tiny_program_is_tried_first(phone: AdbPhone) -> None:
    """Glibc, run as a program by its own loader; and nothing of it stays."""
    brought = find_root("aarch64")
    assert brought is not None
    with open_device(f"adb:{phone.serial}") as device:
        assert isinstance(device, Linked)
        device.scratch()
        _probe(device._link, brought)
    assert not (phone.home / "probe").exists()


def test_a_broken_link(phone: AdbPhone) -> None:
    """What was done is kept, and nobody works on there."""
    pids: list[int] = []

    def heard(value: dict[str, Any]) -> None:
        if "pid" in value:
            pids.append(value["pid"])
            phone.change("drop")

    with open_device(f"adb:{phone.serial}") as device:
        calls = [Call(double, {"x": 1}), Call(end, {"signal": 0})]
        with pytest.raises(LinkLost, match=r"the link to adb:.* broke") as caught:
            device.call(calls, report=heard)
    assert caught.value.answers == [({"x": 2}, {})]
    for _ in range(100):
        if not Path(f"/proc/{pids[0]}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_a_runner_killed_for_memory(phone: AdbPhone, adb: Adb) -> None:
    adb.connect(phone)
    with open_device(f"adb:{phone.serial}") as device, pytest.raises(RunnerKilled, match="out of memory") as caught:
        device.call([Call(double, {"x": 1}), Call(end, {"signal": signal.SIGKILL})])
    assert caught.value.answers == [({"x": 2}, {})]


def test_a_phone_that_sleeps(phone: AdbPhone) -> None:
    phone.answer("dumpsys", "  mWakefulness=Asleep")
    try:
        with open_device(f"adb:{phone.serial}") as device, pytest.raises(DeviceAsleep, match="svc power stayon"):
            device.call([Call(double, {"x": 1})])
    finally:
        phone.answer("dumpsys", "  mWakefulness=Awake")


def test_a_full_phone(phone: AdbPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large").write_bytes(bytes(30 << 20))
    phone.change("full")
    try:
        with open_device(f"adb:{phone.serial}") as device:
            with pytest.raises(DeviceFull, match=r"20 MiB free at /data/local/tmp/edgepress, 46 are needed"):
                device.push(tmp_path)
            monkeypatch.setattr(store, "check_space", lambda *_words: None)
            with pytest.raises(DeviceFull, match="No space left on device"):
                device.push(tmp_path)
            monkeypatch.undo()
    finally:
        phone.change("restore")


def test_a_read_only_phone(phone: AdbPhone, tmp_path: Path) -> None:
    phone.change("readonly")
    try:
        with open_device(f"adb:{phone.serial}") as device, pytest.raises(DeviceReadOnly, match="make it writable"):
            device.push(tmp_path)
    finally:
        phone.change("restore")


def test_two_clients_of_a_phone(phone: AdbPhone) -> None:
    with open_device(f"adb:{phone.serial}") as first, open_device(f"adb:{phone.serial}") as second:
        assert first.scratch()
        with pytest.raises(DeviceInUse, match=rf"in use by .*:{os.getpid()}, for \d+ s"):
            second.scratch()
    with open_device(f"adb:{phone.serial}") as third:
        assert third.scratch()


def test_phones_of_other_kinds(phone: AdbPhone, adb: Adb, lab: Path, emulator: Installation, tmp_path: Path) -> None:
    """One that has not allowed this machine, and one of the first version of sync:; with several a name is needed."""
    others = []
    try:
        for features in ("unauthorized", V1):
            folder = tmp_path / features
            folder.mkdir()
            others.append(AdbPhone(folder, lab, emulator.qemu, features))
            adb.connect(others[-1])
        closed, old = others
        with pytest.raises(AccessDenied, match="unlock it and confirm its question"):
            open_device(f"adb:{closed.serial}")
        with pytest.raises(SeveralDevices, match=phone.serial):
            open_device("adb")
        with open_device(f"adb:{old.serial}") as device:
            (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
            there = device.push(tmp_path / "file")
            device.pull(there, tmp_path / "back")
            assert (tmp_path / "back").read_bytes() == (tmp_path / "file").read_bytes()
            device.clean()
        assert not old.home.exists()
    finally:
        for other in others:
            adb.disconnect(other)
            other.end()


def test_no_phone_and_no_adb(adb: Adb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del adb
    with pytest.raises(DeviceUnreachable, match="adb has no device; attach one"):
        open_device("adb")
    with pytest.raises(DeviceUnreachable, match="adb has no device 1234; attached: none"):
        open_device("adb:1234")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClientMissing, match="platform tools"):
        open_device("adb:1234")


def test_what_adb_lists() -> None:
    text = """List of devices attached
1A2B3C         device usb:1-1 product:oriole model:Pixel_6 device:oriole transport_id:1
emulator-5554  offline transport_id:2
0123456789     unauthorized usb:1-2 transport_id:3
9876           no permissions (missing udev rules? user is in the plugdev group); see [http://developer.android.com/]

"""
    assert devices(text) == {
        "1A2B3C": ("device", "Pixel 6"),
        "emulator-5554": ("offline", ""),
        "0123456789": ("unauthorized", ""),
        "9876": ("no permissions", ""),
    }


@given(st.text())
def test_adb_may_list_anything(text: str) -> None:
    assert all(serial and not set(serial) & set(" \t\n") for serial in devices(text))


def test_an_unknown_state_is_no_device() -> None:
    assert devices("* daemon not running; starting now at tcp:5037\n* daemon started successfully\n") == {}
    assert issubclass(SeveralDevices, InputError)
