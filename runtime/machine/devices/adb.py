"""Android phones and emulators by the system's own ``adb`` client, as its shell user, without root.

Files go by adb's sync protocol, programs run in ``/data/local/tmp``, the one place where the shell user may start some.
"""

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgepress.errors import EdgepressError
from edgepress.runtime.machine.devices.common.errors import (
    AccessDenied,
    ClientMissing,
    DeviceAsleep,
    DeviceUnreachable,
    DeviceUnusable,
    LinkLost,
    SeveralDevices,
)
from edgepress.runtime.machine.devices.common.link import ANSWER, Link
from edgepress.runtime.machine.devices.common.linked import Linked
from edgepress.runtime.machine.devices.common.protocol import Device, Found, Transport
from edgepress.runtime.machine.devices.describing.android import awake
from edgepress.runtime.machine.devices.describing.record import COMMANDS

_BASE = "/data/local/tmp/edgepress"
_MISSING = "there is no adb on this machine; install Android's platform tools (Debian: adb)"
_STATES = {
    "unauthorized": (AccessDenied, "it has not allowed this machine; unlock it and confirm its question"),
    "authorizing": (AccessDenied, "it is asking whether to allow this machine; unlock it and confirm its question"),
    "no permissions": (AccessDenied, "this user may not open its USB port; add a udev rule for it"),
    "offline": (DeviceUnreachable, "it is offline; plug it in again, or adb reconnect"),
    "connecting": (DeviceUnreachable, "it is still connecting; try again"),
    "recovery": (DeviceUnreachable, "it is in recovery; start Android"),
    "sideload": (DeviceUnreachable, "it is in recovery; start Android"),
    "bootloader": (DeviceUnreachable, "it is in its bootloader; start Android"),
}


def devices(text: str) -> dict[str, tuple[str, str]]:
    """State and model by serial number, of what ``adb devices -l`` prints."""
    found = {}
    for line in text.splitlines():
        entry = re.match(r"(\S+)\s+(no permissions|[a-z]+)\b(.*)", line)
        if entry and entry[2] in (*_STATES, "device"):
            model = re.search(r"\bmodel:(\S+)", entry[3])
            found[entry[1]] = (entry[2], model[1].replace("_", " ") if model else "")
    return found


def open_adb(address: str) -> Device:
    """Reach a device by its serial number; without one, the only device that there is."""
    client = shutil.which("adb")
    if client is None:
        raise ClientMissing(_MISSING)
    serial = _choose(address, _listed(client))
    command, name = [client, "-s", serial], f"adb:{serial}"

    def explain(errors: str) -> EdgepressError | None:
        return _explain(name, errors)

    def copy(*words: str | Path) -> str:
        done = _run([*command, *words], timeout=None)
        return "" if not done.returncode else (done.stderr or done.stdout).decode("utf-8", "replace") or "adb failed"

    link = Link(
        name,
        lambda script: [*command, "shell", script],
        explain,
        base=_BASE,
        send=lambda source, there: copy("push", source, there),
        fetch=lambda there, into: copy("pull", there, into),
    )

    def refuse_asleep() -> None:
        _, said, _ = link.try_to(COMMANDS["dumpsys_power"])
        if awake(said) is False:
            raise DeviceAsleep(
                f"{name} is asleep, which slows its processor down and stops it; wake it, and keep it awake while it "
                f"is plugged in: adb -s {serial} shell 'input keyevent WAKEUP; svc power stayon true'"
            )

    return Linked(link, before_call=refuse_asleep, close=lambda: None)


def _choose(address: str, listed: dict[str, tuple[str, str]]) -> str:
    """The serial number to use, of a device that lets itself be used."""
    attached = ", ".join(listed) or "none"
    if not address:
        if not listed:
            raise DeviceUnreachable("adb has no device; attach one, allow debugging on it, or adb connect HOST")
        if len(listed) > 1:
            raise SeveralDevices(f"adb has several devices; give one of them, as adb:SERIAL: {attached}")
        [address] = listed
    if address not in listed:
        raise DeviceUnreachable(f"adb has no device {address}; attached: {attached}")
    state, _ = listed[address]
    if state in _STATES:
        kind, remedy = _STATES[state]
        raise kind(f"adb:{address}: {remedy}")
    return address


def _listed(client: str) -> dict[str, tuple[str, str]]:
    """What is attached; starts adb's server where none runs, as every adb command does."""
    done = _run([client, "devices", "-l"], timeout=ANSWER)
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()[-3:])
        raise DeviceUnusable(f"adb devices failed: {said}; try: adb kill-server")
    return devices(done.stdout.decode("utf-8", "replace"))


def _run(command: Sequence[str | Path], timeout: float | None) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceUnusable(f"adb did not answer within {timeout:g} s; try: adb kill-server") from error


def _explain(name: str, errors: str) -> EdgepressError | None:
    """What adb's own words mean."""
    found = re.search(r"^(?:adb: )?(?:error: )?(.*device unauthorized.*)$", errors, re.MULTILINE)
    if found:
        return AccessDenied(f"{name}: {_STATES['unauthorized'][1]}")
    found = re.search(
        r"device '.*' not found|device offline|no devices/emulators found|device still connecting|closed$"
        r"|protocol fault|connect failed|failed to read copy response|couldn't read from device",
        errors,
        re.MULTILINE,
    )
    if found:
        return LinkLost(f"the link to {name} broke ({found[0].strip()}); run it again, what is done is kept")
    return None


def _find() -> list[Found]:
    client = shutil.which("adb")
    if client is None:
        return [Found("adb:SERIAL", why_not=_MISSING)]
    try:
        listed = _listed(client)
    except DeviceUnusable as error:
        return [Found("adb:SERIAL", why_not=str(error))]
    found = [
        Found(f"adb:{serial}", model, _STATES[state][1] if state in _STATES else "")
        for serial, (state, model) in listed.items()
    ]
    return found or [Found("adb:SERIAL", why_not="no device is attached, or none allows debugging")]


TRANSPORT = Transport("adb", "adb:SERIAL", "an Android device, by adb", open_adb, _find)
