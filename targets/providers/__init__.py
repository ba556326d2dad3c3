"""Execution providers in wheels of their own, and the only code that knows each. No onnx: devices have none.

A module here that can run a bundle's graphs has ``PROVIDER``, the execution provider's name, and ``simulated``,
``host_soc`` and ``open_session`` as in :mod:`.qnn`.
"""

import importlib
from typing import Any

from edgepress.modules import modules_in


def find_provider(name: str) -> Any:
    """Return the module for the execution provider called ``name``, None when there is none."""
    for found in modules_in(__path__):
        module = importlib.import_module(f"{__name__}.{found.name}")
        if getattr(module, "PROVIDER", None) == name:
            return module
    return None
