"""What passes measure: ``<kind>.py``, one file for each kind of bundle, ending in ``KIND``.

A language model reads prompts and writes tokens, a bundle of one graph is run, a model of an encoder and a decoder
reads a source and writes tokens. Passes ask :mod:`.workload` and know none of the three.
"""

import importlib
from pathlib import Path

from edgepress.modules import modules_in
from edgepress.runtime.loading import find_task_of
from edgepress.runtime.profile.workloads.workload import Kind

_SHARED = "workload"


def known_kinds() -> list[Kind]:
    """Every kind that there is a file for, by name."""
    names = sorted(module.name for module in modules_in(__path__) if module.name != _SHARED)
    return [importlib.import_module(f"{__name__}.{name}").KIND for name in names]


def find_kind(bundle: Path) -> Kind:
    """The kind of a bundle; a folder that says nothing of itself is taken for a language model.

    Raises:
        InputError: the manifest is not as it was written.

    """
    task = find_task_of(bundle)
    return next(kind for kind in known_kinds() if kind.suits(task))
