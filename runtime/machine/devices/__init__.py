"""Devices that edgepress runs and measures on: this machine, boards by ssh, phones by adb, emulated processors.

    from edgepress.calls import Call
    from edgepress.runtime.machine.devices import open_device

    with open_device("ssh:board") as device:
        print(device.describe().soc)
        [(value, arrays)] = device.call([Call(measure, {"bundle": device.push(Path("bundle"))})])

A transport is a file of this folder: its name is what stands before the colon of a device's name, and it ends in
``TRANSPORT``, a constant of type :class:`Transport`. What several of them share is in ``common/``; what a device is, as
data, in ``describing/``.
"""

import importlib
from collections.abc import Iterable

from edgepress.errors import InputError
from edgepress.modules import modules_in
from edgepress.runtime.machine.devices.common.protocol import Device, Found, Transport
from edgepress.runtime.machine.devices.describing.description import Description

__all__ = ["Description", "Device", "Found", "Transport", "find_devices", "open_device", "transports"]


def transports() -> dict[str, Transport]:
    """Every transport in this folder, by name; what needs no address comes first."""
    names = sorted(module.name for module in modules_in(__path__) if not module.ispkg)
    found = {name: importlib.import_module(f"{__name__}.{name}").TRANSPORT for name in names}
    return dict(sorted(found.items(), key=lambda item: ":" in item[1].form))


def open_device(name: str) -> Device:
    """Reach a device by its name, such as ``local``, ``ssh:HOST``, ``adb:SERIAL`` or ``emulator:cortex-a76``.

    Raises:
        InputError: it is no name of a device; or the device cannot be reached, by one of ``common/errors.py``.

    """
    known = transports()
    kind, colon, address = name.partition(":")
    transport = known.get(kind)
    takes_address = transport is not None and ":" in transport.form
    if transport is None or (bool(colon) and not (takes_address and address)):
        raise InputError(f"{name!r} is no name of a device; {_forms(known.values())}")
    return transport.open_device(address)


def _forms(known: Iterable[Transport]) -> str:
    *most, last = [transport.form for transport in known]
    return f"give {', '.join(most)} or {last}; `edgepress devices` lists what can be reached"


def find_devices() -> list[Found]:
    """What every transport knows of; a transport that has nothing says why in one entry."""
    return [found for transport in transports().values() for found in transport.find()]
