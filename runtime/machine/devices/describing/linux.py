"""A record understood: what the Linux kernel's files say, the same on a board, a server and a phone.

Formats: Documentation/admin-guide/pm/cpufreq.rst, Documentation/ABI/testing/sysfs-class-{thermal,power},
Documentation/arch/arm64/cpu-feature-registers.rst and proc(5).
"""

import re
from collections import defaultdict

from edgepress.runtime.machine.devices.describing import android
from edgepress.runtime.machine.devices.describing.description import Battery, Cluster, Counter, Description, ThermalZone
from edgepress.runtime.machine.devices.describing.designs import design
from edgepress.runtime.machine.devices.describing.record import Record

_CPU = "sys/devices/system/cpu"
_LARGEST_CORE = 4096  # Linux's own limit (NR_CPUS)
_COUNTERS = (  # kind, and where the name of one is
    ("powercap", r"(sys/class/powercap/[^/]+)/name"),
    ("hwmon", r"(sys/class/hwmon/[^/]+)/name"),
    ("iio", r"(sys/bus/iio/devices/[^/]+)/name"),
    ("power_supply", r"(sys/class/power_supply/([^/]+))/current_now"),
)
_POWER_CHIPS = re.compile(r"^(ina\d{3}\w*|ina3221\w*|acpi_power_meter|power_meter|amd_energy|ltc\d{4}|isl\d+)$")
_POWER_RAILS = re.compile(r"odpm|s2mpg|power", re.IGNORECASE)  # names of Android's on-device power monitors


def describe(device: str, record: Record, *, emulated: bool = False) -> Description:
    """Understand a record; what is not in it is None, and what cannot be understood is left out with a note."""
    system, release, machine = (*record.get("commands/uname", "").split("\n"), "", "", "")[:3]
    properties = android.properties(record.get("commands/getprop", ""))
    memory = _meminfo(record)
    batteries = batteries_of(record)
    notes = [] if record else ["nothing could be read: there is no shell, or no /proc and /sys"]
    if any(name.startswith(f"{_CPU}/") and name.endswith("midr_el1") for name in record):
        unknown = {midr for midr in _midrs(record).values() if design(midr) is None}
        notes += [f"the design of MIDR {midr:#x} is not in the table" for midr in sorted(unknown)]
    return Description(
        device=device,
        architecture=machine.strip() or "unknown",
        model=android.model(properties) or _model(record),
        soc=android.soc(properties) or _soc(record),
        os=android.os_name(properties) or _os_name(record),
        kernel=f"{system} {release}".strip() or None,
        clusters=clusters_of(record),
        features=_features(record),
        memory_bytes=memory.get("MemTotal"),
        memory_available_bytes=memory.get("MemAvailable"),
        page_bytes=_page_bytes(record.get("commands/page_size", "")),
        storage_free_bytes=_free(record.get("commands/df", "")),
        thermal_zones=zones_of(record),
        batteries=batteries or android.batteries(record.get("commands/dumpsys_battery", "")),
        counters=_counters(record),
        awake=android.awake(record.get("commands/dumpsys_power", "")),
        emulated=emulated,
        notes=tuple(notes),
    )


def core_list(text: str) -> tuple[int, ...]:
    """The numbers of a list such as ``0-3,6``, as the kernel writes them; none of what is no such list."""
    cores: set[int] = set()
    for part in text.strip().split(","):
        found = re.fullmatch(r"\s*(\d{1,4})(?:-(\d{1,4}))?\s*", part)
        if found is None:
            return ()
        first, last = int(found[1]), int(found[2] or found[1])
        if last >= _LARGEST_CORE:
            return ()
        cores.update(range(first, last + 1))
    return tuple(sorted(cores))


def clusters_of(record: Record) -> tuple[Cluster, ...]:
    """Cores grouped by design, clocks, capacity and governor; in the order of their lowest numbers."""
    midrs = _midrs(record)
    cores = core_list(record.get(f"{_CPU}/online") or record.get(f"{_CPU}/present", "")) or tuple(sorted(midrs))
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for core in cores:
        alike[_kind_of(record, core, midrs)].append(core)
    return tuple(_cluster(record, group, midrs) for group in alike.values())


def _kind_of(record: Record, core: int, midrs: dict[int, int]) -> tuple[object, ...]:
    """What makes cores alike."""
    frequency = f"{_CPU}/cpu{core}/cpufreq"
    names = ("scaling_governor", "cpuinfo_min_freq", "cpuinfo_max_freq", "scaling_max_freq")
    values = (record.get(f"{frequency}/{name}") for name in names)
    # Revisions of one design differ in the low bits.
    return (midrs.get(core, 0) & 0xFF00FFF0, record.get(f"{_CPU}/cpu{core}/cpu_capacity"), *values)


def _cluster(record: Record, cores: list[int], midrs: dict[int, int]) -> Cluster:
    first = f"{_CPU}/cpu{cores[0]}"
    clocks = [_mhz(record, f"{_CPU}/cpu{core}/cpufreq/scaling_cur_freq") for core in cores]
    midr = midrs.get(cores[0])
    return Cluster(
        cores=tuple(cores),
        name=(None if midr is None else design(midr)) or _cpuinfo(record).get("model name"),
        governor=record.get(f"{first}/cpufreq/scaling_governor"),
        min_mhz=_mhz(record, f"{first}/cpufreq/cpuinfo_min_freq"),
        max_mhz=_mhz(record, f"{first}/cpufreq/cpuinfo_max_freq"),
        allowed_mhz=_mhz(record, f"{first}/cpufreq/scaling_max_freq"),
        mhz=tuple(clock for clock in clocks if clock is not None),
        capacity=_integer(record.get(f"{first}/cpu_capacity")),
    )


def _midrs(record: Record) -> dict[int, int]:
    """The identification register of each core: from /sys, else put together from /proc/cpuinfo."""
    found: dict[int, int] = {}
    for name, text in record.items():
        path = re.fullmatch(rf"{_CPU}/cpu(\d{{1,4}})/regs/identification/midr_el1", name)
        value = re.fullmatch(r"0x([0-9a-fA-F]{1,16})", text.strip())
        if path and value:
            found[int(path[1])] = int(value[1], 16)
    if found:
        return found
    for block in re.split(r"\n\s*\n", record.get("proc/cpuinfo", "")):
        fields = _fields(block)
        core = _integer(fields.get("processor"))
        implementer, part = (_hexadecimal(fields.get(key)) for key in ("CPU implementer", "CPU part"))
        if core is not None and 0 <= core < _LARGEST_CORE and implementer is not None and part is not None:
            found[core] = (implementer & 0xFF) << 24 | (part & 0xFFF) << 4
    return found


def zones_of(record: Record) -> tuple[ThermalZone, ...]:
    """Temperatures in °C (the kernel tells thousandths), with the ``passive`` trips, at which clocks go down."""
    zones = []
    folders = {name.rpartition("/")[0] for name in record if name.startswith("sys/class/thermal/thermal_zone")}
    for folder in sorted(folders, key=_by_number):
        trips = [
            _thousandths(record.get(name.removesuffix("_type") + "_temp"))
            for name, text in record.items()
            if name.startswith(f"{folder}/trip_point_") and name.endswith("_type") and text.strip() == "passive"
        ]
        known = sorted(trip for trip in trips if trip is not None)
        name = record.get(f"{folder}/type") or folder.rpartition("/")[2]
        zones.append(ThermalZone(name.strip(), _thousandths(record.get(f"{folder}/temp")), tuple(known)))
    return tuple(zones)


def batteries_of(record: Record) -> tuple[Battery, ...]:
    """What is of type Battery in the class of power supplies: µV, tenths of °C, µAh (the current as it is told)."""
    found = []
    for name, text in sorted(record.items()):
        place = re.fullmatch(r"(sys/class/power_supply/([^/]+))/type", name)
        if place is None or text.strip() != "Battery":
            continue
        value = {key: _integer(record.get(f"{place[1]}/{key}")) for key in _BATTERY}
        tenths, microvolts = value["temp"], value["voltage_now"]
        found.append(
            Battery(
                name=place[2],
                level_percent=value["capacity"],
                status=record.get(f"{place[1]}/status"),
                celsius=None if tenths is None else tenths / 10,
                volts=None if microvolts is None else microvolts / 1e6,
                current=value["current_now"],
                charge_counter_uah=value["charge_counter"],
            )
        )
    return tuple(found)


_BATTERY = ("capacity", "temp", "voltage_now", "current_now", "charge_counter")


def _counters(record: Record) -> tuple[Counter, ...]:
    """Counters of power or energy: of hwmon and iio only the chips that are such."""
    found = []
    for kind, pattern in _COUNTERS:
        for path, text in sorted(record.items()):
            place = re.fullmatch(pattern, path)
            if place is None:
                continue
            name = place[2] if kind == "power_supply" else text.strip()
            if (kind == "hwmon" and not _POWER_CHIPS.match(name)) or (kind == "iio" and not _POWER_RAILS.search(name)):
                continue
            found.append(Counter(kind, name, f"/{place[1]}"))
    return tuple(found)


def _meminfo(record: Record) -> dict[str, int]:
    """Bytes by name; the kernel's kB are of 1024 bytes."""
    found = re.findall(r"^(\w+):\s+(\d{1,15}) kB$", record.get("proc/meminfo", ""), re.MULTILINE)
    return {name: int(count) * 1024 for name, count in found}


def _page_bytes(text: str) -> int | None:
    """Of what ``getconf`` prints, bytes, or a line of ``smaps``, in kB of 1024 bytes."""
    found = re.fullmatch(r"KernelPageSize:\s+(\d{1,9}) kB", text.strip())
    return int(found[1]) * 1024 if found else _integer(text)


def _free(text: str) -> int | None:
    """Bytes that are free, of what ``df -k`` printed; long names of file systems have a line of their own."""
    words = " ".join(text.strip().splitlines()[1:]).split()
    numbers = [int(word) for word in words if re.fullmatch(r"\d{1,15}", word)]
    return numbers[2] * 1024 if len(numbers) >= 3 else None


def _cpuinfo(record: Record) -> dict[str, str]:
    return _fields(record.get("proc/cpuinfo", ""))


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def _features(record: Record) -> tuple[str, ...]:
    fields = _cpuinfo(record)
    return tuple(sorted(set((fields.get("Features") or fields.get("flags") or "").split())))


def _model(record: Record) -> str | None:
    names = ("sys/firmware/devicetree/base/model", "sys/devices/virtual/dmi/id/product_name")
    return next((record[name].strip() for name in names if record.get(name, "").strip()), None)


def _soc(record: Record) -> str | None:
    compatible = record.get("sys/firmware/devicetree/base/compatible", "").split()
    family = " ".join(record.get(f"sys/devices/soc0/{name}", "").strip() for name in ("family", "machine")).strip()
    return family or (compatible[-1] if compatible else None)


def _os_name(record: Record) -> str | None:
    found = re.search(r"^PRETTY_NAME=[\"']?(.*?)[\"']?$", record.get("etc/os-release", ""), re.MULTILINE)
    return found[1] if found else None


def _integer(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\s*-?\d{1,18}\s*", text) else None


def _hexadecimal(text: str | None) -> int | None:
    return int(text, 16) if text is not None and re.fullmatch(r"0x[0-9a-fA-F]{1,8}", text) else None


def _thousandths(text: str | None) -> float | None:
    value = _integer(text)
    return None if value is None else value / 1000


def _mhz(record: Record, name: str) -> float | None:
    return _thousandths(record.get(name))  # the kernel tells kHz


def _by_number(folder: str) -> tuple[int, str]:
    found = re.search(r"(\d{1,9})$", folder)
    return (int(found[1]) if found else -1, folder)
