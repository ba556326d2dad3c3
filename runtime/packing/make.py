"""A pack made of bundles: checked, copied, and measured as an app would use them."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edgepress import __version__
from edgepress.bundle.manifest import MANIFEST_NAME, bundle_hash, find_problems, read_manifest
from edgepress.bundle.packs import INDEX, SCHEMA, Index, Packed, check_name, pack_problems
from edgepress.disk.files import atomic_directory
from edgepress.errors import InputError
from edgepress.processor import cpu_name
from edgepress.runtime.packing.measured import measure_memory
from edgepress.terminal.progress import Progress, silent


def pack(
    bundles: Mapping[str, str | Path], out: str | Path, *, measure: bool = True, progress: Progress = silent
) -> Index:
    """Put bundles into one folder with one index, and return that.

    Args:
        bundles: each with the name that it has in the pack.
        out: the folder, written beside itself and renamed into place.
        measure: open each bundle and all together, each time in a fresh process of this machine, for their memory.
        progress: makes the bars of long steps.

    Raises:
        InputError: a name cannot be one, two bundles are the same one, a bundle is not as it was written or cannot be
            opened, or ``out`` is there already.

    """
    places = {check_name(name): Path(bundle) for name, bundle in bundles.items()}
    if len(places) < 2:
        raise InputError(f"a pack is of two bundles or more, and there {'is' if places else 'are'} {len(places)}")
    index = Index(schema=SCHEMA, edgepress=__version__, bundles=_described(places, progress))
    if measure:
        index = _measured(index, places)
    index = index.sealed()
    with atomic_directory(Path(out)) as work:
        for name, place in places.items():
            _copy(place, work / name)
        (work / INDEX).write_text(index.serialize(), encoding="utf-8")
        if problems := pack_problems(work, progress):
            raise InputError(f"{out} was not written as it should be: {problems[0]}; try again")
    return index


def _described(places: Mapping[str, Path], progress: Progress) -> dict[str, Packed]:
    """What the index says of each bundle; refuses those that are not sound, and one that is there twice."""
    found: dict[str, Packed] = {}
    for name, place in places.items():
        manifest = read_manifest(place)
        if problems := find_problems(place, progress):
            raise InputError(f"{place}: {problems[0]}")
        digest = bundle_hash(place)
        if twice := next((other for other, packed in found.items() if packed.hash == digest), None):
            raise InputError(f"{twice} and {name} are the same bundle; ship it once, by one name")
        size = sum(entry.size for entry in manifest.files.values()) + (place / MANIFEST_NAME).stat().st_size
        found[name] = Packed(task=manifest.task.name if manifest.task else "text-generation", hash=digest, bytes=size)
    return found


def _measured(index: Index, places: Mapping[str, Path]) -> Index:
    """The index with the memory of each bundle, and of all together."""
    alone = {name: measure_memory([place]) for name, place in places.items()}
    bundles = {name: msgspec.structs.replace(packed, memory=alone[name]) for name, packed in index.bundles.items()}
    together = measure_memory(list(places.values()))
    return msgspec.structs.replace(index, bundles=bundles, together=together, measured_on=cpu_name())


def _copy(bundle: Path, into: Path) -> None:
    """The files that the manifest lists, and the manifest; what lies beside them is not the bundle's."""
    into.mkdir()
    for name in (*read_manifest(bundle).files, MANIFEST_NAME):
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, target)
