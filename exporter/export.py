"""Checkpoint → bundle, the story: open → shrink → decide → learn → write → seal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgepress.bundle.fingerprint import write_fingerprint
from edgepress.bundle.manifest import Manifest
from edgepress.cores import usable_cores
from edgepress.disk.files import atomic_directory
from edgepress.disk.workspace import Workspace
from edgepress.exporter.bundle import files as bundle
from edgepress.exporter.bundle.cpu_graph import float32_plan, graphs_to_compare, make_graph, planned_graphs
from edgepress.exporter.bundle.on_text.cache_scales import find_cache_scales
from edgepress.exporter.bundle.on_text.overflow import MOST_SEQUENCES, find_overflow
from edgepress.exporter.bundle.replacing import check_output, check_replaceable
from edgepress.exporter.bundle.stream import ScalesLostError, TensorReport
from edgepress.exporter.bundle.subject import write_forms, write_subject
from edgepress.exporter.bundle.write import write_data
from edgepress.exporter.bundle.written.download import describe_zeros
from edgepress.exporter.decide.encoder_decoder import decide_encoder_decoder, is_encoder_decoder
from edgepress.exporter.decide.job import Opened, Prepared, Shrunk
from edgepress.exporter.decide.opening import open_model, refuse_task
from edgepress.exporter.decide.prepare import settle, shrink, shrink_draft
from edgepress.exporter.decide.traced import decide_traced, refuse_of_language_models
from edgepress.exporter.doors.kinds import Options, find_door
from edgepress.exporter.doors.samples import read_samples
from edgepress.exporter.doors.traced import Samples, Traced
from edgepress.exporter.learn.pruning.shipped import describe_steps, write_curves
from edgepress.exporter.model.reading import first_token
from edgepress.exporter.model.reference import check_known
from edgepress.exporter.tokens.prose import prose_tokens
from edgepress.runtime.measures.keeping import loss_of_keeping
from edgepress.targets import FALLBACK
from edgepress.terminal.progress import Progress, silent
from edgepress.whole import whole_number

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
    task: str | None = None,
    adapters: Sequence[str | Path] = (),
    adapter_slots: Sequence[str | Path] = (),
    check: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Turn a checkpoint into a bundle directory and return its manifest.

    Args:
        model: ``demo``, a directory in Hugging Face form, a hub id, an ONNX file, or ``package.module:callable``, which
            returns a torch module.
        out: the bundle's directory; written beside itself and renamed into place when complete.
        target: a name from :func:`edgepress.targets.target_names`, or several: they share the weights' computation.
        recipe: a preset's name or a TOML file; when None the one that suits the targets.
        socs: chips of the target that has some (qnn-htp), for which its graphs are compiled ahead.
        context_length: positions that the bundle can hold; the model's own maximum when None. Of a model that takes
            text and writes none: tokens of a text in the static graph of an accelerator, 128 at most when None.
        calibration: files of text for a calibrated recipe; those that the recipe names when empty, and the model's own
            generations when it names none either. Of a model that a door opens, files of its inputs.
        revision: branch, tag or commit of a model on the hub; its main branch when None.
        task: what a model that a door opens is for; found where None.
        adapters: folders of LoRA adapters, as peft saves them, to merge into the weights, one after the other.
        adapter_slots: what adapters that are swapped at run time may change: a rank, ``RANK:q_proj,v_proj`` or folders
            of such adapters (:func:`edgepress.exporter.bundle.adapter_file.write_adapter` makes their files).
        check: compare the bundle with the reference model and keep the result in the manifest.
        force: replace ``out`` when it is a bundle with nothing else in it, or an empty directory.
        threads: threads that quantize; all cores when None. The bytes do not depend on it, but in calibrated recipes
            they do: matrix products add up in another order.
        progress: makes the bars of the long steps; :func:`edgepress.terminal.progress.progress` draws them on a
        terminal.

    Raises:
        InputError: something cannot be used as it is; no bundle is left behind. What calibration, a budget's
            measurement or the steps of a recipe that prunes had done stays in the hidden directory
            ``.NAME.edgepress`` beside ``out``, for the next run to go on from.
        CheckFailed: ``check`` found that the graph does not compute what the reference computes.

    """
    if threads is not None:
        whole_number("threads", threads)
    check_output(Path(out), force=force)
    if is_encoder_decoder(model, revision):
        refuse_of_language_models(str(model), context_length=None, adapters=adapters, slots=adapter_slots)
        prepared = decide_encoder_decoder(
            model,
            target=target,
            recipe=recipe,
            socs=socs,
            context_length=context_length,
            task=task,
            revision=revision,
            samples=calibration,
        )
        with TemporaryDirectory(prefix="edgepress-") as folder:
            learned = prepared.learn(calibration, Path(folder), threads=threads, progress=progress)
        return write_subject(
            learned,
            Path(out),
            learned.targets,
            socs=learned.socs,
            check=check,
            force=force,
            threads=threads,
            progress=progress,
            made=learned.made,
        )
    door = find_door(str(model))
    if door is not None:
        refuse_of_language_models(str(model), context_length=None, adapters=adapters, slots=adapter_slots)
        with TemporaryDirectory(prefix="edgepress-") as folder:
            traced = door.open(str(model), Options(task, revision), Path(folder))
            return export_traced(
                traced,
                out=out,
                target=target,
                recipe=recipe,
                socs=socs,
                context_length=context_length,
                samples=read_samples(calibration, traced) if calibration else None,
                check=check,
                force=force,
                threads=threads,
                progress=progress,
            )
    opened = open_model(
        model,
        target=target,
        recipe=recipe,
        socs=socs,
        context_length=context_length,
        calibration=calibration,
        revision=revision,
        adapters=adapters,
        adapter_slots=adapter_slots,
    )
    refuse_task(model, task)
    return make_bundle(opened, Path(out), check=check, force=force, threads=threads, progress=progress)


def export_traced(
    traced: Traced,
    *,
    out: str | Path,
    target: str | Sequence[str] = FALLBACK,
    recipe: str | Path | None = None,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    samples: Samples | None = None,
    check: bool = False,
    force: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Turn a model that a door opened into a bundle; arguments and errors are those of :func:`export`.

    ``samples`` gives real inputs of the model, for what has to see some and for ``check``.
    """
    check_output(Path(out), force=force)
    with TemporaryDirectory(prefix="edgepress-") as folder, Workspace.opened(Path(out)) as workspace:
        prepared = decide_traced(
            traced,
            target=target,
            recipe=recipe,
            socs=socs,
            context_length=context_length,
            samples=samples,
            folder=Path(folder),
            stages=lambda: workspace.part("pruning"),
            train=True,
            progress=progress,
        )
        prepared = prepared.within_float16().learn(progress)
        return write_subject(
            prepared,
            Path(out),
            prepared.targets,
            socs=prepared.socs,
            check=check,
            force=force,
            threads=threads,
            progress=progress,
            made=prepared.made,
            steps=prepared.steps,
            budget=prepared.budget,
            decisions=prepared.decisions,
            original=None if prepared.before is None else prepared.before[1],
            samples=prepared.samples,
        )


def make_bundle(
    opened: Opened, out: Path, *, check: bool, force: bool, threads: int | None, progress: Progress
) -> Manifest:
    """The story after the model is opened; arguments and errors are those of :func:`export`."""
    if check:
        check_known(opened.checkpoint)
    with Workspace.opened(out) as workspace:
        shrunk = shrink(opened, workspace, threads=threads, progress=progress)
        beside = workspace.inside("draft")  # made before the model learns: what a draft cannot be is known here
        drafted = shrink_draft(shrunk, beside, threads=threads, progress=progress)
        prepared = settle(shrunk, workspace, threads=threads, progress=progress)
        with atomic_directory(out, replace=force, may_remove=check_replaceable) as work:
            manifest, plan = fill(work, prepared, workspace, check=check, threads=threads, progress=progress)
            if drafted is None:
                return manifest
            draft = settle(drafted, beside, threads=threads, progress=progress)
            return add_draft(work, manifest, plan, draft, beside, threads=threads, progress=progress)


def fill(
    work: Path, prepared: Prepared, workspace: Workspace, *, check: bool, threads: int | None, progress: Progress
) -> tuple[Manifest, Prepared]:
    """Learn, write and seal a bundle in the directory ``work``; what is planned in the end comes with its manifest."""
    with (
        hashed(prepared) as sources,
        learn(prepared, workspace, sources.current, threads=threads, progress=progress) as learned,
    ):
        written = write(work, prepared, learned, check=check, threads=threads, progress=progress)
        manifest = seal(work, learned, written, sources.original(), threads=threads, progress=progress)
        return measure_kept(
            work, manifest, written.prepared, learned, threads=threads, progress=progress
        ), written.prepared


def measure_kept(
    work: Path,
    manifest: Manifest,
    prepared: Prepared,
    learned: Calibrated | None,
    *,
    threads: int | None,
    progress: Progress,
) -> Manifest:
    """Note what is lost by what the bundle keeps of a text, on the text that it was calibrated on or could be.

    Not where there is none, or too little of it; it is never made for this.
    """
    kept, calibration = manifest.kept, prepared.recipe.calibration
    if kept is None or (learned is None and not calibration.text):
        return manifest
    if learned is None:
        from edgepress.exporter.learn.calibration.run import form_tokens

        tokens = form_tokens(prepared, threads=threads, progress=progress)
    else:
        tokens = learned.tokens
    loss = loss_of_keeping(work, kept, tokens.reshape(-1), threads=threads or usable_cores(), progress=progress)
    if loss is None:
        _log.warning(
            "what keeping %d tokens of a text loses is not measured: the calibration text has %d; [calibration] tokens "
            "says how many are read",
            kept.tokens,
            tokens.size,
        )
        return manifest
    return bundle.add_kept_loss(work, manifest, loss)


def add_draft(
    work: Path,
    manifest: Manifest,
    model: Prepared,
    draft: Prepared,
    workspace: Workspace,
    *,
    threads: int | None,
    progress: Progress,
) -> Manifest:
    """Make the draft model a bundle of its own, and put it into the model's where it is worth it."""
    from edgepress.exporter.bundle import draft as drafts
    from edgepress.exporter.learn.pruning.score import scored_context

    assert model.asked.draft is not None
    assert draft.pruned is not None
    held_out = draft.pruned.held_out
    with TemporaryDirectory(prefix="edgepress-") as temporary:
        made = Path(temporary)
        found, draft = fill(made, draft, workspace, check=False, threads=threads, progress=progress)
        share = draft.bytes_a_token / model.bytes_a_token
        worth = drafts.measure_draft(
            work,
            made,
            held_out,
            share,
            context=scored_context(model.plan.context_length)[0],
            threads=threads or usable_cores(),
            progress=progress,
        )
        least = model.asked.draft.gain
        if worth.speed < least:
            why = f"{worth}, and the recipe wants {least:g} ×"
            return bundle.leave_out(work, manifest, drafts.DRAFTER, why)
        about = {**worth.to_json(), "parameters": draft.plan.parameters, "steps": list(found.steps)}
        entry, files = drafts.add_draft(work, made, about)
    return bundle.add_drafter(work, manifest, entry, files)


@dataclass(frozen=True)
class Sources:
    """SHA-256 of the files of the checkpoint that the user named, and of the one that is exported."""

    original: Callable[[], dict[str, str]]
    current: Callable[[], dict[str, str]]


@contextmanager
def hashed(shrunk: Shrunk) -> Iterator[Sources]:
    """Hash the checkpoints while the block works."""
    with ThreadPoolExecutor(1) as background:
        original = background.submit(shrunk.original.source_hashes)
        current = original if shrunk.pruned is None else background.submit(shrunk.checkpoint.source_hashes)
        yield Sources(original.result, current.result)


@contextmanager
def learn(
    prepared: Prepared,
    workspace: Workspace,
    source: Callable[[], Mapping[str, str]],
    *,
    threads: int | None,
    progress: Progress,
) -> Iterator[Calibrated | None]:
    """Calibrate: the weights that methods made which look at text. None where no method does."""
    for name, why in prepared.decisions.left_out.items():
        _log.warning("%s is left out: %s", name, why)
    if not prepared.needs_calibration:
        yield None
        return
    from edgepress.exporter.learn.calibration.run import calibrate

    with calibrate(
        prepared,
        workspace.part("calibration"),
        source=source(),
        left_out=prepared.decisions.left_out,
        bos=first_token(prepared.checkpoint, prepared.decoder),
        threads=threads,
        progress=progress,
    ) as calibrated:
        yield calibrated


@dataclass(frozen=True)
class Written:
    """What the manifest says of the files that are written, and what was ``prepared`` with all that they decided."""

    prepared: Prepared
    reports: Mapping[str, TensorReport]
    targets: dict[str, dict[str, object]]
    sparsity: dict[str, object] | None
    parity: dict[str, object] | None


def write(
    work: Path,
    prepared: Prepared,
    learned: Calibrated | None,
    *,
    check: bool,
    threads: int | None,
    progress: Progress,
) -> Written:
    """Write the bundle's files: weights, graph, tokenizer, what each target needs, pictures of the training."""
    prepared, reports = write_weights(work, prepared, learned, threads=threads, progress=progress)
    prepared = keep_in_float32(work, prepared, learned, threads=threads, progress=progress)
    prepared = scale_cache(work, prepared, learned, threads=threads, progress=progress)
    checkpoint, decoder, plan = prepared.checkpoint, prepared.decoder, prepared.plan
    sparsity = describe_zeros(
        work / bundle.DATA_FILE, plan, decoder, checkpoint, threads=threads or usable_cores(), progress=progress
    )
    prepared.write_files(work)
    if learned is not None and learned.fingerprint is not None:
        write_fingerprint(work, learned.fingerprint)
    parity = prepared.score(work, progress) if check else None

    def tokens() -> NDArray[np.int64]:
        from edgepress.exporter.learn.calibration.run import form_tokens

        return form_tokens(prepared, threads=threads, progress=progress) if learned is None else learned.tokens

    targets = write_forms(work, prepared, prepared.targets, prepared.socs, tokens, threads=threads, progress=progress)
    write_curves(work, prepared.steps)
    return Written(prepared, reports, targets, sparsity, parity)


def write_weights(
    work: Path, prepared: Prepared, learned: Calibrated | None, *, threads: int | None, progress: Progress
) -> tuple[Prepared, dict[str, TensorReport]]:
    """Write the data file. Where float16 cannot hold scales that are planned in it, it is planned and written anew."""
    stages = None if learned is None else learned.stages
    try:
        return prepared, write_data(work, prepared, stages, threads=threads, progress=progress)
    except ScalesLostError as lost:
        prepared = prepared.with_float32_scales(lost.tensors)
    (work / bundle.DATA_FILE).unlink()
    return prepared, write_data(work, prepared, stages, threads=threads, progress=progress)


def keep_in_float32(
    work: Path, prepared: Prepared, learned: Calibrated | None, *, threads: int | None, progress: Progress
) -> Prepared:
    """Find what overflows float16 by running the weights that are written, and decide that it computes in float32.

    On the text that calibration saw, on the one that a recipe in float16 names, or on built-in prose.
    """
    activations, decoder = prepared.recipe.activations, prepared.decoder
    if not activations.in_float16:
        return prepared
    tokens, text = text_to_run(prepared, learned)
    graphs = graphs_to_compare(prepared, prepared.cpu)
    kept = find_overflow(work, graphs, decoder, tokens, text, threads=threads or usable_cores(), progress=progress)
    return prepared.decided(replace(prepared.decisions, kept_layers={**activations.kept_layers, **kept}))


def scale_cache(
    work: Path, prepared: Prepared, learned: Calibrated | None, *, threads: int | None, progress: Progress
) -> Prepared:
    """Find the scales of keys and values that are integers by running the weights that are written."""
    plan, decoder = prepared.plan, prepared.decoder
    if not plan.integer_states:
        return prepared
    if learned is None:
        from edgepress.exporter.learn.calibration.run import form_tokens

        tokens = form_tokens(prepared, threads=threads, progress=progress)
    else:
        tokens = learned.tokens
    scales = find_cache_scales(
        work,
        make_graph(decoder, float32_plan(prepared), prepared.cpu),
        decoder,
        plan,
        tokens,
        threads=threads or usable_cores(),
        progress=progress,
    )
    return replace(prepared, plan=replace(plan, cache_scales=scales))


def text_to_run(prepared: Prepared, learned: Calibrated | None) -> tuple[NDArray[np.int64], str]:
    """Tokens (sequences, length) to look for overflow on, and what messages call them.

    Those that calibration saw, of the files that a recipe in float16 names, or of built-in prose.
    """
    checkpoint, decoder, calibration = prepared.checkpoint, prepared.decoder, prepared.recipe.calibration
    if learned is not None:
        return learned.tokens[:MOST_SEQUENCES], "the calibration text"
    if prepared.recipe.activations.type == "float16" and calibration.text:
        from edgepress.exporter.learn.calibration.run import read_tokens

        bos, longest = first_token(checkpoint, decoder), prepared.plan.context_length
        return read_tokens(checkpoint, decoder, calibration, bos, longest).tokens, "the calibration text"
    return prose_tokens(checkpoint, decoder.vocab_size, prepared.plan.context_length)[None], "built-in prose"


def seal(
    work: Path,
    learned: Calibrated | None,
    written: Written,
    source: Mapping[str, str],
    *,
    threads: int | None,
    progress: Progress,
) -> Manifest:
    """Read back what is written, and write the manifest: what was asked, decided, learned and written."""
    prepared = written.prepared
    graphs = planned_graphs(prepared)
    manifest = bundle.write_manifest(
        work,
        prepared,
        written.reports,
        recipe=prepared.asked,
        decisions=prepared.decisions,
        graphs=tuple(graph.entry for graph in graphs) if len(graphs) > 1 else (),
        targets=written.targets,
        source=source,
        calibration=None if learned is None else learned.described,
        budget=prepared.budget,
        parity=written.parity,
        sparsity=written.sparsity,
        notes=prepared.notes,
        origin=None if prepared.origin is None else prepared.origin.to_json(),
    )
    if prepared.pruned is None:
        return manifest
    steps = describe_steps(work, prepared.plan, prepared.pruned, threads, progress)
    return bundle.add_steps(work, manifest, steps)
