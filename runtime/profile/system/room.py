"""How much memory the system leaves this process: the limit of its control group, and what is available at all.

Control groups are nested and each limit holds for all below it, so the group that matters is the one with the least
limit of this process's own and those above. Formats: proc(5) and cgroups(7) of the manual pages,
Documentation/admin-guide/cgroup-v2.rst (``memory.max``, ``memory.current``) and cgroup-v1/memory.rst
(``memory.limit_in_bytes``, ``memory.usage_in_bytes``) of the kernel.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_FILES = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
_NO_LIMIT = 1 << 62  # version 1 says "no limit" as the largest number of whole pages


@dataclass(frozen=True)
class ControlGroup:
    """A group of processes whose memory is counted together: its version, its limit and use in bytes.

    ``limit_bytes`` is None where no group above sets one, ``used_bytes`` where the system does not tell. Pages of
    files that the group read are counted too, and are given back before anything is killed.
    """

    version: int
    limit_bytes: int | None
    used_bytes: int | None


@dataclass(frozen=True)
class Mount:
    """Where groups of a version that count memory are mounted, and which of them stands at that place."""

    version: int
    root: str
    point: str


def read_control_group(root: Path = _ROOT) -> ControlGroup | None:
    """Read the group that limits this process; None where memory is in none. ``root`` is where ``proc`` is."""
    mounts = memory_mounts(_text(root / "proc/self/mountinfo") or "")
    own = own_groups(_text(root / "proc/self/cgroup") or "")
    for version in (1, 2):  # where both are mounted, memory is counted by one: version 2 then has no such files
        mount = next((mount for mount in mounts if mount.version == version), None)
        if mount is None or version not in own:
            continue
        found = [_read(root / folder.lstrip("/"), version) for folder in folders(mount, own[version])]
        limited = [group for group in found if group.limit_bytes is not None]
        told = [group for group in found if group.used_bytes is not None]
        if limited or told:
            return min(limited, key=lambda group: group.limit_bytes or 0) if limited else told[0]
    return None


def own_groups(text: str) -> dict[int, str]:
    """Paths by version of the groups that count memory, in ``/proc/self/cgroup``: ``4:memory:/a`` and ``0::/b``."""
    found = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/"):
            if "memory" in controllers.split(","):
                found[1] = path
            elif (number, controllers) == ("0", ""):
                found[2] = path
    return found


def memory_mounts(text: str) -> list[Mount]:
    """Mounts of control groups in ``/proc/self/mountinfo``: ``… ROOT POINT … - cgroup2 …``."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        words, kind = before.split(" "), after.split(" ")
        if len(words) < 6 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            found.append(Mount(2, _plain(words[3]), _plain(words[4])))
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            found.append(Mount(1, _plain(words[3]), _plain(words[4])))
    return found


def folders(mount: Mount, path: str) -> list[str]:
    """Folders of a group and of those above it as far as they are mounted, its own first."""
    group, top = PurePosixPath(path), PurePosixPath(mount.root)
    # in a container the path may be one outside of it: then what is mounted is all that can be seen
    inside = group.relative_to(top) if group.is_relative_to(top) else PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    return [str(PurePosixPath(mount.point) / part) for part in (inside, *inside.parents)]


def available_bytes(root: Path = _ROOT) -> int | None:
    """What the system could give to new work without swapping (``MemAvailable``); None where it does not tell."""
    found = re.search(r"^MemAvailable:\s+(\d{1,15}) kB$", _text(root / "proc/meminfo") or "", re.MULTILINE | re.ASCII)
    return int(found[1]) * 1024 if found else None


def _read(folder: Path, version: int) -> ControlGroup:
    limit, used = (_number(folder / name) for name in _FILES[version])
    return ControlGroup(version, None if limit is None or limit >= _NO_LIMIT else limit, used)


def _plain(path: str) -> str:
    r"""A path of mountinfo: spaces and such are written as three octal digits, ``\040``."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda found: chr(int(found[1], 8)), path)


def _number(path: Path) -> int | None:
    """The number in a file; None for ``max`` and where there is none."""
    text = (_text(path) or "").strip()
    return int(text) if re.fullmatch(r"\d{1,20}", text, re.ASCII) else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
