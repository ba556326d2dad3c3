"""What calibration has done so far, on disk: a killed run goes on from here and ends with the same bytes.

A directory of stages (``0003-layer.safetensors``), each written beside its place and renamed into it, and the
activations that go into the next one. The directory belongs to one key: a digest of everything that decides the bytes.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from edgepress import workspace
from edgepress.exporter.compress import Quantized

_KEY_FILE = "key.json"
_SUFFIX = ".safetensors"
_log = logging.getLogger("edgepress.calibration")


class Store:
    """The stages of one calibration. Made by :meth:`open`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    @contextmanager
    def open(cls, directory: Path, key: Mapping[str, object]) -> Iterator["Store"]:
        """Continue in ``directory`` when it was begun with the same ``key`` and every stage is whole; else begin anew.

        An error before the first stage is complete removes the directory.

        Raises:
            InputError: another process calibrates there, or the directory cannot be written.

        """
        text = json.dumps(key, sort_keys=True, indent=1)
        with workspace.held(directory, "another export calibrates"):
            path, store = directory / _KEY_FILE, cls(directory)
            if not path.is_file() or path.read_bytes() != text.encode() or store._is_damaged():
                workspace.clear(directory)
                path.write_bytes(text.encode())
            try:
                yield store
            except BaseException:
                if not store.stages():  # nothing to go on from
                    store.remove()
                raise

    def _is_damaged(self) -> bool:
        """Whether a stage is not as it was written; what later ones were made from is gone, so that none can stay."""
        for stage in self.stages():
            try:
                self.notes(stage)
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                _log.warning("%s: stage %s is damaged (%s); beginning anew", self.directory, stage, error)
                return True
        return False

    def stages(self) -> list[str]:
        """Names of the stages that are complete, in the order of their names."""
        return sorted(path.name.removesuffix(_SUFFIX) for path in self.directory.glob(f"*{_SUFFIX}"))

    def has(self, stage: str) -> bool:
        """Whether ``stage`` is complete."""
        return (self.directory / f"{stage}{_SUFFIX}").is_file()

    def save(self, stage: str, arrays: Mapping[str, NDArray[Any]], notes: Mapping[str, object] | None = None) -> None:
        """Write ``stage`` whole or not at all; ``notes`` is JSON that is kept with it."""
        path = self.directory / f"{stage}{_SUFFIX}"
        partial = path.with_suffix(".partial")
        contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
        save_file(contiguous, partial, {"notes": json.dumps(notes or {}, sort_keys=True)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)

    def load(self, stage: str) -> dict[str, NDArray[Any]]:
        """Every array of ``stage``."""
        with safe_open(self.directory / f"{stage}{_SUFFIX}", "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping

    def notes(self, stage: str) -> dict[str, Any]:
        """The notes of ``stage``."""
        with safe_open(self.directory / f"{stage}{_SUFFIX}", "numpy") as file:
            notes: dict[str, Any] = json.loads(file.metadata()["notes"])
        return notes

    def weights(self) -> "StoredStages":
        """What the complete stages hold; a later stage replaces what an earlier one says of a weight."""
        return StoredStages(self)

    def remove(self) -> None:
        """Delete the directory: the bundle is written."""
        workspace.remove(self.directory)


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
            with safe_open(path, "numpy") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    self._files[key] = path
            self.reports |= store.notes(stage).get("reports", {})
        self.complete = store.stages()
        self._names = {key.rpartition("/")[0] for key in self._files if "/" in key}

    def __contains__(self, name: str) -> bool:
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
