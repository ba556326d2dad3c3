"""The stages that calibration has finished, on disk: a killed run continues from them and ends with the same bytes.

A directory of stages (``0003-layer.safetensors``), each written beside its place and renamed into it, and the
activations that go into the next one. The directory belongs to one key: a digest of everything that decides the bytes.
Each stage carries its own digest, the names of those before it, and the digests of the files that the next ones read
beside it (:mod:`edgepress.exporter.arrays.sealed`).
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from edgepress.disk import workspace
from edgepress.errors import InputError
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.sealed import DamagedError, check_hashes, check_sealed, hashes, load_sealed, save_sealed

_KEY_FILE = "key.json"
_SUFFIX = ".safetensors"
_log = logging.getLogger("edgepress.calibration")


class Store:
    """The stages of one calibration. Made by :meth:`open`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._files: dict[str, str] = {}  # digests of the files that stages to come read

    @classmethod
    @contextmanager
    def open(cls, directory: Path, key: Mapping[str, object]) -> Iterator["Store"]:
        """Continue in ``directory`` when it was begun with the same ``key`` and no stage is damaged; else begin anew.

        An error before the first stage is complete removes the directory. It must be one that this process has made or
        holds (:class:`edgepress.disk.workspace.Workspace`): nothing in it is looked at as if another could write there.
        """
        text = json.dumps(key, sort_keys=True, indent=1)
        directory.mkdir(exist_ok=True)
        path, store = directory / _KEY_FILE, cls(directory)
        if not path.is_file() or path.read_bytes() != text.encode() or store._is_damaged():
            workspace.clear(directory)
            path.write_bytes(text.encode())
        try:
            yield store
        except BaseException:
            if not store.stages():  # nothing to go on from
                workspace.remove_made(directory)
            raise

    def _is_damaged(self) -> bool:
        """Whether something is not as it was written; then no stage stays, as later ones were made from it."""
        stages, files = self.stages(), dict[str, str]()
        for number, stage in enumerate(stages):
            try:
                sealed = check_sealed(self._path(stage))
                files = sealed["files"]
                if sealed["before"] != stages[:number]:
                    raise DamagedError("stages before it are missing, or are others")
                if stage == stages[-1]:
                    check_hashes(self.directory, files)
            except (DamagedError, KeyError, TypeError) as error:
                _log.warning("%s: stage %s is damaged (%s); beginning anew", self.directory, stage, error)
                return True
        self._files = files
        return False

    def _path(self, stage: str) -> Path:
        return self.directory / f"{stage}{_SUFFIX}"

    def stages(self) -> list[str]:
        """Names of the stages that are complete, in the order of their names."""
        return sorted(path.name.removesuffix(_SUFFIX) for path in self.directory.glob(f"*{_SUFFIX}"))

    def has(self, stage: str) -> bool:
        """Whether ``stage`` is complete."""
        return self._path(stage).is_file()

    def save(
        self,
        stage: str,
        arrays: Mapping[str, NDArray[Any]],
        notes: Mapping[str, object] | None = None,
        *,
        files: Sequence[Path] = (),
        unneeded: Sequence[Path] = (),
    ) -> None:
        """Write ``stage`` whole or not at all; ``notes`` is JSON that is kept with it.

        ``files`` in the directory are read by stages to come, until one of these has them among its ``unneeded``: those
        are then removed.
        """
        gone = {path.name for path in unneeded}
        self._files |= hashes(self.directory, [path.name for path in files])
        self._files = {name: digest for name, digest in self._files.items() if name not in gone}
        before = [other for other in self.stages() if other != stage]
        save_sealed(self._path(stage), arrays, {"notes": notes or {}, "before": before, "files": self._files})
        for path in unneeded:
            path.unlink(missing_ok=True)

    def load(self, stage: str) -> dict[str, NDArray[Any]]:
        """Every array of ``stage``.

        Raises:
            InputError: it is not as it was written.

        """
        with self._said(stage):
            return load_sealed(self._path(stage))[0]

    def notes(self, stage: str) -> dict[str, Any]:
        """The notes of ``stage``; errors as :meth:`load`."""
        with self._said(stage):
            notes: dict[str, Any] = check_sealed(self._path(stage))["notes"]
        return notes

    @contextmanager
    def _said(self, stage: str) -> Iterator[None]:
        try:
            yield
        except DamagedError as error:
            raise InputError(
                f"{self.directory}: stage {stage} was damaged while it was in use ({error}); look after the disk, and "
                "run the same command again: what is damaged is made anew"
            ) from error

    def weights(self) -> "StoredStages":
        """The weights in the complete stages; of one in several stages, that of the last.

        Raises:
            InputError: one is not as it was written.

        """
        return StoredStages(self)


def to_arrays(name: str, stored: Quantized | NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Arrays of one weight, as a stage keeps them: ``name/values``, ``name/scales``, … or ``name/data``."""
    if not isinstance(stored, Quantized):
        return {f"{name}/data": stored}
    arrays: dict[str, NDArray[Any]] = {f"{name}/values": stored.values, f"{name}/scales": stored.scales}
    if stored.zero_points is not None:
        arrays[f"{name}/zero_points"] = stored.zero_points
    return arrays


class StoredStages:
    """Weights of all complete stages by name, read when asked for; arrays without a ``/`` in their key are none."""

    def __init__(self, store: Store) -> None:
        self._files: dict[str, Path] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        for stage in store.stages():
            path = store.directory / f"{stage}{_SUFFIX}"
            self.reports |= store.notes(stage).get("reports", {})
            with safe_open(path, "numpy") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    self._files[key] = path
        self.complete = store.stages()
        self._names = {key.rpartition("/")[0] for key in self._files if "/" in key}

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names))

    def array(self, name: str, part: str) -> NDArray[Any]:
        """One array of a weight: ``values``, ``scales``, ``zero_points`` or ``data``."""
        key = f"{name}/{part}"
        with safe_open(self._files[key], "numpy") as file:
            array: NDArray[Any] = file.get_tensor(key)
        return array

    def weight(self, name: str) -> Quantized | NDArray[np.float32]:
        """A weight as it will be stored."""
        if f"{name}/data" in self._files:
            return self.array(name, "data")
        zero_points = self.array(name, "zero_points") if f"{name}/zero_points" in self._files else None
        return Quantized(self.array(name, "values"), self.array(name, "scales"), zero_points)
