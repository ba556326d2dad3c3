"""A model that another environment's Python runs: arrays come by standard input, answers go by a pipe of their own.

Imported by peers' scripts in their environments, and by the benchmark; numpy alone is needed.
"""

import io
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO

import numpy as np


def serve(answer: Callable[[dict[str, np.ndarray]], np.ndarray], pipe: int) -> None:
    """Answer each message with the array that ``answer`` makes of its arrays, and the seconds it took.

    ``pipe`` is the descriptor that answers go to: tools' libraries print where they like.
    """
    output = os.fdopen(pipe, "wb")
    write(output, {})  # opened
    while (feed := read(sys.stdin.buffer)) is not None:
        start = time.perf_counter()
        found = answer(feed)
        write(output, {"found": found, "seconds": np.array(time.perf_counter() - start)})


def write(stream: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """One message: its length in 8 bytes, then an npz."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type] # names are the inputs', not its options
    stream.write(struct.pack("<Q", len(content.getvalue())) + content.getvalue())
    stream.flush()


def read(stream: IO[bytes]) -> dict[str, np.ndarray] | None:
    """The next message; None at the end."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    with np.load(io.BytesIO(stream.read(struct.unpack("<Q", head)[0]))) as arrays:
        return dict(arrays)
