"""Made-up sources of an encoder, for measurements: what they are changes no shape."""

import numpy as np

from edgepress.errors import InputError
from edgepress.examples import Feed
from edgepress.tasks.task import Task
from edgepress.whole import whole_number

SOURCE_TOKENS, SOURCE_SECONDS = 64, 5  # of a source whose length is free


def made_up_source(task: Task, length: int | None = None) -> Feed:
    """A random source of the task's encoder, of ``length`` tokens, frames or samples.

    Where that is None and free there are ``SOURCE_TOKENS`` tokens, or sound of ``SOURCE_SECONDS``; there are never more
    tokens than the encoder has positions for.

    Raises:
        InputError: the task has no encoder, ``length`` is not at least 1, or the encoder takes another one alone.

    """
    draw, edge, sequences = np.random.default_rng(1), task.inputs[0], task.sequences
    if sequences is None:
        raise InputError(f"{task.name} has no encoder and decoder")
    fixed = [axis for axis in edge.shape if isinstance(axis, int)]
    if len(fixed) == len(edge.shape):
        if length not in (None, fixed[-1]):
            raise InputError(f"a source has {fixed[-1]} frames, always; leave the {length} out")
        return {edge.name: draw.standard_normal(fixed).astype(np.float32)}
    if edge.type == "int64":
        count = whole_number("the source", SOURCE_TOKENS if length is None else length)
        most = sequences.source_length
        return {edge.name: draw.integers(3, sequences.vocabulary, (1, min(count, most) if most else count))}
    count = whole_number("the source", SOURCE_SECONDS * sequences.rate if length is None else length)
    return {edge.name: (0.1 * draw.standard_normal((1, count))).astype(np.float32)}


def source_size(feed: Feed) -> int:
    """Tokens, frames or samples of a source."""
    return int(next(iter(feed.values())).shape[-1])
