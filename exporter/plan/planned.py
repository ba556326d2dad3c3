"""A model and what will be done to it: what the stages after the plan are given."""

from dataclasses import dataclass

from edgepress.exporter.methods.kinds import Method, load_method
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A checkpoint, its decoder with what methods add to it, the recipe that methods go by, and the plan."""

    checkpoint: Checkpoint
    decoder: Decoder
    recipe: Recipe
    plan: Plan

    @property
    def needs_calibration(self) -> bool:
        """Whether a method of the recipe looks at what the model computes."""
        recipe = self.recipe
        looks = any(not isinstance(load_method(name), Method) for name in self.plan.methods)
        return looks or bool(recipe.before or recipe.after) or recipe.activations.is_calibrated
