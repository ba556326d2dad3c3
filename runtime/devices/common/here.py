"""What only a process on the device can tell: called there by name."""

from pathlib import Path
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.calls.guest import describe


def runner(_arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """``versions`` of Python and its libraries, onnxruntime's ``providers``, and /proc/``cpuinfo``."""
    import onnxruntime

    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        cpuinfo = ""
    versions, _ = describe({}, {})
    return {"versions": versions, "providers": onnxruntime.get_available_providers(), "cpuinfo": cpuinfo}, {}
