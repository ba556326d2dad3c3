"""A model and what will be done to it: what the stages after the plan are given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.subject import Description, WeightSource
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.tasks.task import Task
from edgepress.terminal.progress import Progress


class Subject(Protocol):
    """A model of any kind and what will be done to it: all that writing its weights and manifest needs."""

    @property
    def description(self) -> Description:
        """What it is made of."""

    @property
    def source(self) -> WeightSource:
        """Where its weights are read."""

    @property
    def recipe(self) -> Recipe:
        """What was asked for."""

    @property
    def plan(self) -> Plan:
        """What will be done to each weight."""


class Writable(Subject, Protocol):
    """A subject for which everything is decided: a bundle of it can be written and scored."""

    @property
    def task(self) -> Task | None:
        """What the bundle is for; None of a language model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how the model was read, a sentence each."""

    def write_files(self, bundle: Path) -> None:
        """Write the graph, and what else runtimes need beside the data file."""

    def score(self, bundle: Path, progress: Progress) -> Mapping[str, object]:
        """How near the bundle's outputs are to the model's; CheckFailed where they are not near."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A checkpoint, its decoder with what methods add to it, the recipe that methods go by, and the plan."""

    checkpoint: Checkpoint
    decoder: Decoder
    recipe: Recipe
    plan: Plan

    @property
    def description(self) -> Decoder:
        """What the model is made of."""
        return self.decoder

    @property
    def source(self) -> Checkpoint:
        """Where its weights are read."""
        return self.checkpoint

    @property
    def bytes_a_token(self) -> int:
        """Bytes of weights that decoding a token reads: of an embedding that is no head it reads a row only."""
        tensors = self.plan.tensors
        return sum(one.bytes_after for one in tensors if self.decoder.tied or one.weight.kind != "embedding")

    @property
    def needs_calibration(self) -> bool:
        """Whether a method of the recipe needs the model's activations."""
        recipe = self.recipe
        looks = any(not isinstance(load_method(name), Method) for name in self.plan.methods)
        return looks or bool(recipe.before or recipe.after) or recipe.activations.is_calibrated
