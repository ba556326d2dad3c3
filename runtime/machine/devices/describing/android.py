"""What Android adds to its kernel's files: system properties, and what services say of battery and screen.

Formats: ``getprop`` (toybox: ``[name]: [value]`` a line, values may have several lines), ``dumpsys battery``
(BatteryService.java) and ``dumpsys power`` (PowerManagerService.java).
"""

import re
from collections.abc import Mapping

from edgepress.runtime.machine.devices.describing.description import Battery

_STATUS = {1: "Unknown", 2: "Charging", 3: "Discharging", 4: "Not charging", 5: "Full"}  # BatteryManager.java


def properties(text: str) -> dict[str, str]:
    """Names and values of what ``getprop`` printed."""
    found = re.findall(r"^\[([^\]\n]+)\]: \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def model(values: Mapping[str, str]) -> str | None:
    """Such as ``Google Pixel 9``: the maker once, also where the model's name begins with it."""
    maker, name = (values.get(f"ro.product.{key}", "").strip() for key in ("manufacturer", "model"))
    if not name:
        return None
    return name if not maker or name.lower().startswith(maker.lower()) else f"{maker} {name}"


def soc(values: Mapping[str, str]) -> str | None:
    """Such as ``Qualcomm SM8650``; before Android 12 only the platform's name."""
    named = " ".join(values.get(f"ro.soc.{key}", "").strip() for key in ("manufacturer", "model")).strip()
    return named or values.get("ro.board.platform", "").strip() or None


def os_name(values: Mapping[str, str]) -> str | None:
    """Such as ``Android 15 (API 35)``."""
    release, level = (values.get(f"ro.build.version.{key}", "").strip() for key in ("release", "sdk"))
    if not release:
        return None
    return f"Android {release} (API {level})" if level else f"Android {release}"


def batteries(text: str) -> tuple[Battery, ...]:
    """The battery of ``dumpsys battery``: mV, tenths of °C, µAh; where the shell may not read /sys."""
    values = {name: int(value) for name, value in re.findall(r"^  ([\w ]+): (-?\d{1,12})$", text, re.MULTILINE)}
    if "level" not in values or re.search(r"^  present: false$", text, re.MULTILINE):
        return ()
    scale = values.get("scale", 100) or 100
    millivolts, tenths = values.get("voltage"), values.get("temperature")
    status = _STATUS.get(values.get("status", 1), "Unknown")
    return (
        Battery(
            name="battery",
            level_percent=100 * values["level"] / scale,
            status=status,
            celsius=None if tenths is None else tenths / 10,
            volts=None if millivolts is None else millivolts / 1000,
            charge_counter_uah=values.get("Charge counter"),
        ),
    )


def awake(text: str) -> bool | None:
    """Whether the device is awake: asleep, its processor is slowed down and stopped. None where it does not tell."""
    found = re.search(r"mWakefulness(?:=|: ?)(\w+)", text)
    return None if found is None else found[1] == "Awake"
