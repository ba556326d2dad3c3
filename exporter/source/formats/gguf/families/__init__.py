"""What llama.cpp calls an architecture, and how its files differ from Llama's: a file each, which ends in ``FAMILY``.

A file has the name of ``general.architecture``, with underscores for its hyphens.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgepress.modules import modules_in

Values = dict[str, object]


@dataclass(frozen=True)
class Family:
    """The ``model_type`` and class of transformers that an architecture is.

    ``interleaved`` says that rows of q and k are reordered, ``minus_one`` that gains are stored with 1 added, and
    ``head_dim`` that its config always says how wide a head is. ``names`` are tensors of a layer, and ``outer`` those
    outside of layers, with other names than Llama's; ``kernels`` of them lack the axis of one that convolutions have.
    ``keys`` are metadata that it has more of, by what the config calls them; ``bias_key`` is the config's for biases
    of all projections, where it has one key for them. ``more(values, config)`` adds what no key says.
    """

    model_type: str
    class_name: str
    interleaved: bool = False
    minus_one: bool = False
    head_dim: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    outer: Mapping[str, str] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    bias_key: str = ""
    more: Callable[[Mapping[str, object], Values], Values] = lambda *_: {}


def families() -> list[str]:
    """Every architecture there is a file for, as files name it, sorted."""
    return sorted(module.name for module in modules_in(__path__))


def load(name: str) -> Family:
    """The family in the file ``name``; its file is imported now."""
    found = importlib.import_module(f"{__name__}.{name}").FAMILY
    assert isinstance(found, Family)
    return found


def whole(value: object) -> int:
    """A whole number; 1 for anything else, which is found elsewhere."""
    return value if isinstance(value, int) else 1
