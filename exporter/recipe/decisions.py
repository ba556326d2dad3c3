"""What is decided for one model, beside what its recipe asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from edgepress.exporter.recipe.recipe import Override, Recipe, override_from_json


@dataclass(frozen=True)
class Decisions:
    """Decisions that a recipe leaves to the model and its text; the manifest keeps them beside the recipe.

    - ``left_out``: methods of the recipe that are not used for this model, and why
    - ``text``: files of calibration text, where pruning put some of the text aside or the model wrote it
    - ``length`` of calibration sequences, where the context is shorter than what is asked
    - ``float16_graph``: there is a graph in float16 beside the float32 one, as a target has processors for it
    - ``windows``: layers whose attention sees a window keep the keys and values of that alone
    - ``kept_layers``: layers (``layers.1``) and mixers with states (``layers.1.attention``) that stay in float32, as
      they overflow float16, and why
    - ``float32_scales``: tensors whose scales stay float32, as float16 cannot hold them, and why
    - ``overrides``: what a budget chose for each tensor
    - ``rounded_by``: methods of rounding that another is used instead of, and that other one
    """

    left_out: Mapping[str, str] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    length: int | None = None
    kept_layers: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    float16_graph: bool = False
    windows: bool = False
    float32_scales: Mapping[str, str] = field(default_factory=dict)
    rounded_by: Mapping[str, str] = field(default_factory=dict)

    def applied(self, recipe: Recipe) -> Recipe:
        """What stages go by: ``recipe`` with these decisions put in."""
        calibration, activations = recipe.calibration, recipe.activations
        text, length = self.text or calibration.text, self.length or calibration.length
        rounded = recipe.with_methods(lambda method: self.rounded_by.get(method, method))
        return replace(
            rounded,
            overrides=(*rounded.overrides, *self.overrides),
            after=tuple(name for name in recipe.after if name not in self.left_out),
            calibration=replace(calibration, text=text, length=length),
            activations=replace(
                activations,
                kept_layers={**activations.kept_layers, **self.kept_layers},
                float16_graph=activations.float16_graph or self.float16_graph,
                float32_scales={**activations.float32_scales, **self.float32_scales},
            ),
            cache=replace(recipe.cache, windows=self.windows or recipe.cache.windows),
        )

    def to_json(self) -> dict[str, object]:
        """As the manifest keeps them: those that there are, files of text by their names, not their places."""
        named = replace(self, text=tuple(Path(name).name for name in self.text))
        return {key: value for key, value in asdict(named).items() if value}


def decisions_from_json(content: Mapping[str, Any]) -> Decisions:
    """The inverse of :meth:`Decisions.to_json`; TypeError or KeyError for what another version wrote."""
    unknown = content.keys() - {entry.name for entry in fields(Decisions)}
    if unknown:
        raise KeyError(*sorted(unknown))
    made = {
        "text": tuple(content.get("text", ())),
        "overrides": tuple(map(override_from_json, content.get("overrides", ()))),
    }
    return Decisions(**{**content, **made})
