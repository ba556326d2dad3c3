"""What a runner consists of, packed: a relocatable root for a device that has no Python, and edgepress itself.

The root is Debian's glibc and Python and the wheels of this machine's own versions (``targets/emulator/roots.py``). No
path in it is absolute: it is started through its own dynamic loader, told where libraries and Python's modules are.
Links are packed as the files that they lead to, for not every device takes links.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import edgepress
from edgepress.disk.cache import locked
from edgepress.runtime.machine.devices.common.whole import whole_file
from edgepress.targets.emulator import packages
from edgepress.targets.emulator.roots import Root

WHEELS = "wheels"
_FORM = 3  # of what is packed: another one is another key
_LEVEL = 3  # of gzip: level 9 takes five times as long for 2 % less
_NOT_THERE = frozenset({"exporter", "commands", "__pycache__"})  # folders of edgepress that no runtime uses
EXTRA_MODULES: dict[str, Path] = {}  # packed beside edgepress, by their names there; tests call functions of theirs


def packed_root(root: Root) -> tuple[Path, str]:
    """The root as a gzipped tar archive in the cache, made once; and its digest."""
    parts = (
        str(_FORM),
        root.machine,
        str(root.system.relative_to(root.cache)),
        str(root.wheels.relative_to(root.cache)),
    )
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    archive = root.cache / f"root-{digest}.tar.gz"
    if not archive.exists():
        with locked(root.cache):
            if not archive.exists():
                with whole_file(archive) as partial, tarfile.open(partial, "w:gz", compresslevel=_LEVEL) as packed:
                    for name, path in _root_files(root):
                        with path.open("rb") as content:
                            packed.addfile(_entry(path, name), content)
    return archive, f"root-{digest}"


def _root_files(root: Root) -> Iterator[tuple[str, Path]]:
    """What a runner uses of the system and of the wheels, with the bytecode that is there already."""
    for source, folder in ((root.system / "usr", "usr"), (root.wheels, WHEELS)):
        links = [path for path in source.rglob("*") if path.is_symlink()]
        targets = {link.resolve() for link in links if link.resolve().parent == link.parent.resolve()}
        for path in sorted(source.rglob("*")):
            inner = path.relative_to(source)
            doubled = not path.is_symlink() and path in targets  # packed under the name of a link beside it
            if path.is_file() and not doubled and _is_needed(inner):
                yield f"{folder}/{inner.as_posix()}", path
        if root.bytecode is not None:
            compiled = root.bytecode / source.relative_to("/")
            for path in sorted(compiled.rglob("*.pyc")):
                inner = path.relative_to(compiled)
                yield f"{folder}/{inner.parent.as_posix()}/__pycache__/{inner.name}", path


def _is_needed(name: Path) -> bool:
    path = PurePosixPath(name.as_posix())
    unused = path.suffix in packages.UNUSED_SUFFIXES or packages.UNUSED_FOLDERS & set(path.parts)
    return not unused and not path.name.startswith("libonnxruntime.so")  # 25 MB for C programs; Python's has its own


def package_digest() -> str:
    """The hash of the files of this edgepress that a runtime uses: no exporter, no command line."""
    seen = hashlib.sha256(str(_FORM).encode())
    for name, path in _package_files():
        seen.update(f"{name}\n".encode())
        seen.update(hashlib.sha256(path.read_bytes()).digest())
    return f"edgepress-{seen.hexdigest()[:16]}"


def pack_package(archive: Path) -> None:
    """Pack those files as a gzipped tar archive."""
    with tarfile.open(archive, "w:gz", compresslevel=_LEVEL) as packed:
        for name, path in _package_files():
            with path.open("rb") as content:
                packed.addfile(_entry(path, name), content)


def _package_files() -> Iterator[tuple[str, Path]]:
    package = Path(edgepress.__file__).resolve().parent
    folders = sorted(path.name for path in package.iterdir() if path.is_dir() and path.name not in _NOT_THERE)
    for folder in ("", *folders):
        source = (package / folder).resolve()
        for path in sorted(source.rglob("*") if folder else source.iterdir()):
            inner = PurePosixPath("edgepress", folder, path.relative_to(source).as_posix())
            if path.is_file() and path.suffix in {".py", ".json", ".toml"}:
                yield str(inner), path
    yield from EXTRA_MODULES.items()


def _entry(path: Path, name: str) -> tarfile.TarInfo:
    """An entry with nothing of this machine's but the time, which bytecode is checked against."""
    status = path.stat()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = status.st_size, int(status.st_mtime)
    entry.mode = 0o755 if status.st_mode & 0o100 or os.access(path, os.X_OK) else 0o644
    return entry
