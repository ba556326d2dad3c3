"""What a target needs beside the CPU graph: ``forms/<form>.py``, one file each.

A form's file ends in ``FORM = Form(...)``; a target names it in ``Target.form``. It decides, then acts: ``refuse`` is
asked before a weight is read, ``write`` when the bundle's own graph and weights lie on disk, so that what was computed
for the weights is shared by every target of the export.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.doors.traced import Feed, Samples
from edgepress.exporter.plan.planned import Writable
from edgepress.modules import modules_in
from edgepress.targets import Soc, Target
from edgepress.terminal.progress import Progress, silent


def no_samples() -> Iterator[Feed]:
    """No real inputs."""
    return iter(())


@dataclass(frozen=True)
class FormTask:
    """One target's files, to be written into ``folder`` of the bundle being made in ``bundle``.

    ``socs`` are the chips to compile for, and ``tokens()`` the calibration text, int64 (sequences, length), read or
    written by the model when it is asked for; ``samples()`` are real inputs of a model that is no language model, where
    there are any.
    """

    bundle: Path
    folder: Path
    target: Target
    planned: Writable
    socs: tuple[Soc, ...]
    threads: int
    tokens: Callable[[], NDArray[np.int64]]
    progress: Progress = silent
    samples: Samples = no_samples


@dataclass(frozen=True)
class Form:
    """What is written for a target.

    ``refuse(planned, target, socs)`` raises InputError for what this form cannot hold, saying what it can.
    ``write(task)`` fills ``task.folder`` and returns what the manifest says of it. Without ``decoders`` it is not made
    of language models, which have their CPU graph there.
    """

    name: str
    description: str
    refuse: Callable[[Writable, Target, tuple[Soc, ...]], None]
    write: Callable[[FormTask], dict[str, object]]
    decoders: bool = True


def form_names() -> list[str]:
    """Names of the forms found on disk."""
    return sorted(module.name.replace("_", "-") for module in modules_in(__path__))


def find_form(name: str) -> Form:
    """Return the form called ``name``; a target file that names one that is not there is a bug, and raises as it is."""
    form: Form = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").FORM
    return form


def form_of(target: Target, *, decoder: bool) -> Form | None:
    """What ``target`` needs beside the CPU graph of a language model, or of another one; None where that is nothing."""
    form = None if target.form is None else find_form(target.form)
    return None if form is None or (decoder and not form.decoders) else form
