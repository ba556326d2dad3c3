"""Doors: a reference that the user gives → a :class:`~edgepress.exporter.doors.traced.Traced`.

``doors/ways/<name>.py`` (dashes as underscores) ends in ``DOOR = Door(...)``; nothing else lists it.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgepress.exporter.doors.traced import Traced
from edgepress.modules import modules_in

_WAYS = Path(__file__).parent / "ways"
_PACKAGE = f"{__name__.rpartition('.')[0]}.{_WAYS.name}"


@dataclass(frozen=True)
class Options:
    """What the user says of how a model is opened: its ``task`` and the ``revision`` of a hub's repository."""

    task: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Door:
    """One way in. ``recognizes`` looks at the reference alone, quickly; ``open`` may write files into the folder given.

    ``open`` raises an InputError that names the part of the model which cannot be taken, and what to do.
    """

    name: str
    description: str
    recognizes: Callable[[str], bool]
    open: Callable[[str, Options, Path], Traced]


def door_names() -> list[str]:
    """Names of the doors found on disk."""
    return sorted(module.name.replace("_", "-") for module in modules_in([str(_WAYS)]))


def find_door(reference: str) -> Door | None:
    """The door that recognizes ``reference``; None where it is a checkpoint of a language model, or nothing."""
    return next((door for door in map(_load, door_names()) if door.recognizes(reference)), None)


def _load(name: str) -> Door:
    door: Door = importlib.import_module(f"{_PACKAGE}.{name.replace('-', '_')}").DOOR
    return door
