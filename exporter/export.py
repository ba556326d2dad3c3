"""Checkpoint → bundle: what happens, in order. What is decided first is in prepare.py."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.cores import usable_cores
from edgepress.exporter.bundle import files as bundle
from edgepress.exporter.bundle.cpu_graph import make_graph
from edgepress.exporter.bundle.download import describe_zeros
from edgepress.exporter.bundle.forms import FormTask, find_form
from edgepress.exporter.bundle.genai_config import make_genai_config
from edgepress.exporter.bundle.replacing import check_output, check_replaceable
from edgepress.exporter.bundle.write import write_data, write_model
from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.decide.prepare import choose_recipe, decide
from edgepress.exporter.learn.pruning.shipped import describe_steps, write_curves
from edgepress.exporter.model.reading import GENERATION, first_token
from edgepress.exporter.tokens.source_tokenizer import compare_with_transformers
from edgepress.files import atomic_directory
from edgepress.fingerprint import write_fingerprint
from edgepress.manifest import Manifest
from edgepress.progress import Progress, silent
from edgepress.targets import FALLBACK
from edgepress.whole import whole_number
from edgepress.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgepress.exporter.learn.calibration.run import Calibrated  # needs torch


_log = logging.getLogger("edgepress.export")


def export(
    model: str | Path,
    *,
    out: str | Path,
    target: str | Sequence[str] = FALLBACK,
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    calibration: Sequence[str | Path] = (),
    revision: str | None = None,
    check: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Turn a checkpoint into a bundle directory and return its manifest.

    Args:
        model: ``demo``, a directory in Hugging Face form, or a hub id.
        out: the bundle's directory; written beside itself and renamed into place when complete.
        target: a name from :func:`edgepress.targets.target_names`, or several: they share the weights' computation.
        recipe: a preset's name or a TOML file; when None the one that suits the targets.
        socs: chips of the target that has some (qnn-htp), for which its graphs are compiled ahead.
        context_length: positions that the bundle can hold; the model's own maximum when None.
        calibration: files of text for a calibrated recipe; those that the recipe names when empty, and the model's own
            generations when it names none either.
        revision: branch, tag or commit of a model on the hub; its main branch when None.
        check: compare the bundle with the reference model and keep the result in the manifest.
        force: replace ``out`` when it is a bundle with nothing else in it, or an empty directory.
        threads: threads that quantize; all cores when None. The bytes do not depend on it, but in calibrated recipes
            they do: matrix products add up in another order.
        progress: makes the bars of the long steps; :func:`edgepress.progress.progress` draws them on a terminal.

    Raises:
        InputError: something cannot be used as it is; no bundle is left behind. What calibration, a budget's
            measurement or the steps of a recipe that prunes had done stays in the hidden directory
            ``.NAME.edgepress`` beside ``out``, for the next run to go on from.
        CheckFailed: ``check`` found that the graph does not compute what the reference computes.

    """
    if threads is not None:
        whole_number("threads", threads)
    check_output(Path(out), force=force)
    recipe, _ = choose_recipe(recipe, target)
    with Workspace.opened(Path(out)) as workspace:
        prepared = decide(
            model,
            target=target,
            recipe=recipe,
            socs=socs,
            context_length=context_length,
            calibration=calibration,
            revision=revision,
            workspace=workspace,
            threads=threads,
            progress=progress,
        )
        return write_bundle(
            prepared, Path(out), workspace, check=check, force=force, threads=threads, progress=progress
        )


def write_bundle(
    prepared: Prepared,
    out: Path,
    workspace: Workspace,
    *,
    check: bool,
    force: bool,
    threads: int | None,
    progress: Progress,
) -> Manifest:
    """Write what is planned: calibrate, round, write the files and read them back; see :func:`export`."""
    for name, why in prepared.left_out.items():
        _log.warning("%s is left out: %s", name, why)
    genai_config = make_genai_config(
        prepared.decoder, prepared.plan, prepared.checkpoint.config, prepared.checkpoint.json(GENERATION)
    )
    graph = make_graph(prepared, prepared.cpu)
    with (
        ExitStack() as stack,
        atomic_directory(out, replace=force, may_remove=check_replaceable) as work,
        ThreadPoolExecutor(1) as background,
    ):
        source = background.submit(prepared.original.source_hashes)
        current = source if prepared.pruned is None else background.submit(prepared.checkpoint.source_hashes)
        calibrated = None
        if prepared.needs_calibration:
            calibrated = stack.enter_context(_calibrate(prepared, workspace, current.result(), threads, progress))
        stages = None if calibrated is None else calibrated.stages
        reports = write_data(work, prepared, stages, threads=threads, progress=progress)
        sparsity = measure_zeros(work, prepared, threads=threads, progress=progress)
        write_model(work, prepared, graph, genai_config)
        if calibrated is not None and calibrated.fingerprint is not None:
            write_fingerprint(work, calibrated.fingerprint)
        parity = check_parity(work, prepared, progress) if check else None
        targets = write_forms(work, prepared, calibrated, threads=threads, progress=progress)
        write_curves(work, () if prepared.pruned is None else prepared.pruned.steps)
        manifest = bundle.write_manifest(
            work,
            prepared,
            reports,
            targets=targets,
            source=source.result(),
            calibration=None if calibrated is None else calibrated.described,
            budget=prepared.budget,
            parity=parity,
            sparsity=sparsity,
            notes=prepared.notes,
            origin=None if prepared.origin is None else prepared.origin.to_json(),
        )
        if prepared.pruned is not None:
            steps = describe_steps(work, prepared.plan, prepared.pruned, threads, progress)
            manifest = bundle.add_steps(work, manifest, steps)
    return manifest


def write_forms(
    work: Path, prepared: Prepared, calibrated: Calibrated | None, *, threads: int | None, progress: Progress
) -> dict[str, dict[str, object]]:
    """Write what each target needs beside the CPU graph, into a folder of its name; returns what was written."""

    def tokens() -> NDArray[np.int64]:
        from edgepress.exporter.learn.calibration.run import form_tokens

        return form_tokens(prepared, threads=threads, progress=progress) if calibrated is None else calibrated.tokens

    written: dict[str, dict[str, object]] = {}
    for target in prepared.targets:
        written[target.name] = {}
        if target.form is not None:
            folder = work / target.name
            folder.mkdir()
            task = FormTask(work, folder, target, prepared, prepared.socs, threads or usable_cores(), tokens, progress)
            written[target.name] = find_form(target.form).write(task)
    return written


def _calibrate(
    prepared: Prepared, workspace: Workspace, source: Mapping[str, str], threads: int | None, progress: Progress
) -> AbstractContextManager[Calibrated]:
    from edgepress.exporter.learn.calibration.run import calibrate

    bos = first_token(prepared.checkpoint, prepared.decoder)
    folder, left_out = workspace.part("calibration"), prepared.left_out
    return calibrate(prepared, folder, source=source, left_out=left_out, bos=bos, threads=threads, progress=progress)


def measure_zeros(
    work: Path, prepared: Prepared, *, threads: int | None, progress: Progress
) -> dict[str, object] | None:
    """What zeros that the recipe asks for save in the download; see :mod:`edgepress.exporter.bundle.download`."""
    return describe_zeros(
        work / bundle.DATA_FILE,
        prepared.plan,
        prepared.decoder,
        prepared.checkpoint,
        threads=threads or usable_cores(),
        progress=progress,
    )


def check_parity(work: Path, prepared: Prepared, progress: Progress) -> dict[str, object]:
    """Compare graph and tokenizer with transformers' own; see :mod:`edgepress.exporter.bundle.parity`."""
    from edgepress.exporter.bundle.parity import parity

    texts = compare_with_transformers(work, prepared.checkpoint)
    found = parity(work, prepared.checkpoint, prepared.decoder, prepared.plan, progress=progress)
    return {**found, "texts_tokenized_alike": texts}
