"""Checkpoint → bundle: what happens, in order."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import onnx

from edgepress import __version__
from edgepress.cores import usable_cores
from edgepress.errors import InputError
from edgepress.exporter import bundle
from edgepress.exporter.architectures import architecture, describe
from edgepress.exporter.checkpoint import Checkpoint, check_tensors, read_weight, resolve_model, same_tensor
from edgepress.exporter.compress import Method, Pruning, Recovery, Transform, load_method, method_options
from edgepress.exporter.decoder import Decoder
from edgepress.exporter.download import describe_zeros
from edgepress.exporter.forms import FormTask, find_form
from edgepress.exporter.genai_config import bos_token, make_genai_config
from edgepress.exporter.graph.decoder import build_decoder
from edgepress.exporter.plan import Plan, make_plan
from edgepress.exporter.pruning.shipped import describe_steps, kept_steps, write_curves
from edgepress.exporter.recipe import Recipe, read_recipe
from edgepress.exporter.stream import TensorReport, write_weights
from edgepress.files import atomic_directory, refuse_existing
from edgepress.fingerprint import write_fingerprint
from edgepress.manifest import MANIFEST_NAME, Manifest
from edgepress.progress import Progress, silent
from edgepress.targets import (
    Operator,
    Soc,
    Target,
    find_soc,
    find_target,
    has_kernel,
    missing_kernels,
    target_names,
)

if TYPE_CHECKING:
    from edgepress.exporter.calibration.run import Calibrated  # needs torch
    from edgepress.exporter.pruning.run import Pruned

_log = logging.getLogger("edgepress.export")

FALLBACK = "arm64-cpu"  # what runs the graph of a bundle whose targets are accelerators only


@dataclass(frozen=True)
class Prepared:
    """Everything that is decided before a weight is read.

    ``checkpoint`` is what is exported: where the recipe prunes, what the last of its steps wrote.
    """

    checkpoint: Checkpoint
    decoder: Decoder
    recipe: Recipe
    targets: tuple[Target, ...]
    plan: Plan
    budget: dict[str, object] | None = None  # what was measured for the recipe's budget, and chosen
    left_out: Mapping[str, str] = field(default_factory=dict)  # recoveries of the recipe that decline, and why
    socs: tuple[Soc, ...] = ()  # chips that the targets which have some are compiled for
    pruned: Pruned | None = None  # what the recipe's steps made, and the checkpoint that they began with

    @property
    def cpu(self) -> Target:
        """The CPU whose kernels the bundle's own graph is made for; accelerators fall back to it."""
        return next((target for target in self.targets if target.is_cpu), find_target(FALLBACK))

    @property
    def original(self) -> Checkpoint:
        """The checkpoint that the user named."""
        return self.checkpoint if self.pruned is None else self.pruned.original


def decide(
    model: str | Path,
    *,
    target: str | Sequence[str],
    recipe: str | Path,
    socs: Sequence[str] = (),
    context_length: int | None = None,
    calibration: Sequence[str | Path] = (),
    scratch: Path | None = None,
    pruning: Path | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Read headers and config only, and plan the export (what ``edgepress plan`` prints).

    A recipe that prunes is planned for the model that its steps leave: they are run, and kept in ``pruning``. When that
    is None only those that change sizes are run, in a temporary directory.

    A recipe with a budget is planned in three steps, measure → solve → plan, the first of which runs the model. What
    it measures is kept in ``scratch``, nowhere when None. One with float16 activations runs the model too, to find the
    layers that overflow.

    Raises:
        InputError: the model, recipe or target cannot be used; the message says which, why and what to do.

    """
    targets, chips = find_targets(target, socs)
    chosen_recipe = ask_recipe(recipe, context_length, calibration)
    check_options(chosen_recipe)
    checkpoint, pruned = Checkpoint.open(resolve_model(str(model))), None
    if chosen_recipe.prune:
        check_methods(chosen_recipe)

        from edgepress.exporter.pruning.run import prune

        pruned = prune(checkpoint, chosen_recipe, targets, folder=pruning, threads=threads, progress=progress)
        checkpoint, text = pruned.checkpoint, replace(chosen_recipe.calibration, text=pruned.text)
        chosen_recipe = replace(chosen_recipe, calibration=text)
    plain = read_decoder(checkpoint)
    left_out = declined(plain, chosen_recipe)
    chosen_recipe = replace(chosen_recipe, after=tuple(name for name in chosen_recipe.after if name not in left_out))
    if chosen_recipe.activations.type == "float16":
        chosen_recipe = keep_what_overflows(checkpoint, plain, chosen_recipe, threads=threads, progress=progress)
    decoder = describe_methods(plain, chosen_recipe)

    context = chosen_recipe.context_length or decoder.context_length
    length = min(chosen_recipe.calibration.length, context)
    chosen_recipe = replace(chosen_recipe, calibration=replace(chosen_recipe.calibration, length=length))

    plan = plan_tensors(checkpoint, decoder, chosen_recipe)
    prepared = Prepared(checkpoint, decoder, chosen_recipe, targets, plan, left_out=left_out, socs=chips, pruned=pruned)
    if chosen_recipe.budget is not None:
        prepared = spend(prepared, plain, scratch=scratch, threads=threads, progress=progress)
    refuse_forms(prepared)
    return prepared


def ask_recipe(recipe: str | Path, context_length: int | None, calibration: Sequence[str | Path]) -> Recipe:
    """The recipe, with the context length and the text that whoever called gave in the place of its own."""
    found = read_recipe(recipe)
    if context_length is not None:
        if context_length < 1:
            raise InputError(f"the context is {context_length}; it must be at least 1 token")
        found = replace(found, context_length=context_length)
    if calibration:
        found = replace(found, calibration=replace(found.calibration, text=tuple(map(str, calibration))))
    return found


def plan_tensors(checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe) -> Plan:
    """The plan of a checkpoint's tensors, which knows how wide their elements are stored."""
    return make_plan(decoder, recipe, lambda name: checkpoint.tensors[name].itemsize)


def spend(
    prepared: Prepared, plain: Decoder, *, scratch: Path | None, threads: int | None, progress: Progress
) -> Prepared:
    """Measure and solve the recipe's budget; see :func:`decide`. ``plain`` is the decoder before any method."""
    from edgepress.exporter.budget.measure import spend_budget

    bos = first_token(prepared.checkpoint, prepared.decoder)
    with TemporaryDirectory(prefix="edgepress-") as temporary:
        directory = Path(temporary) if scratch is None else scratch
        spent, summary = spend_budget(prepared, plain, scratch=directory, bos=bos, threads=threads, progress=progress)
    plan = plan_tensors(prepared.checkpoint, prepared.decoder, spent.recipe)
    return replace(prepared, recipe=spent.recipe, plan=plan, budget=summary)


def find_targets(target: str | Sequence[str], socs: Sequence[str]) -> tuple[tuple[Target, ...], tuple[Soc, ...]]:
    """The targets of these names, each once, and the chips of the one among them that has some.

    Raises:
        InputError: a name is unknown, there is none, or chips are named and no target has any.

    """
    names = [target] if isinstance(target, str) else list(dict.fromkeys(target))
    if not names:
        raise InputError(f"name at least one target: {', '.join(target_names())}")
    targets = tuple(find_target(name) for name in names)
    owner = next((one for one in targets if one.socs), targets[0])
    return targets, tuple(find_soc(owner, name) for name in dict.fromkeys(socs))


def refuse_forms(prepared: Prepared) -> None:
    """Raise InputError when a target's form cannot hold what is planned."""
    for target in prepared.targets:
        if target.form is not None:
            find_form(target.form).refuse(prepared, target)


def keep_what_overflows(
    checkpoint: Checkpoint, decoder: Decoder, recipe: Recipe, *, threads: int | None, progress: Progress
) -> Recipe:
    """The recipe with the layers that cannot compute in float16, by running its calibration text or built-in prose.

    Raises:
        InputError: the recipe has transforms, which change what overflows, or the text cannot be used.

    """
    if recipe.before:
        raise InputError(
            f'[activations] type = "float16" and before = {list(recipe.before)}: layers that overflow are found before '
            "transforms change what they compute; leave one of the two out"
        )
    from edgepress.exporter.calibration.overflow import layers_in_float32
    from edgepress.exporter.calibration.run import read_tokens, use_threads
    from edgepress.exporter.parity import prose_tokens

    bundle.check_tokenizer(checkpoint)
    context = recipe.context_length or decoder.context_length
    if recipe.calibration.text:
        bos = first_token(checkpoint, decoder)
        tokens, text = read_tokens(checkpoint, decoder, recipe.calibration, bos, context).tokens, "the calibration text"
    else:
        tokenizer = checkpoint.directory / "tokenizer.json"
        tokens, text = prose_tokens(tokenizer, decoder, context)[None], "built-in prose"
    label = "looking for layers that overflow float16"
    with use_threads(decoder, threads), progress(len(decoder.layers), label, " layers") as advance:
        kept = layers_in_float32(decoder, lambda weight: read_weight(checkpoint, weight), tokens, text, advance)
    return replace(recipe, activations=replace(recipe.activations, kept_layers=kept))


def declined(decoder: Decoder, recipe: Recipe) -> dict[str, str]:
    """Recoveries of the recipe that leave this model alone, by name, and why."""
    reasons: dict[str, str] = {}
    for name in recipe.after:
        method = load_method(name)
        if isinstance(method, Recovery) and (reason := method.declines(decoder, method_options(method, recipe))):
            reasons[name] = reason
    return reasons


def check_methods(recipe: Recipe) -> None:
    """Refuse what is named wrongly before hours are spent on pruning: the methods that round, prepare and repair.

    Raises:
        InputError: there is no method of that name, or it has no such option.

    """
    storages = (recipe.weights, recipe.embedding, recipe.head, *(override.storage for override in recipe.overrides))
    for name in sorted({*recipe.before, *recipe.after, *(storage.method for storage in storages)}):
        method = load_method(name)
        if not isinstance(method, Method):
            method_options(method, recipe)


def check_options(recipe: Recipe) -> None:
    """Refuse options that nothing reads: of a method that there is not, or of a pruning step that is not in `prune`.

    Others may be read by a method that another one starts with, so they are not looked for.

    Raises:
        InputError: there are such options.

    """
    for name in recipe.options:
        if isinstance(load_method(name), Pruning) and name not in recipe.prune:
            steps = ", ".join(recipe.prune) or "no step"
            raise InputError(
                f"[options.{name}] is for {name}, and `prune` has {steps}; add {name} there, or leave its options out"
            )


def needs_calibration(recipe: Recipe, plan: Plan) -> bool:
    """Whether a method of the recipe looks at what the model computes."""
    rounding = {tensor.scheme.method for tensor in plan.tensors if tensor.scheme is not None}
    looks = any(not isinstance(load_method(name), Method) for name in rounding)
    return looks or bool(recipe.before or recipe.after) or recipe.activations.is_calibrated


def describe_methods(decoder: Decoder, recipe: Recipe) -> Decoder:
    """Add to the decoder what the recipe's methods add to it: biases, a rotation."""
    for name in (*recipe.before, *recipe.after):
        method = load_method(name)
        if isinstance(method, Transform | Recovery):
            decoder = method.describe(decoder, recipe)
    return decoder


def read_decoder(checkpoint: Checkpoint) -> Decoder:
    """Describe the checkpoint's model; every config key is understood and every tensor is used, or it is an error."""
    where = str(checkpoint.directory / "config.json")
    decoder = describe(checkpoint.config, checkpoint.tensors.keys(), where)
    if decoder.tied:
        _check_tied(checkpoint, decoder)
    ignored = architecture(decoder.model_type).ignored_tensors
    check_tensors(checkpoint, decoder.weights(), ignored=ignored)
    return decoder


def first_token(checkpoint: Checkpoint, decoder: Decoder) -> int | None:
    """The token that begins every text, None when the model has none."""
    return bos_token(decoder, checkpoint.config, bundle.read_generation(checkpoint))


def _check_tied(checkpoint: Checkpoint, decoder: Decoder) -> None:
    """Refuse a checkpoint whose config ties head and embedding while it stores two that differ: which is meant?"""
    embedding, stored_head = decoder.embedding.parts[0].tensor, "lm_head.weight"
    if stored_head in checkpoint.tensors and not same_tensor(checkpoint, embedding, stored_head):
        raise InputError(
            f"config.json ties the head to {embedding}, but the checkpoint stores another {stored_head}; "
            "set tie_word_embeddings to false, or remove that tensor"
        )


def export(
    model: str | Path,
    *,
    out: str | Path,
    target: str | Sequence[str] = FALLBACK,
    recipe: str | Path = "int4",
    socs: Sequence[str] = (),
    context_length: int | None = None,
    calibration: Sequence[str | Path] = (),
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
        recipe: a preset's name or a TOML file.
        socs: chips of the target that has some (qnn-htp), for which its graphs are compiled ahead.
        context_length: positions that the bundle can hold; the model's own maximum when None.
        calibration: files of text for a calibrated recipe; those that the recipe names when empty, and the model's own
            generations when it names none either.
        check: compare the bundle with the reference model and keep the result in the manifest.
        force: replace ``out`` when it is a bundle, or an empty directory.
        threads: threads that quantize; all cores when None. The bytes do not depend on it, but in calibrated recipes
            they do: matrix products add up in another order.
        progress: makes the bars of the long steps; :func:`edgepress.progress.progress` draws them on a terminal.

    Raises:
        InputError: something cannot be used as it is; no bundle is left behind. What calibration or a budget's
            measurement had done stays in a hidden directory beside ``out``, for the next run to go on from; so do
            the steps of a recipe that prunes.
        CheckFailed: ``check`` found that the graph does not compute what the reference computes.

    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; it must be at least 1")
    if force:
        _check_replaceable(Path(out))
    else:
        refuse_existing(Path(out))
    scratch = Path(out).absolute().parent / f".{Path(out).name}.budget"
    with kept_steps(recipe, Path(out)) as pruning:
        prepared = decide(
            model,
            target=target,
            recipe=recipe,
            socs=socs,
            context_length=context_length,
            calibration=calibration,
            scratch=scratch,
            pruning=pruning,
            threads=threads,
            progress=progress,
        )
        manifest = write_bundle(prepared, Path(out), check=check, force=force, threads=threads, progress=progress)
    shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def write_bundle(
    prepared: Prepared, out: Path, *, check: bool, force: bool, threads: int | None, progress: Progress
) -> Manifest:
    """Write what is planned: calibrate, round, write the files and read them back; see :func:`export`."""
    for name, why in prepared.left_out.items():
        _log.warning("%s is left out: %s", name, why)
    bundle.check_tokenizer(prepared.checkpoint)
    genai_config = make_genai_config(
        prepared.decoder, prepared.plan, prepared.checkpoint.config, bundle.read_generation(prepared.checkpoint)
    )
    graph = make_graph(prepared)
    with (
        ExitStack() as stack,
        atomic_directory(out, replace=force) as work,
        ThreadPoolExecutor(1) as background,
    ):
        source = background.submit(prepared.original.source_hashes)
        current = source if prepared.pruned is None else background.submit(prepared.checkpoint.source_hashes)
        calibrated = None
        if needs_calibration(prepared.recipe, prepared.plan):
            calibrated = stack.enter_context(_calibrate(prepared, out, current.result(), threads, progress))
        reports = write_data(work, prepared, calibrated, threads=threads, progress=progress)
        sparsity = measure_zeros(work, prepared, threads=threads, progress=progress)
        write_graph(work, graph)
        bundle.copy_tokenizer(prepared.checkpoint, work)
        bundle.write_json(work / bundle.GENAI_FILE, genai_config)
        if calibrated is not None and calibrated.fingerprint is not None:
            write_fingerprint(work, calibrated.fingerprint)
        parity = check_parity(work, prepared, progress) if check else None
        targets = write_forms(work, prepared, calibrated, threads=threads, progress=progress)
        write_curves(work, prepared)
        manifest = bundle.write_manifest(
            work,
            decoder=prepared.decoder,
            targets=targets,
            recipe=prepared.recipe,
            plan=prepared.plan,
            reports=reports,
            source=source.result(),
            calibration=None if calibrated is None else calibrated.described,
            budget=prepared.budget,
            parity=parity,
            sparsity=sparsity,
        )
        if prepared.pruned is not None:
            manifest = bundle.add_steps(work, manifest, describe_steps(work, prepared, threads, progress))
    return manifest


def make_graph(prepared: Prepared) -> onnx.ModelProto:
    """The graph that CPUs run; its weights are regions of the data file.

    Raises:
        InputError: onnxruntime's CPU provider lacks a kernel for a node.

    """
    graph = build_decoder(
        prepared.decoder,
        prepared.plan,
        data_file=bundle.DATA_FILE,
        version=__version__,
        has_half=lambda operator: has_kernel(prepared.cpu, operator, "float16"),
    )
    check_legal(graph, prepared.cpu)
    return graph


def write_graph(work: Path, graph: onnx.ModelProto) -> None:
    """Write the CPU graph into the bundle."""
    (work / bundle.MODEL_FILE).write_bytes(graph.SerializeToString(deterministic=True))


def write_forms(
    work: Path, prepared: Prepared, calibrated: Calibrated | None, *, threads: int | None, progress: Progress
) -> dict[str, dict[str, object]]:
    """Write what each target needs beside the CPU graph, into a folder of its name; returns what was written."""
    written: dict[str, dict[str, object]] = {}
    for target in prepared.targets:
        written[target.name] = {}
        if target.form is not None:
            folder = work / target.name
            folder.mkdir()
            tokens = None if calibrated is None else calibrated.tokens
            task = FormTask(work, folder, target, prepared, threads or usable_cores(), progress, tokens)
            written[target.name] = find_form(target.form).write(task)
    return written


def _calibrate(
    prepared: Prepared, out: Path, source: Mapping[str, str], threads: int | None, progress: Progress
) -> AbstractContextManager[Calibrated]:
    from edgepress.exporter.calibration.run import calibrate

    bos = first_token(prepared.checkpoint, prepared.decoder)
    return calibrate(prepared, out, source=source, bos=bos, threads=threads, progress=progress)


def write_data(
    work: Path, prepared: Prepared, calibrated: Calibrated | None, *, threads: int | None, progress: Progress
) -> dict[str, TensorReport]:
    """Write every weight and table into the data file; returns how well each tensor is stored."""
    with progress(prepared.plan.parameters, "quantizing", " weights") as advance:
        reports = write_weights(
            prepared.checkpoint,
            prepared.plan,
            work / bundle.DATA_FILE,
            threads=threads or usable_cores(),
            calibrated=None if calibrated is None else calibrated.stages,
            progress=advance,
        )
    bundle.write_tables(work / bundle.DATA_FILE, prepared.plan, prepared.decoder)
    return reports


def measure_zeros(
    work: Path, prepared: Prepared, *, threads: int | None, progress: Progress
) -> dict[str, object] | None:
    """What zeros that the recipe asks for save in the download; see :mod:`edgepress.exporter.download`."""
    return describe_zeros(
        work / bundle.DATA_FILE,
        prepared.plan,
        prepared.decoder,
        prepared.checkpoint,
        threads=threads or usable_cores(),
        progress=progress,
    )


def _check_replaceable(out: Path) -> None:
    """Refuse to replace what is no bundle: ``--force`` on a home directory must not empty it."""
    is_bundle = (out / MANIFEST_NAME).is_file()
    if out.exists() and not is_bundle and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is not a bundle (it has no {MANIFEST_NAME}); --force replaces bundles only")


def check_legal(graph: onnx.ModelProto, target: Target) -> None:
    """Raise InputError when ``target``'s provider lacks a kernel for a node of ``graph``."""
    versions = {opset.domain: opset.version for opset in graph.opset_import}
    used = {Operator(node.domain, node.op_type, versions[node.domain]) for node in graph.graph.node}
    missing = missing_kernels(target, used)
    if missing:
        names = ", ".join(f"{operator.domain or 'ai.onnx'}.{operator.op} v{operator.version}" for operator in missing)
        raise InputError(f"{target.name}: {target.provider} has no kernel for {names}; use another target or recipe")


def check_parity(work: Path, prepared: Prepared, progress: Progress) -> dict[str, object]:
    """Compare the written graph with the reference model; see :mod:`edgepress.exporter.parity`."""
    from edgepress.exporter.parity import parity

    return parity(work, prepared.checkpoint, prepared.decoder, prepared.plan, progress=progress)
