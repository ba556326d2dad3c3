"""What is read of a device: small files and the output of a few commands, as text.

A record is a mapping from names to text: files by their path without the first slash (``proc/meminfo``), commands as
``commands/getprop``. A folder laid out alike is a recorded device. One script for ``sh`` reads it, on this machine and
over any link: of a POSIX shell it uses what Android's has, too.
"""

from collections.abc import Mapping
from pathlib import Path

Record = Mapping[str, str]

_CPU, _SYS = "sys/devices/system/cpu", "sys/class"
FILES = (
    *("proc/cpuinfo", "proc/meminfo", "proc/version", "proc/loadavg", "etc/os-release"),
    *("sys/firmware/devicetree/base/model", "sys/firmware/devicetree/base/compatible"),
    *("sys/devices/virtual/dmi/id/product_name", "sys/devices/soc0/machine", "sys/devices/soc0/family"),
    *(f"{_CPU}/{name}" for name in ("present", "online")),
    *(
        f"{_CPU}/cpu[0-9]*/cpufreq/{name}"
        for name in (
            *("scaling_governor", "cpuinfo_min_freq", "cpuinfo_max_freq", "scaling_max_freq", "scaling_cur_freq"),
        )
    ),
    f"{_CPU}/cpu[0-9]*/cpu_capacity",
    f"{_CPU}/cpu[0-9]*/regs/identification/midr_el1",
    *(
        f"{_SYS}/thermal/thermal_zone*/{name}"
        for name in ("type", "temp", "trip_point_*_type", "trip_point_*_temp")
    ),
    *(
        f"{_SYS}/power_supply/*/{name}"
        for name in ("type", "status", "capacity", "current_now", "voltage_now", "temp", "charge_counter")
    ),
    *(f"{_SYS}/{name}" for name in ("powercap/*/name", "hwmon/hwmon*/name")),
    "sys/bus/iio/devices/iio:device*/name",
)  # fmt: skip
COMMANDS = {
    "uname": "uname -s; uname -r; uname -m",
    "page_size": "getconf PAGESIZE || grep -m 1 KernelPageSize /proc/self/smaps",
    "getprop": "getprop",
    "dumpsys_battery": "dumpsys battery",
    "dumpsys_power": "dumpsys power | grep -E 'mWakefulness=|mWakefulness:'",
}
_MARK = "\x1e"  # ASCII's record separator: before the name of what follows


def script(folder: str | None = None) -> str:
    """The shell script that reads all of it; ``folder``, quoted for the shell, is where free space is asked for."""
    files = " ".join(f"/{name}" for name in FILES)
    read = 'while IFS= read -r line || [ -n "$line" ]; do echo "$line"; done < "$file"'
    lines = [
        # Files of /sys without a process for each; those of /proc and /etc have many lines, those of firmware NULs.
        f'for file in {files}; do [ -r "$file" ] && [ ! -d "$file" ] || continue; echo "{_MARK}$file"; '
        f'case "$file" in /sys/firmware/*) cat "$file"; echo;; /sys/*) {read};; *) cat "$file"; echo;; esac; done'
    ]
    for name, command in COMMANDS.items():
        lines.append(f'echo "{_MARK}/commands/{name}"; {command}')
    if folder is not None:
        lines.append(f'echo "{_MARK}/commands/df"; df -k {folder}')
    return "{ " + "\n".join(lines) + "\n} 2>/dev/null; true"


def parse(output: str) -> dict[str, str]:
    """The record that a run of :func:`script` printed."""
    record = {}
    for part in output.replace("\0", " ").split(_MARK)[1:]:
        name, _, text = part.partition("\n")
        if text.strip():
            record[name.strip().lstrip("/")] = text.strip("\n")
    return record


def read_folder(folder: Path) -> dict[str, str]:
    """The record of a device that was recorded as a folder of text, or of a root file system."""
    commands = [f"commands/{name}" for name in (*COMMANDS, "df")]
    found: dict[str, str] = {}
    for pattern in (*FILES, *commands):
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip("\n")
                found[path.relative_to(folder).as_posix()] = text
    return {name: text for name, text in found.items() if text.strip()}
