"""An encoder and a decoder for an accelerator: both as static graphs over one file of weights, compiled for chips.

They are made from the bundle's own graphs and weights (:mod:`edgepress.exporter.graph.static.encoder_decoder`). A
recipe that rounds nothing gives float graphs, which the accelerator computes in float16.
"""

from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.bundle.one_graph.asked import FLOAT, TEXT_LENGTH, graph_widths
from edgepress.exporter.bundle.one_graph.compiled import compile_graphs, refuse_widths
from edgepress.exporter.graph.static.encoder_decoder import SOURCE, write_static_pair
from edgepress.exporter.plan.planned import Writable
from edgepress.targets import Soc, Target
from edgepress.tasks.sequences import Sequences
from edgepress.terminal.progress import Progress

LONGEST = 1024  # tokens of a target unless --context says otherwise: each token is compared with every slot


def has_sequences(subject: Writable) -> bool:
    """Whether it is an encoder and a decoder."""
    return subject.task is not None and subject.task.sequences is not None


def refuse_pair(subject: Writable, target: Target, socs: tuple[Soc, ...]) -> None:
    """Raise InputError for graphs, weights and chips of which no static form can be made."""
    lengths_of(subject, target)
    refuse_widths(subject, target, socs)


def lengths_of(subject: Writable, target: Target) -> tuple[int | None, int]:
    """Positions of a source, None where the model has one length alone, and tokens of a target.

    Raises:
        InputError: sources have no length to which they could be filled up, or a target has no room for a token.

    """
    sequences, asked = _sequences(subject), subject.recipe.context_length
    if sequences.source == "wave":
        raise InputError(
            f"{target.name} takes fixed shapes, and this encoder normalizes over the whole length of a sound, so that "
            "no sound can be filled up to one; export it for a CPU"
        )
    context = asked or min(sequences.context, LONGEST)
    source = None
    if sequences.source == "tokens":
        length = asked or TEXT_LENGTH
        source = min(length, sequences.source_length or length)
    least = len(sequences.start) + 1
    if context < least:
        raise InputError(f"{target.name} takes a context of {least} tokens or more here, not {context}")
    return source, context


def _sequences(subject: Writable) -> Sequences:
    if subject.task is None or subject.task.sequences is None:
        raise ValueError("it is no encoder and decoder")
    return subject.task.sequences


def write_pair(
    bundle: Path, subject: Writable, target: Target, folder: Path, *, socs: tuple[Soc, ...], progress: Progress
) -> dict[str, object]:
    """Write both graphs and one file of weights, then compile them; returns what the manifest says of it."""
    name = graph_widths(subject, target)
    source, context = lengths_of(subject, target)
    paths = write_static_pair(bundle, folder, source=source, context=context)
    return {
        "widths": name,
        "shapes": {} if source is None else {SOURCE: source},
        "context_length": context,
        "socs": compile_graphs(paths, target, socs, progress, fp16=name == FLOAT),
    }
