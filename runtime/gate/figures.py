"""Figures that a gate holds against its budget, and the gauges that take them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgepress.runtime.measures.evaluate import LogitsSource
from edgepress.runtime.tasks.kinds import TaskModel

Better = Literal["less", "more"]


@dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    - ``observations``: one a round where it was timed, else a single value
    - ``exact``: it would be the same on any try (bytes, instructions), so every difference is one
    - ``unknown``: why there is no value that can be used, for example because other processes kept the machine busy
    """

    name: str
    unit: str
    better: Better
    observations: tuple[float, ...]
    exact: bool = False
    unknown: str = ""


@dataclass(frozen=True)
class Option:
    """A setting of a gauge in a budget: its type, and its value where none is given; None has to be given."""

    kind: type
    default: Any = None
    required: bool = False


@dataclass(frozen=True)
class Request:
    """What a gauge is asked for: a bundle on a device, the names of the figures that have rules, and its settings.

    ``reference_of`` opens the checkpoint of that name, which a bundle's predictions are compared with, and
    ``task_reference_of`` what an open bundle with a task was made from; None where nothing that can is installed.
    """

    bundle: Path
    device: str
    names: tuple[str, ...]
    options: dict[str, Any]
    told: Callable[[str], None] = field(default=lambda _line: None)
    reference_of: Callable[[Path, str], LogitsSource] | None = None
    task_reference_of: Callable[[TaskModel, str], AbstractContextManager[TaskModel]] | None = None


@dataclass(frozen=True)
class Gauge:
    """A kind of figures: a section of a budget, whose ``figures`` may have rules.

    ``take`` measures bundles *alike*: in turn where time matters, so that what disturbs one disturbs the other. It
    returns a list of figures for each request, all of one gauge.
    """

    name: str
    figures: dict[str, str]
    options: dict[str, Option]
    take: Callable[[list[Request]], list[list[Figure]]]
