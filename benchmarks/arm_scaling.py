"""Counts of a model's first layers scaled to all of it, for the tables and the picture of arm_instructions.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Samples = Sequence[Mapping[str, Any]]
SPLIT = "qwen2.5-0.5b", "int4-128"  # the model and form that is split by operator


def scaled(of_case: Samples, value: Callable[[Mapping[str, Any]], float]) -> float:
    """``value`` of the whole model: of all its layers, or on the line through the two deepest that were counted.

    Raises:
        ValueError: there is neither.

    """
    by_layers = {sample["layers"]: value(sample) for sample in of_case}
    whole = of_case[0]["of_layers"]
    if whole in by_layers:
        return by_layers[whole]
    if len(by_layers) < 2:
        raise ValueError(f"{of_case[0]['model']} of {whole} layers was counted with {list(by_layers)} layers only")
    (few, low), (more, high) = sorted(by_layers.items())[-2:]
    return low + (high - low) / (more - few) * (whole - few)


def named(model: str) -> str:
    """A shape that has random weights says so."""
    return model if model == "demo" else f"{model} shape, random weights"
