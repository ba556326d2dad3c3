"""What a Hugging Face checkpoint is for, and which class of transformers it is then: one file for each task.

``heads/<task>.py`` (dashes as underscores) ends in ``HEAD = Head(...)``; nothing else lists it. Names of tasks are
those of optimum's ``TasksManager``, which are the hub's. The classes are found in transformers' own mappings, as
``TasksManager`` does; a test holds the two side by side.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgepress.errors import InputError
from edgepress.modules import modules_in


@dataclass(frozen=True, kw_only=True)
class Head:
    """A task of transformers' models.

    ``loaders`` are the automatic classes that know its models, the first one first. ``outputs`` are what is kept of
    what such models give, where they give it. ``inputs`` are those that it takes; None for the model's main input and
    what goes with it. ``synonyms`` are other names of the task.
    """

    name: str
    loaders: tuple[str, ...]
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] | None = None
    synonyms: tuple[str, ...] = ()

    def class_name(self, config: Mapping[str, object]) -> str | None:
        """The class for a config: the one that it names, if this task has it, else the task's first of its type."""
        named = class_named(config)
        kinds = list(self.classes(str(config.get("model_type", ""))))
        return named if named in kinds else next(iter(kinds), None)

    def classes(self, model_type: str) -> Iterator[str]:
        """The classes that this task has for a type of models, the first one first."""
        for loader in self.loaders:
            known = _mapping(loader).get(model_type, ())
            yield from (known,) if isinstance(known, str) else known


def _mapping(loader: str) -> Mapping[str, Any]:
    """model_type → the name of a class, or several, of an automatic class; empty where this transformers has none."""
    from transformers.models.auto import modeling_auto

    found = getattr(modeling_auto, loader, None)
    known: Mapping[str, Any] = {} if found is None else found._model_mapping._model_mapping
    return known


def class_named(config: Mapping[str, object]) -> str:
    """The class that a config names, "" where it names none."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def head_names() -> list[str]:
    """The tasks found on disk."""
    return sorted(module.name.replace("_", "-") for module in modules_in(__path__))


def find_head(name: str, config: Mapping[str, object] | None = None) -> Head:
    """The task called ``name``, or that of which it is a synonym; of several the one that knows the config's model.

    Raises:
        InputError: there is none.

    """
    found = [head for head in _heads() if name == head.name or name in head.synonyms]
    if not found:
        near = difflib.get_close_matches(name, head_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(f"no task {name!r}; {hint}Known: {', '.join(head_names())}")
    return next((head for head in found if config is not None and head.class_name(config) is not None), found[0])


def head_of(config: Mapping[str, object]) -> Head | None:
    """The task whose models the class is one of that the config names; None where no task has it.

    Models without a head are looked at last: what makes two embeddings is both that and for zero shots.
    """
    named, model_type = class_named(config), str(config.get("model_type", ""))
    heads = sorted(_heads(), key=lambda head: (_BASE in head.loaders, head.name != "feature-extraction"))
    return next((head for head in heads if named and named in head.classes(model_type)), None)


def _heads() -> list[Head]:
    heads: list[Head] = []
    for name in head_names():
        heads.append(importlib.import_module(f"{__name__}.{name.replace('-', '_')}").HEAD)
    return heads


def without_head(main_input: str) -> Head:
    """The task of a model without a head, by what its main input is."""
    return find_head(_FEATURES.get(main_input, "feature-extraction"))


_BASE = "AutoModel"
_FEATURES = {
    "pixel_values": "image-feature-extraction",
    "input_values": "audio-feature-extraction",
    "input_features": "audio-feature-extraction",
}
