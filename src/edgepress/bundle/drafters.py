"""What a bundle has beside its model to propose tokens with: graphs of their own, as the manifest lists them.

::

    draft.onnx   draft   a smaller model of the same tokens, whose weights are in a data file of its own, or the model's

Each is for the drafter of :mod:`edgepress.runtime.generation.speculation.drafters` that has its name.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from edgepress.bundle.states import State, check_states

_MOST = 8
_File = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\.onnx$")]
_Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9_]{1,32}$")]


@dataclass(frozen=True)
class DrafterEntry:
    """One drafter's graph: its ``file``, and what it carries from one call to the next.

    ``long_from`` is as the manifest's, for this graph. ``about`` says what it was made by and what it was measured to
    be worth; nothing is read from it but to show it.
    """

    drafter: _Name
    file: _File
    states: tuple[State, ...]
    long_from: Annotated[int, msgspec.Meta(ge=1)] | None = None
    about: dict[str, object] = field(default_factory=dict)


def check_drafters(drafters: Sequence[DrafterEntry], files: Collection[str]) -> None:
    """Raise a ValueError unless each entry is of another drafter, and its graph one of ``files``."""
    if len(drafters) > _MOST:
        raise ValueError(f"there are {len(drafters)}, and a bundle has at most {_MOST}")
    for entry in drafters:
        if entry.file not in files:
            raise ValueError(f"{entry.file} is not among the files")
        check_states(entry.states)
    if len({entry.drafter for entry in drafters}) < len(drafters):
        raise ValueError("one drafter is there twice")
