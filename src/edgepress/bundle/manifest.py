"""``manifest.json``: what a bundle holds, what it was made from, and how to tell that nobody changed it.

The file is canonical JSON (sorted keys, two-space indent, final newline) and carries its own digest, so that any
flipped byte is found, in the manifest too. The same inputs give the same manifest: no times, paths or thread counts.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from edgepress.bundle.adapter_slots import AdapterSlots, check_slots
from edgepress.bundle.drafters import DrafterEntry, check_drafters
from edgepress.bundle.graphs import GraphEntry, check_graphs
from edgepress.bundle.kept_text import KeptText
from edgepress.bundle.rotations import KeyRotation, check_rotations
from edgepress.bundle.states import State, check_states
from edgepress.disk.files import refuse_aside, sha256_file
from edgepress.disk.hub_layout import is_beside, is_hub_link, resolve_inside
from edgepress.errors import InputError
from edgepress.schema import Count, Digest, Size, convert, parse_object, read_bytes
from edgepress.terminal.progress import Advance, Progress, silent

if TYPE_CHECKING:
    from edgepress.tasks.task import Task
else:
    Task = Any  # imported, and its entry checked, where a manifest has one: its many kinds take long to make

SCHEMA_VERSION = 2
MANIFEST_NAME = "manifest.json"
PACK_INDEX = "pack.json"
_AGAIN = "export the bundle again"
_LINK = "is a symbolic link; a bundle holds plain files only"

Json = dict[str, object]


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of one file of the bundle."""

    size: Size
    sha256: Digest


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json``.

    ``recipe`` is what was asked, ``decisions`` what was decided beside it: methods that are left out, layers that stay
    in float32, what a budget chose, the text and its length where they are others than what was asked.
    ``targets`` has what each target finds in the folder of its name, nothing where the CPU graph is all it needs.
    ``source`` has the SHA-256 of each checkpoint file; ``tensors`` has, for each stored tensor, its scheme or the
    reason why it is kept, bytes, and SQNR in dB as stored (null when exact); ``calibration`` says which
    text a calibrated recipe saw; ``steps`` what each step of a recipe that prunes came to, from the original to the
    bundle (parameters, bytes of the weights, bits per byte on held-out text); ``budget`` what was measured for a
    recipe's budget, and what it came to; ``parity`` is there after ``--check``, and ``sparsity`` where a method made
    zeros: how many, and what the download gains by them.
    ``notes`` say what was passed over in the checkpoint's config, added to its tokenizer, or chosen, a sentence each.
    ``origin`` is the repository on the hub, the revision that was asked for and the commit that it was; null elsewhere.
    ``long_from`` is the total length beyond which a longrope model uses its long frequencies, null for other models.
    ``states`` lists what the graph carries from one call to the next (:mod:`edgepress.bundle.states`); it is empty in
    bundles that were written before there was this list. ``rotations`` say how what is kept of a token is moved to
    another position (:mod:`edgepress.bundle.rotations`); it is absent where that cannot be said. ``kept`` says how much
    of a text stays by default (:mod:`edgepress.bundle.kept_text`), where a recipe asks for it. ``graphs`` are there
    where there are several (:mod:`edgepress.bundle.graphs`), and ``states`` are those of the last. ``adapter_slots`` is
    there where its graphs take adapters (:mod:`edgepress.bundle.adapter_slots`), ``drafters`` where there are graphs
    that propose tokens (:mod:`edgepress.bundle.drafters`). ``task`` says what a bundle that is no language model is for
    (:mod:`edgepress.tasks.task`).
    """

    model_type: str
    targets: dict[str, Json]
    recipe: Json
    versions: dict[str, str]
    source: dict[str, str]
    tensors: tuple[Json, ...]
    totals: Json
    files: dict[str, FileEntry] = field(default_factory=dict)
    calibration: Json | None = None
    budget: Json | None = None
    steps: tuple[Json, ...] = ()
    parity: Json | None = None
    sparsity: Json | None = None
    long_from: int | None = None
    states: tuple[State, ...] = ()
    rotations: tuple[KeyRotation, ...] | None = None
    kept: KeptText | None = None
    graphs: tuple[GraphEntry, ...] = ()
    adapter_slots: AdapterSlots | None = None
    drafters: tuple[DrafterEntry, ...] = ()
    task: Task | None = None
    notes: tuple[str, ...] = ()
    origin: Json | None = None
    decisions: Json = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    manifest_sha256: str = ""

    def serialize(self) -> str:
        """Return the canonical JSON text, with its own digest filled in."""
        content = asdict(self)
        if self.task is not None:
            content["task"] = self.task.as_json()
        for name in ("graphs", "adapter_slots", "drafters", "task"):
            if not content[name]:
                del content[name]
        for name in ("rotations", "kept"):
            if content[name] is None:
                del content[name]
        for listed in (content, *content.get("graphs", ()), *content.get("drafters", ())):
            listed["states"] = [_without_none(state) for state in listed["states"]]
        return canonical({**content, "manifest_sha256": _digest(content)})


def _without_none(state: Json) -> Json:
    """A state's entries that it has: only one that keeps a window has a window."""
    return {key: value for key, value in state.items() if value is not None}


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    reason: str = ""
    regions: dict[str, list[Size]] = {}
    sqnr_db: float | None = None
    few_tokens: Size | None = None


class _Step(msgspec.Struct, frozen=True):
    name: str
    parameters: Size
    bytes: Size
    bits_per_byte: float | None


class _Budget(msgspec.Struct, frozen=True):
    sequences: Size
    length: Size
    limit: object
    used: object
    measured_kl: object
    predicted_kl: object
    rounded_by: list[str]


class _Score(msgspec.Struct, frozen=True):
    metric: str
    value: float
    reference: float
    difference_interval: tuple[float, float]
    changed: float


class _TaskBudget(msgspec.Struct, frozen=True):
    samples: Size
    limit: object
    used: object
    measured_in: str
    measured: object
    predicted: object
    rounded_by: list[str]
    score: _Score | None = None


class _Sparsity(msgspec.Struct, frozen=True):
    zeros: float
    data_bytes: Size
    deflated_bytes: Size
    dense_deflated_bytes: Size


class _Target(msgspec.Struct, frozen=True):
    widths: str | msgspec.UnsetType = msgspec.UNSET
    socs: list[str] | dict[str, object] = []


class _Parts(msgspec.Struct, frozen=True):
    """The entries of nested objects of a manifest that are read; they have more."""

    tensors: list[_Tensor]
    targets: dict[str, _Target]
    steps: list[_Step] = []
    budget: _Budget | None = None
    sparsity: _Sparsity | None = None
    long_from: Count | None = None


class _TaskParts(_Parts, frozen=True):
    """The same of a model with a task, whose budget is measured otherwise."""

    budget: _TaskBudget | None = None  # type: ignore[assignment]  # another struct in its place


def canonical(content: Json) -> str:
    """Canonical JSON: sorted keys, two-space indent, final newline.

    Python's ``json`` writes the values, msgspec the indents: the former does both a value at a time, in Python.
    """
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
    return msgspec.json.format(text, indent=2) + "\n"


def _digest(content: Json) -> str:
    return hashlib.sha256(canonical({**content, "manifest_sha256": ""}).encode()).hexdigest()


def is_sealed(content: Json) -> bool:
    """Whether a manifest, of any version, is as it was written: what it says of itself is its own digest."""
    return content.get("manifest_sha256") == _digest(content)


def describe_files(bundle: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file in ``bundle`` but the manifest, by POSIX path relative to it."""
    return {
        path.relative_to(bundle).as_posix(): FileEntry(path.stat().st_size, sha256_file(path))
        for path in sorted(bundle.rglob("*"))
        if path.is_file() and path.relative_to(bundle).as_posix() != MANIFEST_NAME
    }


def bundle_hash(bundle: Path) -> str:
    """SHA-256 of ``manifest.json``; as the manifest has every file's hash, it stands for the whole bundle."""
    return sha256_file(_manifest_path(bundle))


def _manifest_path(bundle: Path) -> Path:
    path = bundle / MANIFEST_NAME
    if not bundle.is_dir():
        refuse_aside(bundle)
        raise InputError(f"{bundle} is not a directory; name a bundle made by `edgepress export`")
    if _is_foreign_link(path, bundle):
        raise InputError(f"{path} {_LINK}")
    if not path.is_file():
        refuse_pack(bundle)
        raise InputError(f"{bundle} has no {MANIFEST_NAME}; name a bundle made by `edgepress export`")
    return path


def refuse_pack(folder: Path) -> None:
    """Raise an InputError that names the bundles of a pack where ``folder`` is one and no bundle itself."""
    if (folder / PACK_INDEX).is_file():
        names = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_NAME}"))
        such = f", such as {folder / names[0]}" if names else ""
        raise InputError(
            f"{folder} is a pack of several bundles ({', '.join(names) or 'none is left in it'}); name the one of them "
            f"that is meant{such}"
        )


def read_manifest(bundle: Path) -> Manifest:
    """Read and validate ``bundle``'s manifest.

    Raises:
        InputError: there is none, it is not JSON, its schema version is another, it was changed after writing, or an
            entry is not what it should be.

    """
    path = _manifest_path(bundle)
    return _parsed(path, read_bytes(path, _AGAIN))


@lru_cache(maxsize=4)  # opening a bundle asks for it several times; what is given is not changed
def _parsed(path: Path, data: bytes) -> Manifest:
    content = parse_object(data, path, _AGAIN)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: schema version {version!r}, this edgepress reads {SCHEMA_VERSION}; export again")
    if content.get("manifest_sha256") != _digest(content) or data != canonical(content).encode():
        raise InputError(f"{path} was changed after it was written (its own SHA-256 differs); export again")
    unknown = content.keys() - {entry.name for entry in fields(Manifest)}
    if unknown or "files" not in content:
        wrong = f"unknown fields ({', '.join(sorted(unknown))})" if unknown else "no field 'files'"
        raise InputError(f"{path} has {wrong}; {_AGAIN}")
    task = content.pop("task", None)
    convert(content, _Parts if task is None else _TaskParts, path, _AGAIN)
    manifest = convert(content, Manifest, path, _AGAIN)
    try:
        what = "states"
        check_states(manifest.states)
        what = "rotations"
        check_rotations(manifest.rotations or (), manifest.states)
        what = "graphs"
        check_graphs(manifest.graphs, manifest.files, manifest.states)
        what = "adapter_slots"
        if manifest.adapter_slots is not None:
            check_slots(manifest.adapter_slots)
        what = "drafters"
        check_drafters(manifest.drafters, manifest.files)
        what = "task"
        if task is not None:
            manifest = replace(manifest, task=_task({"task": task}, path))
    except ValueError as error:
        raise InputError(f"{path}: {what}: {error}; {_AGAIN}") from error
    return manifest


def _task(entry: Json, path: Path) -> Task:
    """The entry of that name, checked; ValueError where its parts do not fit together."""
    from edgepress.tasks.task import TaskEntry, check_task

    task = convert(entry, TaskEntry, path, _AGAIN).task
    check_task(task)
    return task


def find_problems(bundle: Path, progress: Progress = silent) -> list[str]:
    """Recompute every hash of ``bundle`` and return what differs, one line a file; an empty list is a sound bundle.

    Names flipped bytes, missing and extra files, symbolic links, special files and paths that leave the folder. What
    the hub leaves beside a model, such as ``.gitattributes``, is no part of it, and its cache's links are followed.
    """
    try:
        manifest = read_manifest(bundle)
    except InputError as error:
        return [str(error)]
    known = {*manifest.files, MANIFEST_NAME}
    strange = [f"{name}: not in the manifest; remove it" for name, _ in _walk(bundle) if name not in known]
    return find_damage(bundle, manifest, progress) + strange


def find_damage(bundle: Path, manifest: Manifest, progress: Progress = silent) -> list[str]:
    """Hash every file that the manifest names; return what differs, one line a file."""
    with progress(sum(entry.size for entry in manifest.files.values()), "verifying", "B") as advance:
        found = [(name, _problem(bundle, name, entry, advance)) for name, entry in sorted(manifest.files.items())]
    return [f"{name}: {problem}" for name, problem in found if problem]


def refuse_links(bundle: Path) -> None:
    """Raise InputError when there is a link in ``bundle`` that is not one of the hub's cache to its own files."""
    for name, is_link in _walk(bundle):
        if is_link:
            raise InputError(f"{bundle / name} {_LINK}; `edgepress verify {bundle}` names everything that is wrong")


def check_links(folder: Path, files: Sequence[Path]) -> None:
    """Refuse links before ``files`` of ``folder`` are read: any in a bundle, and those that lead out of another folder.

    Raises:
        InputError: there is such a link, which is not one of the hub's cache to its own files.

    """
    if os.path.lexists(folder / MANIFEST_NAME):
        refuse_links(folder)
    for file in files:
        resolve_inside(file, folder)


def _walk(bundle: Path) -> Iterator[tuple[str, bool]]:
    """Each file in ``bundle`` by its POSIX path, and each link that is not the hub's, files beside the model left out.

    The second of each pair says whether it is such a link.
    """
    for folder, folders, names in os.walk(bundle, followlinks=False):
        for name in sorted([*names, *(name for name in folders if (Path(folder) / name).is_symlink())]):
            path = Path(folder) / name
            relative = path.relative_to(bundle)
            is_link = _is_foreign_link(path, bundle)
            if is_link or not is_beside(PurePosixPath(relative.as_posix())):
                yield relative.as_posix(), is_link


def _problem(bundle: Path, name: str, entry: FileEntry, advance: Advance) -> str | None:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        return "the manifest names a path outside the bundle"
    path = bundle / name
    if any((bundle / parent).is_symlink() for parent in pure.parents[:-1]) or _is_foreign_link(path, bundle):
        return _LINK
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != entry.size:
        return f"{size} bytes, the manifest says {entry.size}"
    if sha256_file(path, advance) != entry.sha256:
        return f"content changed (SHA-256 differs from {entry.sha256[:12]}…)"
    return None


def _is_foreign_link(path: Path, bundle: Path) -> bool:
    return path.is_symlink() and not is_hub_link(path, bundle)
