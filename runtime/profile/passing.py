"""What a pass is: a function that measures on the device, what it is told, and how many rounds it takes.

A pass is a file of ``passes/`` that ends in ``PASS``. Passes are apart because measuring one thing changes another:
whoever reads memory maps while tokens are timed makes them slower.
"""

from dataclasses import dataclass
from enum import Enum

from edgepress.calls import Function


class Rounds(Enum):
    """How many rounds a pass takes: one; as many as precision asks for; or as few as an interval needs."""

    ONE = "one"
    LEAST = "least"
    UNTIL_PRECISE = "until precise"


@dataclass(frozen=True)
class Pass:
    """A pass.

    - ``measure``: runs on the device, tells its samples with :func:`edgepress.runtime.profile.rounds.tell`
    - ``settings``: names of those :class:`~edgepress.runtime.profile.settings.Settings` that it is given, beside
      ``opening``
    - ``optional``: whether it is taken only when it is named
    - ``only``: the name of the one kind of bundle that it measures; empty where it measures all
    """

    name: str
    about: str
    measure: Function
    settings: tuple[str, ...]
    rounds: Rounds
    optional: bool = False
    only: str = ""
