"""What huggingface_hub leaves on disk, and which links may be followed.

Its cache keeps each file once and links to it (``huggingface_hub/file_download.py``, 2.4)::

    <cache>/models--org--name/blobs/<etag>                 a file, or a link to the shared one below
    <cache>/models--org--name/snapshots/<revision>/<name>  a link to ../../blobs/<etag>
    <cache>/blobs/<two digits>/<64 digits>                 shared by repositories; ``blobs`` has a marker file

A download into a directory of the user's (``--local-dir``) has plain files, and notes in ``.cache/huggingface``.

Any other link could put an unrelated file of this machine into what is read, measured or shipped: it is refused.
"""

import os
import re
from pathlib import Path, PurePosixPath

from edgepress.errors import InputError

_REPOSITORY = re.compile(r"[a-z]+--.+")  # models--org--name, datasets--…
_HASH = re.compile(r"[0-9a-fA-F]{32,}")  # blobs have the names of their etags: SHA-1, SHA-256 or MD5
_SHARED = re.compile(r"[0-9a-f]{64}")
_SHARED_MARKER = ".huggingface-shared-blobs"
# Of a repository, not of a model: nothing of edgepress reads them.
_BESIDE = re.compile(r"\.git(attributes|ignore)|(README|LICENSE|LICENCE|NOTICE)(\.(md|txt))?", re.IGNORECASE)
_NOTES = (".cache", "huggingface")


def resolve_inside(path: Path, root: Path) -> Path:
    """The real file that ``path`` names: one inside the folder ``root``, or a blob of the hub cache around it.

    Raises:
        InputError: it is a link out of ``root`` to anything but such a blob, or not a file.

    """
    target = _real(path)
    if not target.is_relative_to(_real(root)) and not _is_blob(target, root):
        raise InputError(f"{path} is a link out of its directory, to {target}; put the file itself there")
    if not target.is_file():
        what = "is not a file" if target.exists() else f"is a link to {target}, which does not exist"
        raise InputError(f"{path} {what}; download or copy it again")
    return target


def is_hub_link(path: Path, root: Path) -> bool:
    """Whether ``path``, below the folder ``root``, is a link into the blobs of the hub cache that ``root`` is in."""
    if not path.is_symlink():
        return False
    target = _real(path)
    return target.is_file() and _is_blob(target, root)


def is_beside(relative: PurePosixPath) -> bool:
    """Whether a path in a downloaded folder belongs to its repository and not to the model, such as ``README.md``."""
    if relative.parts[: len(_NOTES)] == _NOTES:
        return True
    return len(relative.parts) == 1 and _BESIDE.fullmatch(relative.name) is not None


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise InputError(f"{path} is a link that leads nowhere ({error}); put the file itself there") from error


def _is_blob(target: Path, root: Path) -> bool:
    """Whether the real file ``target`` is a blob of the repository that ``root`` is a snapshot of, or lies in one."""
    for repository in _repositories(root):
        blobs = repository / "blobs"
        if target.parent == _real(blobs) and (not blobs.is_symlink() or _HASH.fullmatch(target.name)):
            return True
        shared = repository.parent / "blobs"
        if (
            target.parent.parent == _real(shared)
            and (shared / _SHARED_MARKER).is_file()
            and _SHARED.fullmatch(target.name)
        ):
            return True
    return False


def _repositories(root: Path) -> list[Path]:
    """Folders of the hub cache with ``root`` in a snapshot: as it is named, and with links in its name followed."""
    found = []
    for folder in dict.fromkeys((Path(os.path.abspath(root)), _real(root))):  # noqa: PTH100 - without following links
        for snapshots in folder.parents:
            if snapshots.name == "snapshots" and _REPOSITORY.fullmatch(snapshots.parent.name):
                found.append(snapshots.parent)
    return found
