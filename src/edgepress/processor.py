"""What the system says of the processor."""

import platform
from pathlib import Path


def cpu_info(root: Path = Path("/")) -> dict[str, str]:
    """The first value of each key in ``proc/cpuinfo``; cores of one system differ in little that matters here."""
    found: dict[str, str] = {}
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def cpu_name(info: dict[str, str] | None = None) -> str:
    """The processor's name as ``info``, by default this system's, or Python has it."""
    info = cpu_info() if info is None else info
    named = (info.get(key) for key in ("model name", "Model", "Hardware"))
    return next(filter(None, named), None) or platform.processor() or "unknown"
