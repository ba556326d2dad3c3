"""``edgepress devices``: what can be reached, what each can measure, and why not."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepress.runtime.machine.devices import Description

NAME = "devices"
HELP = "list the devices that can be reached and what each can measure, or describe those that are named"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="local, ssh:HOST, adb:SERIAL or emulator:CPU (default: list them)"
    )
    parser.add_argument(
        "--runner", action="store_true", help="start a runner there, which tells versions and execution providers"
    )
    parser.add_argument("--clean", action="store_true", help="remove what edgepress has left on devices that are named")
    parser.add_argument("--json", action="store_true", help="print everything that is known as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Clean, describe or list."""
    import json

    from edgepress.errors import InputError
    from edgepress.runtime.machine.devices import open_device

    if not arguments.names:
        if arguments.clean or arguments.runner:
            option = "--clean" if arguments.clean else "--runner"
            raise InputError(f"{option} is for devices that are named; add one, such as local or ssh:HOST")
        return _list(arguments.json)
    described = []
    for name in arguments.names:
        with open_device(name) as device:
            if arguments.clean:
                device.clean()
                print(f"{name}: nothing of edgepress is left there")
            else:
                described.append(device.describe(runner=arguments.runner))
    if arguments.json and not arguments.clean:
        print(json.dumps([description.to_json() for description in described], indent=2))
    elif described:
        print("\n\n".join(_details(description) for description in described))
    return 0


def _list(as_json: bool) -> int:
    """All that transports know of, with what each can measure."""
    import json

    from edgepress.errors import EdgepressError
    from edgepress.runtime.machine.devices import find_devices, open_device

    entries, lines = [], []
    for found in find_devices():
        description, why_not = None, found.why_not
        if found.ask and not why_not:
            try:
                with open_device(found.name) as device:
                    description = device.describe()
            except EdgepressError as error:
                why_not = str(error)
        entries.append(
            {
                "device": found.name,
                "about": found.about,
                "why_not": why_not or None,
                "description": description and description.to_json(),
                "abilities": description and _abilities(description),
            }
        )
        lines.append(f"{found.name:24} {found.about}".rstrip())
        if why_not:
            lines.append(f"  not reached: {why_not}")
        elif description is not None:
            lines += [f"  {line}" for line in _ability_lines(description)]
    print(json.dumps(entries, indent=2) if as_json else "\n".join(lines))
    return 0


def _abilities(description: "Description") -> dict[str, str | None]:
    """Why each thing cannot be measured; None where it can."""
    from edgepress.runtime.machine.devices.describing.description import abilities

    return {ability.name: ability.why_not or None for ability in abilities(description)}


def _ability_lines(description: "Description") -> list[str]:
    found = _abilities(description)
    can = ", ".join(name for name, why_not in found.items() if why_not is None)
    return [f"measures {can}", *(f"no {name}: {why_not}" for name, why_not in found.items() if why_not is not None)]


def _details(description: "Description") -> str:
    """One device in lines."""
    memory = [
        f"{size / 2**30:.1f} GiB {what}"
        for size, what in (
            (description.memory_bytes, "in all"),
            (description.memory_available_bytes, "available"),
        )
        if size is not None
    ]
    rows = [
        ("model", description.model),
        ("SoC", description.soc),
        ("system", ", ".join(filter(None, (description.os, description.kernel, description.architecture)))),
        *(("cores", _cluster(cluster)) for cluster in description.clusters),
        ("memory", ", ".join(memory)),
        ("page size", description.page_bytes and f"{description.page_bytes // 1024} KiB"),
        ("storage", description.storage_free_bytes and f"{description.storage_free_bytes / 2**30:.1f} GiB free"),
        (
            "temperatures",
            ", ".join(f"{zone.name} {zone.celsius:.0f} °C" for zone in description.thermal_zones if zone.celsius),
        ),
        *(("battery", f"{battery.level_percent:.0f} %, {battery.status}") for battery in description.batteries
          if battery.level_percent is not None),
        ("counters", ", ".join(f"{counter.kind} {counter.name}" for counter in description.counters)),
        ("versions", ", ".join(f"{name} {version}" for name, version in description.versions.items())),
        ("providers", ", ".join(description.providers)),
        *(("energy", f"{name}: {why_not or 'can be read'}") for name, why_not in description.energy.items()),
        *(("note", note) for note in description.notes),
    ]  # fmt: skip
    lines = [f"  {name:14} {text}" for name, text in rows if text]
    return "\n".join([description.device, *lines, *(f"  {line}" for line in _ability_lines(description))])


def _cluster(cluster: object) -> str:
    from edgepress.runtime.machine.devices.describing.description import Cluster

    assert isinstance(cluster, Cluster)
    words = [f"{len(cluster.cores)} × {cluster.name or 'unknown design'}"]
    if cluster.max_mhz is not None:
        words.append(f"up to {cluster.max_mhz:.0f} MHz")
    if cluster.allowed_mhz is not None and cluster.max_mhz is not None and cluster.allowed_mhz < cluster.max_mhz:
        words.append(f"{cluster.allowed_mhz:.0f} MHz allowed")
    return ", ".join([*words, *filter(None, [cluster.governor and f"governor {cluster.governor}"])])
