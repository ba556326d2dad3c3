"""Built-in prose, which models are run on where a recipe names no text."""

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer

_TOKENS = 96
_TEXT = (
    "A ship in harbour is safe, but that is not what ships are built for. The captain read the letter twice, folded "
    "it, and gave the order to cast off. By noon the wind had turned; by evening they had lost sight of land, and the "
    "youngest of the crew asked how long it would be until they saw it again. Nobody answered him."
)


def prose_tokens(checkpoint: Checkpoint, vocab_size: int, context_length: int) -> NDArray[np.int64]:
    """About 100 tokens of it, (length,), those below ``vocab_size``."""
    ids = np.array(source_tokenizer(checkpoint).library.encode(_TEXT).ids, np.int64)
    return ids[ids < vocab_size][: min(_TOKENS, context_length)]
