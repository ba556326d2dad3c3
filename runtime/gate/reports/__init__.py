"""Forms in which a build hears of a gate: one file each, ending in ``REPORT``; its name is the option for it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from edgepress.modules import modules_in
from edgepress.runtime.gate.gating import Gate


@dataclass(frozen=True)
class Report:
    """A form: how a file of it is called, and the text of one."""

    name: str
    about: str
    render: Callable[[Gate], str]


def known_reports() -> dict[str, Report]:
    """Every form there is a file for, by name."""
    names = sorted(module.name for module in modules_in(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").REPORT for name in names}
