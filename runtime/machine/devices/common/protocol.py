"""What every device can do, and what a transport is."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgepress.calls import Answer, Call
from edgepress.calls.host import Report
from edgepress.runtime.machine.devices.describing.description import Description


class Device(AbstractContextManager["Device"], Protocol):
    """A device that can be reached, from ``with open_device(NAME) as device:`` until the block ends.

    Every method raises an :class:`edgepress.errors.EdgepressError`: the named ones of ``common/errors.py``, or what a
    called function raised there.
    """

    name: str

    def describe(self, *, runner: bool = False) -> Description:
        """What it is. ``runner`` starts a runner there, too, which tells versions and execution providers."""
        ...

    def push(self, path: Path) -> str:
        """Bring a file or a folder there, of which only what has changed is sent; return its path there."""
        ...

    def call(
        self, calls: Sequence[Call], *, report: Report | None = None, timeout: float | None = None
    ) -> list[Answer]:
        """Call functions of edgepress there, one after the other in one fresh process; return their answers.

        ``report`` is given at once what a function hands to :func:`edgepress.calls.report`; ``timeout`` is in seconds,
        of all calls together. What ends the process early has the answers until then in ``answers``.
        """
        ...

    def scratch(self) -> str:
        """A folder there, for what functions write; it is removed when the device is closed."""
        ...

    def pull(self, there: str, into: Path) -> None:
        """Bring a file from there to ``into``, which is written whole or not at all."""
        ...

    def clean(self) -> None:
        """Remove what was pushed there, by this client or another, and the runner."""
        ...


@dataclass(frozen=True)
class Found:
    """A device that a transport knows of. ``why_not`` says why it cannot be reached; "" where it can.

    ``ask`` is False where finding out more takes a connection or a start that nobody asked for.
    """

    name: str
    about: str = ""
    why_not: str = ""
    ask: bool = True


@dataclass(frozen=True)
class Transport:
    """A way to reach devices: ``form`` is how one is named, such as ``ssh:HOST``.

    ``open_device`` takes what stands after the colon ("" where nothing does), ``find`` lists devices without touching
    any that does not belong to this machine.
    """

    name: str
    form: str
    about: str
    open_device: Callable[[str], Device]
    find: Callable[[], list[Found]]
