"""What a clone without git-lfs has in the place of large files: a pointer of some 130 bytes.

Format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

import re
from pathlib import Path

from edgepress.errors import InputError

_POINTER = re.compile(rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/v\d")
_SIZE = re.compile(rb"^size (\d{1,18})$", re.MULTILINE)


def refuse_pointer(where: str | Path, head: bytes) -> None:
    """Raise InputError when ``head``, the first 200 bytes of a file at least, is such a pointer."""
    if not _POINTER.match(head):
        return
    size = _SIZE.search(head)
    real = f" of {int(size[1]):,} bytes" if size else ""
    raise InputError(
        f"{where} is a git-lfs pointer, not the file{real} that it stands for: run `git lfs install` and `git lfs "
        "pull` in the clone, or download the file with `hf download`"
    )
