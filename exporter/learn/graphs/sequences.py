"""The two float graphs of an encoder-decoder through methods that look at what they compute, one after the other.

The encoder learns on sources of the user's. The decoder learns on what the encoder as it ships makes of them, and on
the targets that the model itself writes of them in float, so that it makes up for the encoder's rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.graph.primitives import LOGITS_START
from edgepress.exporter.interpreter.network import Feed
from edgepress.exporter.learn.graphs.run import LearnedGraph, learn_graph
from edgepress.exporter.plan.plan import Plan
from edgepress.exporter.recipe.recipe import Recipe
from edgepress.exporter.streams.shipping_task import Coded
from edgepress.onnx_graph.files import read_model
from edgepress.runtime.loading import load_task
from edgepress.runtime.sequences.model import SequenceModel
from edgepress.samples.read import FEWEST, read_samples
from edgepress.samples.sample import Samples
from edgepress.sessions import open_on_cpu
from edgepress.tasks.sequences import DECODER_FILE, ENCODER_FILE
from edgepress.terminal.progress import Progress

MOST = 128
"""Sources that are used at most: of each, every value that is still to be read is held at once."""
_ALL_POSITIONS = "decoder_of_all_positions.onnx"


@dataclass(frozen=True)
class Example:
    """A source as the encoder takes it, and the tokens of its target, those that it begins with included."""

    source: Feed
    target: Sequence[int]


@dataclass(frozen=True)
class LearnedSequences:
    """What ships of both graphs: see :class:`LearnedGraph`."""

    codes: Mapping[str, Codes]
    changed: Mapping[str, NDArray[np.float32]]
    reports: Mapping[str, dict[str, float | None]]
    notes: tuple[str, ...]


def learn_sequences(
    bundle: Path,
    sources: Sequence[str | Path],
    recipe: Recipe,
    plan: Plan,
    *,
    folder: Path,
    threads: int | None,
    progress: Progress,
) -> LearnedSequences:
    """Do what ``recipe`` asks of the two graphs in ``bundle``, which is in float32, for weights as ``plan`` has them.

    ``sources`` are files of what the encoder takes (:func:`edgepress.samples.read.read_samples`); files are made in
    ``folder``.

    Raises:
        InputError: samples cannot be used, or a method changes what cannot be changed here.

    """
    examples = write_examples(bundle, sources, tokens=recipe.calibration.tokens, threads=threads, progress=progress)
    encoder = bundle / ENCODER_FILE
    given = [example.source for example in examples]
    first = _learn(encoder, given, recipe, plan, loss="square", folder=folder / "encoder", progress=progress)
    decoder = _of_all_positions(bundle / DECODER_FILE)
    feeds = _decoder_feeds(first.file, examples, plan.states)
    second = _learn(decoder, feeds, recipe, plan, loss="kl", folder=folder / "decoder", progress=progress)
    both = first.changed.keys() & second.changed.keys()
    if both:
        raise InputError(f"{min(both)} is read by both graphs, and a method of {recipe.name} changes it for each alone")
    return LearnedSequences(
        {**first.codes, **second.codes},
        {**first.changed, **second.changed},
        {**first.reports, **second.reports},
        tuple(f"{name}: {note}" for name, one in (("encoder", first), ("decoder", second)) for note in one.notes),
    )


# ---- what is seen ----------------------------------------------------------------------------------------------------


def write_examples(
    bundle: Path, sources: Sequence[str | Path], *, tokens: int, threads: int | None, progress: Progress
) -> list[Example]:
    """Sources, chosen over all that there are, with what the model in ``bundle`` writes of them.

    Enough that both have ``tokens`` positions, but no more than ``MOST``.

    Raises:
        InputError: there are fewer than ``FEWEST``, or one cannot be read; it is named.

    """
    model = load_task(bundle, threads=threads, prepared=False, verify=False)
    assert isinstance(model, SequenceModel)
    found: list[Example] = []
    missing = [tokens, tokens]
    given = [read_samples(source, model.feeder.takes) for source in sources]
    count = sum(map(len, given))
    if count < FEWEST:
        names = ", ".join(samples.source for samples in given)
        raise InputError(f"{names}: {count} samples, and methods look at {FEWEST} at least; better some hundred")
    with progress(min(count, MOST), "writing targets", " samples") as advance:
        for samples, index in _chosen(given):
            source, target = _written(model, samples, index)
            found.append(Example(source, target))
            positions = (model.session.source, len(target))
            missing = [left - more for left, more in zip(missing, positions, strict=True)]
            advance(1)
            if len(found) >= FEWEST and max(missing) <= 0:
                break
    return found


def _chosen(given: Sequence[Samples]) -> list[tuple[Samples, int]]:
    """At most ``MOST`` samples, over all sources and in an order that mixes them."""
    every = [(samples, index) for samples in given for index in range(len(samples))]
    order = np.random.default_rng(0).permutation(len(every))[:MOST]
    return [every[int(place)] for place in order]


def _written(model: SequenceModel, samples: Samples, index: int) -> tuple[Feed, list[int]]:
    sample = samples.number(index)
    try:
        return model.source_and_target(sample.value)
    except InputError as error:
        said = str(error)
        raise error if sample.where in said else InputError(f"{sample.where}: {said}") from error


# ---- the graphs ------------------------------------------------------------------------------------------------------


def _learn(
    file: Path,
    feeds: Sequence[Feed],
    recipe: Recipe,
    plan: Plan,
    *,
    loss: Literal["kl", "square"],
    folder: Path,
    progress: Progress,
) -> LearnedGraph:
    """Learn on one graph, whose constants are weights of the plan, by the ``loss`` of its outputs.

    Raises:
        InputError: a method changes its nodes, or a constant that is no weight.

    """
    before = read_model(file)
    there = {tensor.name for tensor in before.graph.initializer}
    coded = {
        tensor.weight.name: Coded(tensor.scheme, rows=tensor.weight.shape[0])
        for tensor in plan.tensors
        if tensor.scheme is not None and tensor.weight.name in there
    }
    found = learn_graph(file, feeds, recipe, folder=folder, coded=coded, loss=loss, progress=progress)
    kept = {tensor.weight.name for tensor in plan.tensors if tensor.form == "float"}
    if strange := sorted(found.changed.keys() - kept):
        raise InputError(f"recipe {recipe.name} changes {strange[0]}, which the graphs of such models do not store")
    if _operators(read_model(found.file)) != _operators(before):
        raise InputError(f"recipe {recipe.name} changes nodes, and the graphs of such models are written anew")
    return found


def _operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node if node.op_type != "Constant")


def _of_all_positions(file: Path) -> Path:
    """The decoder's graph with logits of all positions, and no states after it; it lies beside the other one."""
    model = onnx.load(file, load_external_data=False)
    start = next(tensor for tensor in model.graph.initializer if tensor.name == LOGITS_START)
    start.CopyFrom(numpy_helper.from_array(np.zeros(1, np.int64), LOGITS_START))
    logits = [value for value in model.graph.output if value.name == "logits"]
    del model.graph.output[:]
    model.graph.output.extend(logits)
    path = file.with_name(_ALL_POSITIONS)
    path.write_bytes(model.SerializeToString())
    return path


def _decoder_feeds(encoder: Path, examples: Sequence[Example], states: Sequence[State]) -> list[Feed]:
    """The decoder's inputs: targets as they are given when their next tokens are asked for, and what is encoded."""
    session = open_on_cpu(encoder)
    names = [value.name for value in session.get_outputs()]
    empty = {state.input: np.zeros(state.sizes(0), np.float32) for state in states if state.kind != "encoded"}
    encoded = {state.output: state.input for state in states if state.kind == "encoded"}
    feeds: list[Feed] = []
    for example in examples:
        tokens = np.array([example.target[:-1]], np.int64)
        made = dict(zip(names, session.run(None, dict(example.source)), strict=True))
        source = {name: made[output] for output, name in encoded.items()}
        feeds.append({"input_ids": tokens, "attention_mask": np.ones_like(tokens), **empty, **source})
    return feeds
