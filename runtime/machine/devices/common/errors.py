"""What goes wrong between this machine and a device, by name; each message has the remedy.

What ends a runner early is in ``edgepress/calls/host.py``: :class:`RunnerDied`, :class:`RunnerKilled` (out of memory),
:class:`RunnerHung`.
"""

from collections.abc import Sequence

from edgepress.calls import Answer
from edgepress.calls.host import RunnerDied, RunnerHung, RunnerKilled
from edgepress.errors import InputError

__all__ = [
    "AccessDenied",
    "ClientMissing",
    "DeviceAsleep",
    "DeviceFull",
    "DeviceInUse",
    "DeviceReadOnly",
    "DeviceUnreachable",
    "DeviceUnusable",
    "HostKeyChanged",
    "LinkLost",
    "RunnerDied",
    "RunnerHung",
    "RunnerKilled",
    "RunnerUnusable",
    "SeveralDevices",
]


class DeviceUnusable(InputError):  # noqa: N818 - it and those below are named for what is wrong, as CheckFailed is
    """A device cannot be used as it is."""


class ClientMissing(DeviceUnusable):
    """The program of this machine that reaches such devices is not there."""


class DeviceUnreachable(DeviceUnusable):
    """There is no such device, it is switched off, or nothing answers."""


class AccessDenied(DeviceUnusable):
    """The device answers and lets nobody in: permission denied, debugging not authorized."""


class HostKeyChanged(DeviceUnusable):
    """Another machine answers than the one that is known by this name, or one that is not known."""


class SeveralDevices(DeviceUnusable):
    """A name fits more than one device."""


class DeviceInUse(DeviceUnusable):
    """Another client is at work there; two would measure each other."""


class DeviceAsleep(DeviceUnusable):
    """A phone's screen is off, and its processor slowed down and stopped with it."""


class DeviceFull(DeviceUnusable):
    """There is not enough space left on the device."""


class DeviceReadOnly(DeviceUnusable):
    """The device lets nothing be written where our files would go."""


class RunnerUnusable(DeviceUnusable):
    """Neither the device's own Python nor ours can run there."""


class LinkLost(DeviceUnusable):
    """The link broke in the middle; ``answers`` are of the calls that were carried out until then."""

    def __init__(self, message: str, answers: Sequence[Answer] = ()) -> None:
        super().__init__(message)
        self.answers = list(answers)
