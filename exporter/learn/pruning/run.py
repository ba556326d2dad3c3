"""The steps of a recipe's ``prune``, one after the other, each kept on disk until the bundle is in place.

The part ``pruning`` of the workspace (:class:`edgepress.disk.workspace.Workspace`) holds ``text`` and a stage for each
step that is done (``0-depth``), written whole under a key of everything that decides its bytes; the last has the
checkpoint. A killed export goes on at the step in which it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgepress.disk.files import atomic_directory, sha256_file
from edgepress.disk.workspace import clear
from edgepress.errors import InputError
from edgepress.exporter.arrays.parallel import cores
from edgepress.exporter.arrays.scheme import Scheme
from edgepress.exporter.arrays.sealed import DamagedError, read_sealed_json, write_sealed_json
from edgepress.exporter.learn.calibration.generate import generate_calibration
from edgepress.exporter.learn.calibration.run import use_threads, versions
from edgepress.exporter.learn.pruning.score import bits_per_byte
from edgepress.exporter.methods.kinds import Pruning, Size, load_kind, method_options
from edgepress.exporter.methods.options import Options
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model.architectures import architecture
from edgepress.exporter.model.description import Decoder, layer_weights
from edgepress.exporter.model.reading import first_token, read_decoder
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.documents import (
    Documents,
    held_out,
    hold_out,
    most_held_out,
    text_key,
    training_files,
)
from edgepress.exporter.tokens.source_tokenizer import check_tokenizer, source_tokenizer
from edgepress.targets import Target
from edgepress.terminal.progress import Progress

_STEP_FILE = "step.json"  # the key of a stage, its files' hashes and what the manifest says of it
_KEPT_TOKENS = "kept_tokens.npy"
_TEXT = "text"
_GENERATED = "generations.jsonl"  # the model's own text, where there is no other
_log = logging.getLogger("edgepress.pruning")


@dataclass(frozen=True)
class Pruned:
    """The pruned checkpoint, and what the rest of the export needs to know of the steps.

    ``text`` are the files of text without the ``held_out`` documents; ``steps`` are the manifest's entries, and
    ``skipped`` the steps that were left out because only the sizes were asked for.
    """

    original: Checkpoint
    checkpoint: Checkpoint
    text: tuple[str, ...]
    held_out: tuple[str, ...]
    steps: tuple[dict[str, object], ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Step:
    name: str
    method: Pruning
    options: Options


@dataclass(frozen=True)
class _Run:
    """What is the same for all steps."""

    original: Checkpoint
    decoder: Decoder  # the original's
    recipe: Recipe
    targets: tuple[Target, ...]
    folder: Path
    context_length: int
    device: torch.device
    progress: Progress
    scores: bool

    def stage(self, name: str) -> Path:
        return self.folder / name


@dataclass(frozen=True)
class _Model:
    """The checkpoint between two steps: see :class:`.task.PruneTask` for ``kept_tokens``."""

    checkpoint: Checkpoint
    decoder: Decoder
    kept_tokens: NDArray[np.int64] | None = None


def find_steps(recipe: Recipe) -> list[_Step]:
    """The steps that the recipe names, with their options.

    Raises:
        InputError: one is no pruning step, or an option is wrong, or one needs text and there is none.

    """
    steps = []
    for name in recipe.prune:
        method = load_kind(name, Pruning, "prune")
        if method.needs_text and not recipe.calibration.text:
            raise InputError(
                f"prune = [{name!r}]: {name} keeps what your text uses, and there is no text; name some with "
                "--calibration FILE or [calibration] text"
            )
        steps.append(_Step(name, method, method_options(method, recipe)))
    return steps


def prune(
    original: Checkpoint,
    recipe: Recipe,
    targets: Sequence[Target],
    *,
    folder: Path | None,
    threads: int | None,
    progress: Progress,
) -> Pruned:
    """Run the recipe's steps in ``folder``, from the last one that an earlier run finished.

    Without a folder only the sizes are asked for: steps that keep shapes are left out, nothing is scored, and the
    checkpoint lies in a temporary directory for as long as it is referred to.

    Raises:
        InputError: a step or the text cannot be used; what is done is kept.

    """
    steps = find_steps(recipe)
    check_tokenizer(original)
    decoder = read_decoder(original)
    if why := architecture(decoder.model_type).keeps_sizes:
        raise InputError(
            f"prune = {list(recipe.prune)}: no step knows how to make {decoder.model_type} smaller ({why}); leave "
            "`prune` out"
        )
    skipped = tuple(step.name for step in steps if step.method.keeps_shapes and folder is None)
    place = Path(tempfile.mkdtemp(prefix="edgepress-")) if folder is None else folder
    run = _Run(
        original,
        decoder,
        recipe,
        tuple(targets),
        place,
        context_length=recipe.context_length or decoder.context_length,
        device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        progress=progress,
        scores=folder is not None,
    )
    try:
        _check(run, steps)
        with use_threads(decoder, threads):
            pruned = _run(run, [step for step in steps if step.name not in skipped], threads)
    except BaseException as error:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
        elif not _is_worth_keeping(folder, stopped=not isinstance(error, Exception)):
            clear(folder)
        raise
    if folder is None:
        weakref.finalize(pruned.checkpoint, shutil.rmtree, place, ignore_errors=True)
    return replace(pruned, skipped=skipped)


def _is_worth_keeping(folder: Path, *, stopped: bool) -> bool:
    """Whether the next run can continue from it: a finished step, a training's state, or text sampled from the model.

    Where the user has ``stopped`` the export, anything is kept.
    """
    if stopped:
        return True
    steps = [path for path in folder.glob("[0-9]*-*/step.json") if path.parent.suffix != ".state"]
    return bool(steps) or any(folder.glob("*.state/*.state")) or any(folder.glob("text/*/generations.jsonl"))


def _check(run: _Run, steps: Sequence[_Step]) -> None:
    """Refuse, before the first step, what a later one is known to be unable to do."""
    changed: set[Size] = set()
    widths = {tuple(weight.shape for weight in layer_weights(layer)) for layer in run.decoder.layers}
    for index, step in enumerate(steps):
        step.method.check_order(changed, step.options)
        if not step.method.looks_at & changed:
            stage = run.stage(f"{index}-{step.name}")
            step.method.check(_task(run, _Model(run.original, run.decoder), stage, ()), step.options)
        changed |= step.method.changes
        if "layers" in changed and len(widths) > 1:  # which layers stay decides which widths there are
            changed.add("widths")


def _run(run: _Run, steps: Sequence[_Step], threads: int | None) -> Pruned:
    key = _digest({"source": run.original.source_hashes(), "versions": versions(), "device": str(run.device)})
    key, text = _text(run, steps, key, threads)
    held = held_out(text)
    key = _digest({"text": key, "threads": cores()})
    original = _original(run, held, key)
    keys = [key := _step_key(run, step, key) for step in steps]
    stages = [run.stage(f"{index}-{step.name}") for index, step in enumerate(steps)]
    done = _count_done(stages, keys)
    if done:
        _log.warning("continuing after step %d, %s, kept in %s", done - 1, steps[done - 1].name, run.folder)
    _drop_from(run, done)
    model = _read_model(stages[done - 1]) if done else _Model(run.original, run.decoder)
    for step, stage, step_key in zip(steps[done:], stages[done:], keys[done:], strict=True):
        _do(run, step, _task(run, model, stage, training_files(text)), held, step_key)
        model = _read_model(stage)
        _keep_last(stages[: stages.index(stage) + 1])
    files = tuple(map(str, training_files(text)))
    return Pruned(run.original, model.checkpoint, files, held, (original, *map(_entry, stages)))


def _count_done(stages: Sequence[Path], keys: Sequence[str]) -> int:
    """How many steps need not run again: those up to the last complete stage, if all stages have today's keys."""
    for count in range(len(stages), 0, -1):
        made = zip(stages[: count - 1], keys, strict=False)
        if _is_whole(stages[count - 1], keys[count - 1]) and all(_has_key(stage, key) for stage, key in made):
            return count
    return 0


def _keep_last(stages: Sequence[Path]) -> None:
    """Remove the checkpoints of all stages but the last, which is all that the next step reads; entries stay."""
    for stage in stages[:-1]:
        content = _content(stage)
        if content and not content.get("emptied"):
            write_sealed_json(stage / _STEP_FILE, content | {"emptied": True})  # first: half of a checkpoint is none
            for path in stage.iterdir():
                if path != stage / _STEP_FILE:
                    path.unlink()


def _read_model(stage: Path) -> _Model:
    """The checkpoint that a step has written."""
    checkpoint, path = Checkpoint.open(stage), stage / _KEPT_TOKENS
    kept_tokens = np.load(path, allow_pickle=False) if path.is_file() else None
    return _Model(checkpoint, read_decoder(checkpoint), kept_tokens)


def _task(run: _Run, model: _Model, stage: Path, texts: tuple[Path, ...]) -> PruneTask:
    return PruneTask(
        checkpoint=model.checkpoint,
        decoder=model.decoder,
        original=run.original,
        original_decoder=run.decoder,
        recipe=run.recipe,
        targets=run.targets,
        texts=Documents(texts),
        folder=run.stage(f"{stage.name}.state"),
        out=stage,
        device=run.device,
        context_length=run.context_length,
        schemes=lambda: _schemes(run.recipe, model),
        kept_tokens=model.kept_tokens,
        progress=run.progress,
    )


def _schemes(recipe: Recipe, model: _Model) -> Mapping[str, Scheme | None]:
    """The scheme of each weight of the model between two steps; None where it is kept in float."""
    return make_plan(model.decoder, recipe, model.checkpoint.itemsize).schemes


def _do(run: _Run, step: _Step, task: PruneTask, held: Sequence[str], key: str) -> None:
    """Run one step and write its stage, which appears complete or not at all."""
    _claim(task.folder, key)
    with atomic_directory(task.out, replace=True) as work:
        task.out = work
        step.method.run(task, step.options)
        if task.written is None:
            raise TypeError(f"the step {step.name} has written no checkpoint")
        checkpoint, decoder = task.written
        if task.kept_tokens is not None:
            np.save(work / _KEPT_TOKENS, task.kept_tokens)
        entry = _describe(run, step.name, checkpoint, decoder, held) | task.report
        _finish(work, key, entry)
    shutil.rmtree(task.folder, ignore_errors=True)


def _claim(folder: Path, key: str) -> None:
    """Make a step's own folder, empty unless it is from the same step and inputs."""
    if not _has_key(folder, key):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_sealed_json(folder / _STEP_FILE, {"key": key})


def _drop_from(run: _Run, index: int) -> None:
    """Remove the stages of step ``index`` and later ones, which were made from another model."""
    for path in run.folder.iterdir():
        number = path.name.split("-")[0]
        if path.is_dir() and number.isdigit() and (int(number) > index or (int(number) == index and path.suffix == "")):
            shutil.rmtree(path, ignore_errors=True)


def _finish(work: Path, key: str, entry: Mapping[str, object]) -> None:
    files = _hashes(work)
    write_sealed_json(work / _STEP_FILE, {"key": key, "files": files, "entry": dict(entry)})


def _hashes(stage: Path) -> dict[str, str]:
    """SHA-256 of every file of a stage but the one that holds them."""
    found = sorted(path for path in stage.rglob("*") if path.is_file())
    return {path.relative_to(stage).as_posix(): sha256_file(path) for path in found if path != stage / _STEP_FILE}


def _is_whole(stage: Path, key: str) -> bool:
    """Whether a stage was made from the same inputs and is as it was written."""
    content = _content(stage)
    if content.get("key") != key or content.get("emptied"):
        return False
    try:
        files = _hashes(stage)
    except OSError:
        return False
    if content.get("files") != files:
        _log.warning("%s is damaged; what came of it is made again", stage)
        return False
    return True


def _has_key(stage: Path, key: str) -> bool:
    """Whether a stage was made from the same inputs; its checkpoint may be gone."""
    return _content(stage).get("key") == key


def _content(stage: Path) -> dict[str, Any]:
    """The entries in a stage's own file, none where that is damaged."""
    return _read(stage / _STEP_FILE)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_sealed_json(path)
    except DamagedError as error:
        _log.warning("%s is damaged (%s); what came of it is made again", path.parent, error)
        return {}


def _entry(stage: Path) -> dict[str, object]:
    content = _content(stage)
    if "entry" not in content:
        raise InputError(f"{stage} was damaged while it was in use; run the same command again")
    entry: dict[str, object] = content["entry"]
    return entry


def _step_key(run: _Run, step: _Step, before: str) -> str:
    """Everything that decides the bytes of a step, beside what decided those of the step before it."""
    recipe = run.recipe.to_json()
    asked = {name: value for name, value in recipe.items() if name not in {"name", "prune", "options", "promise"}}
    content = {
        "before": before,
        "name": step.name,
        "options": dict(step.options),
        "recipe": asked,
        "rounding": recipe["options"] if step.method.keeps_shapes else None,
        "context_length": run.context_length,
        "targets": [target.name for target in run.targets],
    }
    return _digest(content)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---- text -----------------------------------------------------------------------------------------------------------


def _text(run: _Run, steps: Sequence[_Step], before: str, threads: int | None) -> tuple[str, Path]:
    """The stage with the text, and its key: the text that the recipe names, or text sampled from the model."""
    settings = run.recipe.calibration
    hungry = any(step.method.keeps_shapes for step in steps)
    tokens = max(settings.tokens, settings.training_tokens) if hungry else settings.tokens
    asked = replace(settings, tokens=tokens, length=min(settings.length, run.context_length))
    most = most_held_out(_parameters(run.decoder))
    written = {"tokens": asked.tokens, "length": asked.length, "seed": asked.seed, "most": most}
    key = _digest({"before": before, "text": text_key(settings.text, most) if settings.text else written})
    stage = run.stage(_TEXT)
    if _is_whole(stage, key):
        return key, stage
    with atomic_directory(stage, replace=True) as work:
        if settings.text:
            hold_out(settings.text, work, most=most)
        else:
            generated = run.stage(_GENERATED)
            with run.progress(tokens, "writing text", " tokens") as advance:
                found = generate_calibration(
                    run.original,
                    asked,
                    folder=run.folder,
                    context_length=run.context_length,
                    threads=threads,
                    progress=advance,
                )
            tokenizer = source_tokenizer(run.original)
            texts = [text for row in found.tokens.tolist() if (text := tokenizer.decode(row)).strip()]
            generated.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
            hold_out([generated], work, most=most, own=True)
            generated.unlink()
        _finish(work, key, {})
    return key, stage


# ---- what the manifest says -----------------------------------------------------------------------------------------


def _original(run: _Run, held: Sequence[str], key: str) -> dict[str, object]:
    """The entry of the model as the user gave it, scored once."""
    path = run.stage("original.json")
    content = _read(path)
    if content.get("key") == key:
        found: dict[str, object] = content["entry"]
        return found
    entry = _describe(run, "original", run.original, run.decoder, held)
    if run.scores:
        entry["scored_bytes"] = sum(len(document.encode()) for document in held)  # of text, for every step
    write_sealed_json(path, {"key": key, "entry": entry})
    return entry


def _describe(run: _Run, name: str, checkpoint: Checkpoint, decoder: Decoder, held: Sequence[str]) -> dict[str, object]:
    weights = decoder.weights()
    used = {part.tensor for weight in weights for part in weight.parts}
    entry: dict[str, object] = {
        "name": name,
        "parameters": _parameters(decoder),
        "bytes": sum(checkpoint.tensors[tensor].nbytes for tensor in used),
        "bits_per_byte": None,
    }
    if run.scores:
        entry["bits_per_byte"] = bits_per_byte(
            checkpoint,
            decoder,
            held,
            bos=first_token(checkpoint, decoder),
            context_length=run.context_length,
            folder=run.folder,
            device=run.device,
            progress=run.progress,
            label=name,
        )
    return entry


def _parameters(decoder: Decoder) -> int:
    return sum(math.prod(weight.shape) for weight in decoder.weights())
