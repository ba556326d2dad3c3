"""What each operator does with channels: ``RULES`` of each file, by (domain, operator).

What has no rule keeps its inputs whole.
"""

import importlib
from functools import cache

from edgepress.exporter.methods.narrower.trace import Rules
from edgepress.modules import modules_in


@cache
def all_rules() -> Rules:
    """The rules of every file of this folder."""
    found: dict[tuple[str, str], object] = {}
    for module in modules_in(__path__):
        found |= importlib.import_module(f"{__name__}.{module.name}").RULES
    return found  # type: ignore[return-value]  # each file declares its own as Rules


@cache
def counted() -> frozenset[tuple[str, str]]:
    """Operators whose multiply-adds are counted, with channels to cut or without."""
    modules = (importlib.import_module(f"{__name__}.{name}") for name in ("attention", "products"))
    return frozenset(key for module in modules for key in module.RULES)
