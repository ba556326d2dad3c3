"""A bundle of an encoder and a decoder, opened: what its source is decides which class it becomes."""

from collections.abc import Sequence
from pathlib import Path

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.runtime.sequences.model import SequenceModel, TextModel
from edgepress.runtime.sequences.session import EncoderDecoder
from edgepress.runtime.sequences.speech import SpeechModel
from edgepress.tasks.task import Task


def open_sequences(bundle: Path, task: Task, states: Sequence[State], *, threads: int) -> SequenceModel:
    """An open bundle whose ``task`` has sequences, over the ``states`` that its manifest lists.

    Raises:
        InputError: a graph is missing or cannot be opened, or does not fit the manifest.

    """
    if task.sequences is None:
        raise InputError(f"{bundle} has no encoder and decoder")
    session = EncoderDecoder(bundle, task.sequences, states, threads=threads)
    kind = TextModel if task.sequences.source == "tokens" else SpeechModel
    return kind(task, session, bundle)
