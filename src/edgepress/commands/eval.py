"""``edgepress eval``: how well a bundle predicts text, or does its task."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.commands.common.opening import (
    add_adapter_argument,
    add_loading_arguments,
    add_place_arguments,
    open_task,
)
from edgepress.commands.export import add_revision_argument
from edgepress.terminal.stdio import say

if TYPE_CHECKING:
    from edgepress.runtime.measures.evaluate import LogitsSource
    from edgepress.runtime.tasks.kinds import Run, TaskModel
    from edgepress.tasks.task import Task

NAME = "eval"
HELP = "score a bundle on text, or on labelled samples of its task, beside its reference model"
CONTEXT, STRIDE = 256, 128  # tokens
_OF_LANGUAGE_MODELS = ("text", "context", "stride", "graph", "adapter")
_OF_TASKS = ("data", "metric", "samples")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    add_place_arguments(parser)
    add_adapter_argument(parser)
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="of a language model: one document, or .jsonl: a `text` on each line, or .json: a list",
    )
    parser.add_argument(
        "--data",
        metavar="SOURCE",
        help="of a bundle with a task: labelled samples, a folder of images or WAV files, .csv, .jsonl, .npz, a saved "
        "dataset or package.module:callable",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="with --data: top1, spearman, wer … or package.module:callable (default: those of the task)",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="with --data: so many of them, spread over all")
    parser.add_argument(
        "--reference", metavar="MODEL", help="what the bundle was made from, to compare with; or a bundle with a task"
    )
    add_revision_argument(parser)
    parser.add_argument("--context", type=int, metavar="N", help=f"tokens of each window (default: {CONTEXT})")
    parser.add_argument(
        "--stride", type=int, metavar="N", help=f"new tokens of each window but the first (default: {STRIDE})"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Score, then print the result."""
    import json
    from dataclasses import asdict

    from edgepress.bundle.fingerprint import leak_warning
    from edgepress.commands.prepare import prepare_first
    from edgepress.cores import usable_cores
    from edgepress.errors import InputError
    from edgepress.runtime.config import read_config
    from edgepress.runtime.loading import find_task_of
    from edgepress.runtime.measures.evaluate import evaluate, format_evaluation, read_documents
    from edgepress.runtime.measures.keeping import loss_on_documents
    from edgepress.terminal.progress import progress

    task = find_task_of(arguments.bundle)
    others = _OF_TASKS if task is None else _OF_LANGUAGE_MODELS
    if given := [name for name in others if getattr(arguments, name) not in (None, [])]:
        what, right = ("a language model", "--text FILE") if task is None else (f"for {task.name}", "--data SOURCE")
        raise InputError(
            f"{arguments.bundle} is {what}, so there is nothing for --{given[0]}; leave it out, and give {right}"
        )
    if task is not None:
        return _score_task(arguments)
    if arguments.text is None:
        raise InputError(f"{arguments.bundle} is a language model; give --text FILE")
    documents = read_documents(arguments.text)
    prepare_first(arguments.bundle, not arguments.no_prepare and arguments.on in (None, "cpu"), arguments.graph)
    warning = leak_warning(arguments.bundle, documents)
    if warning is not None:
        say(f"warning: {warning}")
    with progress(sum(len(document.encode()) for document in documents), "scoring", "B") as advance:
        result = evaluate(
            arguments.bundle,
            documents,
            context=CONTEXT if arguments.context is None else arguments.context,
            stride=STRIDE if arguments.stride is None else arguments.stride,
            reference=None
            if arguments.reference is None
            else reference_for(
                arguments.bundle,
                arguments.reference,
                revision=arguments.revision,
                threads=usable_cores() if arguments.threads is None else arguments.threads,
            ),
            threads=arguments.threads,
            prepared=not arguments.no_prepare,
            on=arguments.on,
            soc=arguments.soc,
            graph=arguments.graph,
            adapter=arguments.adapter,
            progress=advance,
        )
    kept = read_config(arguments.bundle, arguments.graph).kept if arguments.on in {None, "cpu"} else None
    lost = None
    if kept is not None:
        lost = loss_on_documents(
            arguments.bundle,
            documents,
            threads=usable_cores() if arguments.threads is None else arguments.threads,
            graph=arguments.graph,
            prepared=not arguments.no_prepare,
            adapter=arguments.adapter,
            progress=progress,
        )
    if arguments.json:
        by_keeping = {} if kept is None else {"kept": {"tokens": kept.tokens, "loss": lost and asdict(lost)}}
        print(json.dumps(result.to_json() | by_keeping, indent=2))
        return 0
    print(format_evaluation(result))
    if kept is not None:
        none = "none here is longer and fits into the model's context"
        print(f"keeps           {kept.tokens:,} tokens of a text: {lost or none}")
    return 0


def _score_task(arguments: argparse.Namespace) -> int:
    """Score a bundle with a task on labelled samples."""
    import json
    from contextlib import ExitStack

    from edgepress.errors import InputError
    from edgepress.runtime.scoring.kinds import chosen_metrics
    from edgepress.runtime.scoring.score import format_scores, score, spread_over
    from edgepress.samples.read import read_samples

    model = open_task(arguments)
    if arguments.data is None:
        raise InputError(f"{arguments.bundle} is for {model.task.name}; give --data SOURCE")
    samples = spread_over(read_samples(arguments.data, model.feeder.takes), arguments.samples)
    labelled = samples[0].label is not None
    metrics = chosen_metrics(arguments.metric, model.task.name, labelled=labelled)
    with ExitStack() as stack:
        reference = None
        if arguments.reference is not None:
            reference = stack.enter_context(task_reference(model, arguments.reference, arguments.revision))
        scores = score(model, samples, metrics, reference=reference)
    print(json.dumps([one.to_json() for one in scores], indent=2) if arguments.json else format_scores(scores))
    return 0


@contextmanager
def task_reference(model: "TaskModel", reference: str, revision: str | None = None) -> Iterator["TaskModel"]:
    """The model that a bundle was made from, or another bundle, with the bundle's own processing.

    A checkpoint becomes a float32 bundle in the cache, once for each state of its files.

    Raises:
        InputError: it is neither, or its graph has other inputs or outputs.

    """
    from tempfile import TemporaryDirectory

    from edgepress.bundle.manifest import MANIFEST_NAME
    from edgepress.errors import InputError
    from edgepress.runtime.loading import load_task

    if (Path(reference) / MANIFEST_NAME).is_file():
        other = load_task(reference)
        if other.task.name != model.task.name:
            raise InputError(
                f"{reference} is for {other.task.name}, the bundle for {model.task.name}; name what it was made from, "
                "or a bundle of the same task"
            )
        yield other
        return
    try:
        from edgepress.exporter.decide.encoder_decoder import is_encoder_decoder
        from edgepress.exporter.doors.kinds import Options, find_door
        from edgepress.sessions import open_on_cpu
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgepress"):
            raise
        raise InputError(f"--reference needs {error.name}; pip install 'edgepress[export]'") from error
    door = find_door(reference)
    if (door is not None and door.name == "checkpoint") or is_encoder_decoder(reference, revision):
        found = load_task(_float_bundle(reference, model.task.name, revision), prepared=False)
        same = _as_the_bundle(model, found.task, found.run, reference)
        yield same if found.task.sequences is None else found
        return
    if door is None:
        raise InputError(f"{reference} is no bundle and no model that is no language model; name what it was made from")
    with TemporaryDirectory(prefix="edgepress-") as folder:
        traced = door.open(reference, Options(task=model.task.name, revision=revision), Path(folder))
        session, outputs = open_on_cpu(traced.file), [edge.name for edge in traced.task.outputs]
        yield _as_the_bundle(
            model,
            traced.task,
            lambda feed: dict(zip(outputs, session.run(outputs, dict(feed)), strict=True)),
            reference,
        )


def _as_the_bundle(model: "TaskModel", task: "Task", run: "Run", reference: str) -> "TaskModel":
    """What ``run`` computes, a model for ``task``, with the processing of ``model``.

    Raises:
        InputError: it has other inputs or outputs.

    """
    from edgepress.errors import InputError
    from edgepress.runtime.tasks.kinds import open_task

    names = [[edge.name for edge in edges] for edges in (task.inputs, task.outputs)]
    own = [[edge.name for edge in edges] for edges in (model.task.inputs, model.task.outputs)]
    alike = (task.sequences is None) == (model.task.sequences is None)
    if not alike or [sorted(part) for part in names] != [sorted(part) for part in own]:
        raise InputError(f"{reference} has the inputs and outputs {names}, the bundle {own}; it is another model")
    return open_task(model.task, run, model.folder)


def _float_bundle(reference: str, task: str, revision: str | None) -> Path:
    """A checkpoint as a float32 bundle in the cache, named after what decides its bytes; made where it is not there."""
    import hashlib
    import json
    from importlib.metadata import version

    from edgepress.disk.cache import cache_folder, locked
    from edgepress.disk.files import sha256_file
    from edgepress.exporter import export
    from edgepress.exporter.source.hub import find_whole

    folder = find_whole(reference, revision)[0]
    files = {str(p.relative_to(folder)): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    versions = {name: version(name) for name in ("edgepress", "torch", "transformers", "onnx", "onnxscript")}
    key = hashlib.sha256(json.dumps([task, files, versions], sort_keys=True).encode()).hexdigest()[:32]
    with locked(cache_folder("references")):
        bundle = cache_folder("references") / key
        if not bundle.is_dir():
            say(f"{reference} becomes a float32 bundle to compare with, kept in {bundle}")
            export(reference, out=bundle, recipe="fp32", task=task, revision=revision)
    return bundle


def reference_for(bundle: Path, model: str, *, threads: int, revision: str | None = None) -> "LogitsSource":
    """Open the checkpoint that a bundle is compared with, on half of ``threads``.

    Raises:
        InputError: what reads checkpoints is not installed, or the two have other tokens.

    """
    from edgepress.errors import InputError

    try:
        from edgepress.exporter.model.reference import Reference
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgepress"):
            raise
        raise InputError(f"--reference needs {error.name}; pip install 'edgepress[export]'") from error
    own = max(1, threads - threads // 2)  # the bundle has the others
    reference = Reference(model, revision=revision, threads=own)
    _refuse_pruned_vocabulary(bundle, model, reference.vocab_size)
    return reference


def _refuse_pruned_vocabulary(bundle: Path, model: str, tokens: int) -> None:
    """Raise InputError when the bundle's tokens were renumbered, and ``model`` has others, ``tokens`` in all."""
    from edgepress.bundle.manifest import read_manifest
    from edgepress.errors import InputError
    from edgepress.runtime.config import read_config

    left = read_config(bundle).vocab_size
    if left != tokens and any("vocabulary" in step for step in read_manifest(bundle).steps):
        raise InputError(
            f"{bundle} has {left} tokens since its vocabulary was pruned, and {model} has {tokens}: they are not the "
            "same tokens, so that no distribution over them can be compared. Leave --reference out and compare bits "
            f"per byte: `edgepress inspect {bundle}` has the original's on the same text as the bundle's"
        )
