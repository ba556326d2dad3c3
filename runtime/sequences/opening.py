"""A bundle of an encoder and a decoder, opened: what its source is decides which class it becomes."""

from collections.abc import Sequence
from pathlib import Path

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.runtime.placement import find_places, open_first
from edgepress.runtime.sequences.model import SequenceModel, TextModel
from edgepress.runtime.sequences.session import EncoderDecoder
from edgepress.runtime.sequences.speech import SpeechModel
from edgepress.runtime.sequences.static import StaticEncoderDecoder
from edgepress.runtime.sequences.targets import SequenceSession
from edgepress.tasks.task import Task


def open_sequences(
    bundle: Path,
    task: Task,
    states: Sequence[State],
    *,
    threads: int,
    on: str | None = None,
    soc: str | None = None,
) -> SequenceModel:
    """An open bundle whose ``task`` has sequences, over the ``states`` that its manifest lists.

    ``on`` and ``soc`` are those of :func:`edgepress.runtime.loading.load_task`.

    Raises:
        InputError: a graph is missing or cannot be opened, or does not fit the manifest.

    """
    session = open_session(bundle, task, states, threads=threads, on=on, soc=soc)
    kind = TextModel if session.sequences.source == "tokens" else SpeechModel
    return kind(task, session, bundle)


def open_session(
    bundle: Path,
    task: Task,
    states: Sequence[State],
    *,
    threads: int,
    on: str | None = None,
    soc: str | None = None,
) -> SequenceSession:
    """The session of such a bundle, on an accelerator or the CPU; see :func:`open_sequences`."""
    sequences = task.sequences
    if sequences is None:
        raise InputError(f"{bundle} has no encoder and decoder")
    places = find_places(bundle, on, soc)
    found = open_first(places, lambda place: StaticEncoderDecoder(place, sequences, states), asked=on is not None)
    return EncoderDecoder(bundle, sequences, states, threads=threads) if found is None else found[1]
