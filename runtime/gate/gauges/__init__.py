"""Gauges: one file each, ending in ``GAUGE``; its name is a section of a budget."""

import importlib

from edgepress.modules import modules_in
from edgepress.runtime.gate.figures import Gauge


def known_gauges() -> dict[str, Gauge]:
    """Every gauge there is a file for, by name."""
    names = sorted(module.name for module in modules_in(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").GAUGE for name in names}
