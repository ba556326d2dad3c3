"""What is known of an export so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgepress.exporter.model.reading import notes, read_decoder
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.hub import Origin
from edgepress.targets import FALLBACK, Soc, Target, find_target

if TYPE_CHECKING:
    from edgepress.exporter.learn.pruning.run import Pruned  # needs torch


@dataclass(frozen=True, kw_only=True)
class Prepared(Planned):
    """Everything that is decided before a weight is read.

    ``checkpoint`` is what is exported: where the recipe prunes, what the last of its steps wrote.
    """

    targets: tuple[Target, ...]
    budget: dict[str, object] | None = None  # what was measured for the recipe's budget, and chosen
    left_out: Mapping[str, str] = field(default_factory=dict)  # recoveries of the recipe that decline, and why
    socs: tuple[Soc, ...] = ()  # chips that the targets which have some are compiled for
    why_recipe: str = ""  # why it is this recipe, when none was named
    origin: Origin | None = None  # the repository of the hub that the model came from
    pruned: Pruned | None = None  # what the recipe's steps made, and the checkpoint that they began with

    @property
    def cpu(self) -> Target:
        """The CPU whose kernels the bundle's own graph is made for; accelerators fall back to it."""
        return next((target for target in self.targets if target.is_cpu), find_target(FALLBACK))

    @property
    def original(self) -> Checkpoint:
        """The checkpoint that the user named."""
        return self.checkpoint if self.pruned is None else self.pruned.original

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the checkpoint was read; see :func:`.reading.notes`."""
        return notes(self.original, read_decoder(self.original))
