"""A file that is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(into: Path) -> Iterator[Path]:
    """Give a path beside ``into`` to write to; it takes the place of ``into`` when the block ends well."""
    partial = into.with_name(f".{into.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(into)
    finally:
        partial.unlink(missing_ok=True)
