"""A device as data, and what can be measured on it."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgepress.errors import InputError

VERSION = 1  # of the JSON form: fields are added without a new number, never renamed


@dataclass(frozen=True)
class Cluster:
    """Cores that are alike: of one design, with one range of clocks.

    ``cores`` are their numbers; ``name`` the design, such as Cortex-A76; ``capacity`` the kernel's figure of what a
    core can do, 1024 for the strongest. Clocks are in MHz: the hardware's range, the highest that is allowed now, and
    each core's as it was read. None where the device does not tell.
    """

    cores: tuple[int, ...]
    name: str | None = None
    governor: str | None = None
    min_mhz: float | None = None
    max_mhz: float | None = None
    allowed_mhz: float | None = None
    mhz: tuple[float, ...] = ()
    capacity: int | None = None


@dataclass(frozen=True)
class ThermalZone:
    """A temperature in °C, and those at which the system throttles (``passive`` trips), lowest first."""

    name: str
    celsius: float | None = None
    throttles_at: tuple[float, ...] = ()


@dataclass(frozen=True)
class Battery:
    """A battery as the system tells it; ``current`` is the raw number, whose unit and sign vendors disagree about."""

    name: str
    level_percent: float | None = None
    status: str | None = None
    celsius: float | None = None
    volts: float | None = None
    current: int | None = None
    charge_counter_uah: int | None = None

    @property
    def charging(self) -> bool | None:
        """Whether energy flows in, which makes its gauge useless for what a program draws; None when unknown."""
        return None if self.status is None else self.status.lower() in ("charging", "full")


@dataclass(frozen=True)
class Counter:
    """A counter of power or energy that is there; whether it can be read, and is fine enough, its source says.

    ``kind`` is the kernel's interface: powercap, hwmon, iio or power_supply. ``name`` is the chip or the zone, ``path``
    its directory.
    """

    kind: str
    name: str
    path: str


@dataclass(frozen=True)
class Description:
    """A device. None, or nothing, where it does not tell; ``notes`` say what could not be found out, and why.

    ``device`` is the name that it is reached by, such as ``ssh:board``. What only a runner there tells is empty before
    one has been there: onnxruntime's execution ``providers``, ``versions`` of Python and its libraries, and for each
    source of ``energy`` why it cannot be opened ("" where it can).
    """

    device: str
    architecture: str
    model: str | None = None
    soc: str | None = None
    os: str | None = None
    kernel: str | None = None
    clusters: tuple[Cluster, ...] = ()
    features: tuple[str, ...] = ()
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    page_bytes: int | None = None
    storage_free_bytes: int | None = None
    thermal_zones: tuple[ThermalZone, ...] = ()
    batteries: tuple[Battery, ...] = ()
    counters: tuple[Counter, ...] = ()
    providers: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    energy: dict[str, str] = field(default_factory=dict)
    awake: bool | None = None
    emulated: bool = False
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, with the version of their form."""
        content: dict[str, Any] = msgspec.to_builtins(self)
        return {"version": VERSION, **content}

    def fast_cores(self) -> tuple[int, ...]:
        """The cores of the strongest design: by capacity, else by clock; all of them where neither is told."""
        strengths = [cluster.capacity or cluster.max_mhz or 0 for cluster in self.clusters]
        return tuple(
            core
            for cluster, strength in zip(self.clusters, strengths, strict=True)
            if strength == max(strengths)
            for core in cluster.cores
        )


def read_description(content: dict[str, Any]) -> Description:
    """The description that :meth:`Description.to_json` wrote.

    Raises:
        InputError: it is none, or of a version that is not known here.

    """
    if content.get("version") != VERSION:
        raise InputError(
            f"a description of a device of version {content.get('version')!r} cannot be read, {VERSION} can; "
            "describe the device again"
        )
    try:
        return msgspec.convert({key: value for key, value in content.items() if key != "version"}, Description)
    except msgspec.ValidationError as error:
        raise InputError(f"this is no description of a device: {error}; describe the device again") from error


@dataclass(frozen=True)
class Ability:
    """Something to measure, and why it cannot be on this device; "" where it can."""

    name: str
    why_not: str = ""


def abilities(description: Description) -> tuple[Ability, ...]:
    """What can be measured on a device, and why not."""
    emulated = "its processor is emulated" if description.emulated else ""
    clocks = any(cluster.mhz for cluster in description.clusters)
    warm = any(zone.celsius is not None for zone in description.thermal_zones)
    return (
        Ability("time", emulated),
        Ability("memory"),
        Ability("clocks", emulated or ("" if clocks else "its clocks are not told (no cpufreq)")),
        Ability("temperature", emulated or ("" if warm else "no thermal zone is there")),
        Ability("energy", emulated or _why_no_energy(description)),
    )


def _why_no_energy(description: Description) -> str:
    """What a runner found out there; before one has been there, what the files say."""
    if description.energy:
        return "" if "" in description.energy.values() else "no source can be opened there"
    gauges = [battery for battery in description.batteries if battery.current is not None]
    if any(counter.kind != "power_supply" for counter in description.counters):
        return ""
    if gauges and any(battery.charging for battery in gauges):
        return "the battery is charging, and there is no other counter"
    return "" if gauges else "no counter is there (powercap, hwmon, iio, battery gauge)"
