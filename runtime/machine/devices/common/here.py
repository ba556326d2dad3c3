"""What only a process on the device can tell: called there by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.calls.guest import describe
from edgepress.runtime.machine.devices.describing.description import Description
from edgepress.runtime.machine.energy import open_meters


def runner(_arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """``versions`` of Python and its libraries, onnxruntime's ``providers``, ``energy`` sources, /proc/``cpuinfo``."""
    import onnxruntime

    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    versions, _ = describe({}, {})
    providers = onnxruntime.get_available_providers()
    return {"versions": versions, "providers": providers, "energy": energy(), "cpuinfo": cpuinfo}, {}


def energy() -> dict[str, str]:
    """Each energy source, and why it cannot be opened on the machine that this runs on; "" where it can."""
    opened, reasons = open_meters()
    for _, meter in opened:
        meter.close()
    return {source.name: "" for source, _ in opened} | reasons


def with_runner(description: Description, told: dict[str, Any]) -> Description:
    """A description with what :func:`runner` told on that device."""
    return replace(description, versions=told["versions"], providers=tuple(told["providers"]), energy=told["energy"])
