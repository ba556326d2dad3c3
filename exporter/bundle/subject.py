"""A whole bundle of any subject, and what its targets need beside the CPU graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.manifest import Manifest
from edgepress.cores import usable_cores
from edgepress.disk.files import atomic_directory
from edgepress.exporter.bundle.files import DATA_FILE, add_steps, write_manifest
from edgepress.exporter.bundle.forms import FormTask, form_of, no_samples
from edgepress.exporter.bundle.replacing import check_replaceable
from edgepress.exporter.bundle.stream import Made
from edgepress.exporter.bundle.write import write_data
from edgepress.exporter.bundle.written.download import describe_zeros
from edgepress.exporter.doors.traced import Samples
from edgepress.exporter.model.subject import WeightSource
from edgepress.exporter.plan.planned import Writable
from edgepress.exporter.recipe.decisions import Decisions
from edgepress.targets import Soc, Target
from edgepress.terminal.progress import Progress


def write_subject(
    subject: Writable,
    out: Path,
    targets: Sequence[Target],
    *,
    socs: tuple[Soc, ...] = (),
    check: bool,
    force: bool,
    threads: int | None,
    progress: Progress,
    made: Made | None = None,
    steps: Sequence[Mapping[str, object]] = (),
    budget: dict[str, object] | None = None,
    decisions: Decisions | None = None,
    original: WeightSource | None = None,
    samples: Samples | None = None,
) -> Manifest:
    """Write a bundle of any subject: data file, graph, manifest. What is not ``made`` is rounded as it is.

    ``steps`` is what the manifest says of the steps of a recipe that prunes, ``budget`` what of a budget; ``original``
    has the weights before methods changed any, where they did, and ``samples`` real inputs.
    """
    with (
        atomic_directory(out, replace=force, may_remove=check_replaceable) as work,
        ThreadPoolExecutor(1) as background,
    ):
        source = background.submit(subject.source.source_hashes)
        reports = write_data(work, subject, made, threads=threads, progress=progress)
        subject.write_files(work)
        zeros = describe_zeros(
            work / DATA_FILE,
            subject.plan,
            subject.description,
            original or subject.source,
            threads=threads or usable_cores(),
            progress=progress,
        )
        parity = dict(subject.score(work, progress)) if check else None
        written = write_forms(
            work, subject, targets, socs, _no_tokens, threads=threads, progress=progress, samples=samples
        )
        manifest = write_manifest(
            work,
            subject,
            reports,
            recipe=subject.recipe,
            targets=written,
            source=source.result(),
            parity=parity,
            sparsity=zeros,
            budget=budget,
            decisions=decisions,
            notes=subject.notes,
            task=subject.task,
        )
        return add_steps(work, manifest, tuple(map(dict, steps))) if steps else manifest


def write_forms(
    work: Path,
    subject: Writable,
    targets: Iterable[Target],
    socs: tuple[Soc, ...],
    tokens: Callable[[], NDArray[np.int64]],
    *,
    threads: int | None,
    progress: Progress,
    samples: Samples | None = None,
) -> dict[str, dict[str, object]]:
    """Write what each target needs beside the CPU graph, into a folder of its name; returns what was written.

    ``tokens()`` is the calibration text, int64 (sequences, length), ``samples()`` gives real inputs of other models.
    """
    written: dict[str, dict[str, object]] = {}
    for target in targets:
        written[target.name] = {}
        if (form := form_of(target, decoder=subject.task is None)) is not None:
            folder, count = work / target.name, threads or usable_cores()
            folder.mkdir()
            task = FormTask(work, folder, target, subject, socs, count, tokens, progress, samples or no_samples)
            written[target.name] = form.write(task)
    return written


def _no_tokens() -> NDArray[np.int64]:
    raise ValueError("there is no text to calibrate a form on")
