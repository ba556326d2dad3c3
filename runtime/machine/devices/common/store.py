"""Folders on a device that are kept from one use to the next, known by their content.

BASE/edgepress-device       says that the folder is ours
BASE/lock                   who is at work (``lock.py``)
BASE/trees/NAME/            what was pushed; only files whose hash has changed are sent again
BASE/trees/NAME.index       a line for each file that is whole there: hash, size, name
BASE/unpacked/DIGEST/       archives: the runner's root, edgepress itself
BASE/jobs/ID/  scratch/ID/  of one call, of one client; removed with it
"""

import hashlib
import platform
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError
from edgepress.runtime.machine.devices.common.errors import DeviceFull, LinkLost
from edgepress.runtime.machine.devices.common.link import Link

_SPARE = 16 << 20  # bytes that stay free
_UNPACKING = 600.0  # seconds
_END = "="  # the line after an index
_MOST_NAMES = 100  # in one command line, which has an end


def push(link: Link, path: Path) -> str:
    """Make a file or folder be there as it is here; return its path there.

    Raises:
        InputError: it is not here, or a link in it leads elsewhere.
        DeviceUnusable: what is wrong with the device, by its name.

    """
    if not path.exists():
        raise InputError(f"{path} is not there; give a file or a folder that is")
    place = hashlib.sha256(f"{platform.node()}:{path.resolve()}".encode()).hexdigest()[:12]
    folder = f"{link.base}/trees/{path.resolve().name}-{place}"
    wanted = {name: (sha256_file(file), file.stat().st_size, file) for name, file in _files(path)}
    there, present = _look(link, folder)
    changed = [name for name, (digest, size, _) in wanted.items() if there.get(name) != (digest, size)]
    gone = [name for name in present if name not in wanted]
    if changed or gone:
        check_space(link, sum(wanted[name][1] for name in changed))
        kept = {name: there[name] for name in wanted if name in there and name not in changed}
        _prepare(link, folder, kept, changed, [*gone, *changed])
        for name in changed:
            _send(link, wanted[name][2], folder, name, wanted[name][0])
    return folder if path.is_dir() else f"{folder}/{path.name}"


def unpacked(link: Link, digest: str, pack: Callable[[], Path]) -> str:
    """Make a gzipped tar archive of this ``digest`` be unpacked there; return the folder.

    ``pack`` gives the archive, and is asked only when it is not there yet.
    """
    folder = f"{link.base}/unpacked/{digest}"
    code, _, _ = link.try_to(f"[ -d {shlex.quote(folder)} ]")
    if code:
        archive = pack()
        check_space(link, 4 * archive.stat().st_size)  # the archive, and about three times as much that is in it
        work, packed = f"{folder}.part", f"{folder}.tar.gz"
        quoted = [shlex.quote(text) for text in (work, packed, folder)]
        link.ask(f"rm -rf {quoted[0]}; mkdir -p {quoted[0]}", what="making a folder")
        link.put(archive, packed)
        try:
            link.ask(
                f"tar -xzf {quoted[1]} -C {quoted[0]} && rm -f {quoted[1]} && mv {quoted[0]} {quoted[2]}",
                timeout=_UNPACKING,
                what=f"unpacking {archive.name}",
            )
        except LinkLost:
            raise
        except InputError:
            link.try_to(f"rm -rf {quoted[0]} {quoted[1]}", timeout=_UNPACKING)
            raise
    return folder


def check_space(link: Link, needed: int) -> None:
    """DeviceFull when there is not enough room for so many bytes, before any is sent."""
    words = " ".join(link.ask(f"df -k {shlex.quote(link.base)}").splitlines()[1:]).split()
    numbers = [int(word) for word in words if word.isdigit()]
    if len(numbers) >= 3 and numbers[2] * 1024 < needed + _SPARE:
        raise DeviceFull(
            f"{link.name} has {numbers[2] / 1024:,.0f} MiB free at {link.base}, {(needed + _SPARE) / 2**20:,.0f} are "
            f"needed; free some there, or remove what edgepress left: edgepress devices {link.name} --clean"
        )


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths of the files to push; no link is followed out of the folder."""
    root = path if path.is_dir() else path.parent
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_symlink() and path.is_dir():
            raise InputError(f"{file} is a link, and links are not pushed; put the file itself there")
        if not file.name.isprintable():
            raise InputError(f"{str(file)!a} has a name that no list of files can hold; rename it")
        if file.is_file():
            yield file.relative_to(root).as_posix(), file


def _look(link: Link, folder: str) -> tuple[dict[str, tuple[str, int]], list[str]]:
    """Hash and size of each file there that is whole, so that its index has it and its size; and the names of all."""
    quoted = shlex.quote(folder)
    sizes_of = """sh -c 'for one; do printf "%s %s\\n" $(wc -c < "$one") "$one"; done' sh"""
    said = link.ask(
        f"[ -f {quoted}.index ] || exit 0; cat {quoted}.index; echo {_END}; cd {quoted} && "
        f"find . -type f -exec {sizes_of} {{}} +"
    )
    lines = said.split("\n")
    end = lines.index(_END) if _END in lines else len(lines)
    listed: dict[str, tuple[str, int]] = {}
    for line in lines[:end]:
        digest, _, rest = line.partition(" ")
        size, _, name = rest.partition(" ")
        if size.isdigit() and name:
            listed[name] = (digest, int(size))
    sizes: dict[str, int] = {}
    for line in lines[end + 1 :]:
        size, _, name = line.partition(" ./")
        if size.isdigit():
            sizes[name] = int(size)
    return {name: entry for name, entry in listed.items() if sizes.get(name) == entry[1]}, list(sizes)


def _prepare(link: Link, folder: str, kept: dict[str, tuple[str, int]], coming: list[str], remove: list[str]) -> None:
    """Write down what stays, then remove what does not, and make folders: an index never has what is not there."""
    quoted = shlex.quote(folder)
    folders = sorted({f"{folder}/{name}".rpartition("/")[0] for name in coming} | {folder})
    index = "".join(f"{digest} {size} {file}\n" for file, (digest, size) in kept.items())
    write = f"cat > {quoted}.index.part && mv {quoted}.index.part {quoted}.index"
    link.ask(
        f"mkdir -p {' '.join(map(shlex.quote, folders))} && {write}", content=index.encode(), what="writing the index"
    )
    for start in range(0, len(remove), _MOST_NAMES):
        files = " ".join(shlex.quote(f"{folder}/{name}") for name in remove[start : start + _MOST_NAMES])
        link.ask(f"rm -f {files}", what="removing files")


def _send(link: Link, source: Path, folder: str, name: str, digest: str) -> None:
    """Send a file, have its hash computed there, and only then write it into the index."""
    there = f"{folder}/{name}"
    link.put(source, there)
    line = shlex.quote(f"{digest} {source.stat().st_size} {name}")
    # From its standard input, or sha256sum would escape a name with a backslash and say so before the hash.
    said = link.ask(
        f'set -- $(sha256sum < {shlex.quote(there)}); echo "$1"; '
        f'[ "$1" != {digest} ] || printf "%s\\n" {line} >> {shlex.quote(folder)}.index',
        timeout=_UNPACKING,
        what="sha256sum",
    )
    if said.split() != [digest]:
        link.try_to(f"rm -f {shlex.quote(there)}")
        raise LinkLost(f"{name} arrived on {link.name} with another hash than it was sent with; run it again")
