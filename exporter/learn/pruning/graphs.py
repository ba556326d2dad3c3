"""The steps of a recipe's ``prune`` on a model that is an ONNX graph, one after the other, each kept on disk.

A stage (``0-channels``) has the graph that its step left and what the manifest says of it, under a key of everything
that decides its bytes, so that a killed export goes on at the step in which it was. What a step wrote is read back and
opened by onnxruntime, and its outputs must have the shapes that the original's have.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgepress.disk.files import atomic_directory, sha256_file
from edgepress.errors import InputError
from edgepress.exporter.arrays.sealed import DamagedError, read_sealed_json, write_sealed_json
from edgepress.exporter.graph.editing import remove_unused
from edgepress.exporter.graph.passes import PassOrder
from edgepress.exporter.interpreter.network import Feed
from edgepress.exporter.methods.kinds import GraphPruning, graph_pruning
from edgepress.exporter.methods.narrower.coupling import Coupling, find_coupling
from edgepress.exporter.methods.narrower.cut import plain
from edgepress.exporter.methods.narrower.task import GraphTask
from edgepress.exporter.methods.options import Options, read_options
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.onnx_graph.files import read_model
from edgepress.onnx_graph.tensors import TensorReader
from edgepress.sessions import open_on_cpu
from edgepress.terminal.progress import Progress, silent

_MODEL, _STEP = "model.onnx", "step.json"
_LARGEST = 1 << 30  # bytes of constants of a graph that is kept in memory, and written as one file
_log = logging.getLogger("edgepress.pruning")

Samples = Callable[[], Iterator[Feed]]


@dataclass(frozen=True)
class ShrunkGraph:
    """The pruned graph and what the manifest says of the steps; ``skipped`` are those that a plan leaves out."""

    file: Path
    steps: tuple[Mapping[str, object], ...]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Step:
    method: GraphPruning
    options: Options


def graph_steps(recipe: Recipe) -> list[_Step]:
    """The steps that the recipe names, with their options.

    Raises:
        InputError: one prunes no graphs, or an option is wrong, or is for a step that is not named.

    """
    steps = []
    for name in recipe.prune:
        method = graph_pruning(name)
        steps.append(_Step(method, read_options(name, method.declared, recipe.options.get(name, {}))))
    return steps


def shrink_graph(
    file: Path,
    recipe: Recipe,
    samples: Samples | None,
    *,
    folder: Path,
    train: bool = True,
    progress: Progress = silent,
) -> ShrunkGraph:
    """Run the recipe's steps on the graph in ``file``; what they leave lies in ``folder``.

    Without ``train`` only sizes are asked for: steps that train are left out.

    Raises:
        InputError: a step cannot be done to this graph, or its constants are more than one file holds.

    """
    steps = graph_steps(recipe)
    model = _read(file)
    if steps:
        first = GraphTask(model, file, samples, folder / "first.state", recipe.calibration.seed)
        steps[0].method.check(first, steps[0].options)
    coupling = find_coupling(model)
    entries: list[Mapping[str, object]] = [{"name": "original", **_counts(coupling)}]
    skipped = tuple(step.method.name for step in steps if step.method.trains and not train)
    key = _digest({"source": sha256_file(file), "seed": recipe.calibration.seed, "samples": _samples_key(samples)})
    place = file
    for index, step in enumerate(step for step in steps if step.method.name not in skipped):
        key = _digest({"before": key, "name": step.method.name, "options": dict(step.options)})
        stage = folder / f"{index}-{step.method.name}"
        entry: Mapping[str, object] = _done(stage, key)
        if not entry:
            task = GraphTask(
                _read(place),
                file,
                samples,
                folder / f"{index}-{step.method.name}.state",
                recipe.calibration.seed,
                progress,
            )
            entry = _do(step, task, stage, key)
        place = stage / _MODEL
        entries.append(entry)
        _log.info("%s: %s", step.method.name, _in_words(entries))
    return ShrunkGraph(place, tuple(entries), skipped)


def _do(step: _Step, task: GraphTask, stage: Path, key: str) -> Mapping[str, object]:
    """Run one step and write its stage, which appears complete or not at all."""
    step.method.run(task, step.options)
    if task.made is None:
        raise TypeError(f"the step {step.method.name} has made no graph")
    remove_unused(task.made)
    stage.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(stage, replace=True) as work:
        (work / _MODEL).write_bytes(task.made.SerializeToString(deterministic=True))
        _read_back(work / _MODEL, task)
        entry = {"name": step.method.name, **_counts(find_coupling(_read(work / _MODEL))), **task.report}
        write_sealed_json(work / _STEP, {"key": key, "model": sha256_file(work / _MODEL), "entry": entry})
    task.state_file.unlink(missing_ok=True)
    return entry


def _read_back(file: Path, task: GraphTask) -> None:
    """Hold what was written against the graph before: the same inputs and outputs, and onnxruntime opens it."""
    session, model = open_on_cpu(file), task.model
    found = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]
    expected = [*inputs, *(value.name for value in model.graph.output)]
    if found != expected:
        raise InputError(f"the pruned graph has the inputs and outputs {found}, and the graph before had {expected}")
    if task.samples is None:
        return
    for feed in islice(task.samples(), 1):
        before = open_on_cpu(model.SerializeToString()).run(None, dict(feed))
        for name, old, new in zip(expected[len(inputs) :], before, session.run(None, dict(feed)), strict=True):
            if old.shape != new.shape or not np.isfinite(new).all():
                raise InputError(f"the pruned graph gives {name} of shape {new.shape}, and it was {old.shape}")


def _read(file: Path) -> onnx.ModelProto:
    """The graph, weights in it, with keys whose heads are an axis of their own."""
    model = read_model(file)
    reader = TensorReader(file)
    size = sum(4 * int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    if size > _LARGEST:
        raise InputError(f"{file} has {size:,} bytes of constants, and graphs of up to {_LARGEST:,} can be pruned")
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(onnx.numpy_helper.from_array(reader.array(tensor), tensor.name))
    PassOrder(("fold-constants", "swap-last")).run(model)
    return plain(model)


def _counts(coupling: Coupling) -> dict[str, object]:
    kept = coupling.all_kept()
    parameters = coupling.parameters(kept)
    return {
        "parameters": parameters,
        "bytes": 4 * parameters,
        "bits_per_byte": None,  # a graph has no text
        "multiply_adds": coupling.multiply_adds(kept),
    }


def _in_words(entries: Sequence[Mapping[str, object]]) -> str:
    first, last = entries[0], entries[-1]
    return "; ".join(
        f"{last[what]:,} of {first[what]:,} {what.replace('_', '-')}" for what in ("multiply_adds", "parameters")
    )


def _samples_key(samples: Samples | None) -> str:
    """What the first samples are: a step's result depends on them."""
    digest = hashlib.sha256()
    for feed in () if samples is None else islice(samples(), 64):
        for name, array in sorted(feed.items()):
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _done(stage: Path, key: str) -> dict[str, Any]:
    """What the manifest says of a stage that is whole and made from the same; nothing otherwise."""
    if not (stage / _STEP).is_file():
        return {}
    try:
        content = read_sealed_json(stage / _STEP)
        if content.get("key") == key and content.get("model") == sha256_file(stage / _MODEL):
            _log.warning("continuing after %s, kept in %s", stage.name, stage.parent)
            entry: dict[str, Any] = content["entry"]
            return entry
    except (DamagedError, OSError) as error:
        _log.warning("%s is damaged (%s); it is made again", stage, error)
    shutil.rmtree(stage, ignore_errors=True)
    return {}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
