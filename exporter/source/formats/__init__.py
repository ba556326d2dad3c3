"""Formats in which checkpoints store weights that are quantized already: one file each, ending in ``FORMAT``.

A file's format takes the tensors that hold a weight out of a checkpoint's and puts one
:class:`~edgepress.exporter.source.packed.PackedTensor` in their place, which is read like any other, a few rows at a
time. Adding a format is adding its file.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgepress.errors import InputError
from edgepress.exporter.source.config import QUANTIZED, Config
from edgepress.exporter.source.stored import StoredTensor, read_errors
from edgepress.modules import modules_in

MLX = "mlx"  # which has a key of its own, and no quant_method


@dataclass(frozen=True)
class Format:
    """A stored format: ``methods`` are the names that ``quant_method`` has for it.

    ``read(settings, tensors)`` takes out of ``tensors``, by name, what holds a weight in this format and puts the
    weight in: it changes the mapping. ``settings`` is the config's section. It raises InputError for what it cannot
    read, of the settings alone when there are no tensors: they are checked before anything is downloaded. What it
    returns says how weights are stored, in words.
    """

    name: str
    methods: tuple[str, ...]
    read: Callable[[Config, dict[str, StoredTensor]], str]


@dataclass(frozen=True)
class WholeFile:
    """A model that is one file: its config and tensors as a checkpoint has them, and the other ``files`` of one."""

    config: dict[str, object]
    tensors: dict[str, StoredTensor]
    files: Mapping[str, bytes]
    note: str


@dataclass(frozen=True)
class FileFormat:
    """A format of single files, which begin with ``magic``; ``read(path)`` raises InputError for what is not read."""

    name: str
    magic: bytes
    read: Callable[[Path], WholeFile]


@dataclass(frozen=True)
class Decoded:
    """A checkpoint as if it stored floats: its config without the section, its tensors; ``note`` says what was done."""

    config: dict[str, object]
    tensors: dict[str, StoredTensor]
    note: str = ""


def _all() -> list[Format | FileFormat]:
    """Every format there is a file for."""
    names = sorted(module.name for module in modules_in(__path__) if not module.name.startswith("_"))
    found = [importlib.import_module(f"{__name__}.{name}").FORMAT for name in names]
    assert all(isinstance(one, Format | FileFormat) for one in found)
    return found


def file_format(path: Path) -> FileFormat | None:
    """The format of a file that is a whole model, by its first bytes; None for any other."""
    if not path.is_file():
        return None
    with read_errors(path), path.open("rb") as file:
        head = file.read(16)
    return next((one for one in _all() if isinstance(one, FileFormat) and head.startswith(one.magic)), None)


def decoded(values: Mapping[str, object], tensors: Mapping[str, StoredTensor], where: str) -> Decoded:
    """What a config says of how its weights are stored, done; as it is where it says nothing.

    Raises:
        InputError: the format is not known here, or its tensors are not as it says.

    """
    config, changed = dict(values), dict(tensors)
    key = next((key for key in ("quantization", *QUANTIZED) if config.get(key) is not None), None)
    if key is None:
        return Decoded(config, changed)
    whole = Config(values, where)
    settings = whole.section(key)
    assert settings is not None
    for other in QUANTIZED:
        config.pop(other, None)
    note = _find(key, whole, settings).read(settings, changed)
    return Decoded(config, changed, note)


def _find(key: str, whole: Config, settings: Config) -> Format:
    known = {method: one for one in _all() if isinstance(one, Format) for method in one.methods}
    default = {"quantization": MLX, "compression_config": "compressed-tensors"}.get(key)
    method = settings.values.get("quant_method", default)
    method = settings.values.get("quant_algo") if method is None else method
    if method is None and settings.has("group_size") and settings.has("bits"):
        method = MLX  # which writes its settings a second time, under transformers' key
    found = known.get(method) if isinstance(method, str) else None
    if found is None:
        by = "it does not say how (no quant_method)" if method is None else f"quantized by {method!r}"
        raise InputError(
            f"{whole.where}: {key}: {by}; known: {', '.join(sorted(known))}. Export the original checkpoint, or one in "
            "such a format"
        )
    return found
