"""Windows of tokens: how a text that is longer than the context is cut to be scored."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Tokens of one window; the last ``scored`` of them are scored."""

    tokens: Tokens
    scored: int


def windows(tokens: Tokens, context: int, stride: int) -> Iterator[Window]:
    """Cut a document into windows: every token but the first is scored exactly once."""
    if tokens.size < 2:
        return
    stop = min(context, tokens.size)
    yield Window(tokens[:stop], stop - 1)
    while stop < tokens.size:
        new = min(stride, tokens.size - stop)
        stop += new
        yield Window(tokens[stop - context : stop], new)
