"""What was chosen for a bundle on this machine, kept in the folder of its prepared form::

    ~/.cache/edgepress/prepared/<bundle hash>-<machine hash>/tuning.json

It goes when the form does. A record that was measured on other cores than this process may use now (another container,
``taskset``, a quota) is not used, and neither is one that cannot be read: how fast a bundle runs is all that depends on
it.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from edgepress.cores import usable_cores
from edgepress.disk.cache import find_other_owner
from edgepress.errors import InputError
from edgepress.runtime.tuning.cores import allowed_cores
from edgepress.schema import Count, convert, read_object

if TYPE_CHECKING:
    from edgepress.runtime.generation.speculation.costs import StepCosts

FILE = "tuning.json"
_REMEDY = "run `edgepress prepare` again"
_log = logging.getLogger("edgepress.tuning")

Seconds = Annotated[float, msgspec.Meta(gt=0, lt=1e6)]


class Steps(msgspec.Struct, frozen=True):
    """What steps over several tokens cost with so many threads, as pairs of both; see :class:`StepCosts`."""

    seconds: Annotated[list[tuple[Count, Seconds]], msgspec.Meta(min_length=1)]
    exact: Count

    @classmethod
    def of(cls, costs: StepCosts) -> Steps:
        """What was measured."""
        return cls(list(costs.seconds.items()), costs.exact)

    def costs(self) -> StepCosts:
        """The same as what speculation goes by."""
        from edgepress.runtime.generation.speculation.costs import StepCosts

        return StepCosts(dict(self.seconds), self.exact)


class Choice(msgspec.Struct, frozen=True):
    """How a bundle is opened: ``cores`` are those that threads are kept to, none where they may be anywhere."""

    threads: Count
    cores: tuple[int, ...]
    spinning: bool
    prefill_chunk: Count

    def entries(self) -> dict[str, str]:
        """The same as entries of onnxruntime's session configuration, beside the number of threads."""
        found = {} if self.spinning else {"session.intra_op.allow_spinning": "0"}
        if self.cores and self.threads > 1:  # one group for each thread but the caller's; numbered from 1
            group = ",".join(str(core + 1) for core in self.cores)
            found["session.intra_op_thread_affinities"] = ";".join([group] * (self.threads - 1))
        return found


class Tuning(msgspec.Struct, frozen=True):
    """A record: on which cores it was measured, what was chosen, and the seconds that say so.

    ``samples`` are, by what was tried, seconds of each decoded token or of each prompt.
    """

    tuning: Literal[1]
    allowed: tuple[int, ...]
    usable: Count
    choice: Choice | None = None
    samples: dict[str, list[Seconds]] = {}
    steps: dict[str, Steps] = {}

    def fits(self) -> bool:
        """Whether it was measured on the cores that this process may use."""
        return (self.allowed, self.usable) == (allowed_cores(), usable_cores())


def here() -> Tuning:
    """A record of this machine with nothing in it yet."""
    return Tuning(1, allowed_cores(), usable_cores())


def read_tuning(directory: Path | None) -> Tuning:
    """The record in a form's folder; an empty one where there is none that fits, or no folder."""
    path = None if directory is None else directory / FILE
    if path is None or not path.is_file():
        return here()
    try:
        if problem := find_other_owner(path):
            raise InputError(problem)
        found = convert(read_object(path, _REMEDY), Tuning, path, _REMEDY)
    except (InputError, OSError) as error:
        _log.warning("how the bundle is best opened is not known: %s", error)
        return here()
    return found if found.fits() else here()


def write_tuning(directory: Path, tuning: Tuning) -> None:
    """Keep a record, in the place of the one that is there; a folder that cannot be written keeps none."""
    path = directory / f".{FILE}.{os.getpid()}"
    with suppress(OSError):
        path.write_text(json.dumps(msgspec.to_builtins(tuning), indent=2) + "\n", encoding="utf-8")
        path.chmod(0o644)
        path.replace(directory / FILE)
