"""Devices as data, for estimates: how fast memory and arithmetic can be at most, each figure with its source.

``targets/devices/<name>.toml`` (nothing else lists them) has the figures of one device's processor cores. They bound
what is possible (the roofline model: Williams, Waterman and Patterson, CACM 52(4), 2009): no program is faster, most
are slower. How far a device's own measurements are from its estimates is in ``[error]``; a file without it says that
nobody has measured. ``edgepress profile --fit`` writes such a file from what a device reaches.
"""

import difflib
import json
import tomllib
from importlib.resources import files
from pathlib import Path

import msgspec

from edgepress.errors import InputError
from edgepress.files import atomic_file
from edgepress.targets.devices.packing import Kind


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number, where it is from, and when it was looked up (an ISO date)."""

    value: float
    source: str
    date: str

    def __post_init__(self) -> None:
        """Refuse what is no figure with a source."""
        if not self.value > 0 or not self.source.strip() or len(self.date.split("-")) != 3:
            raise ValueError("a figure needs a value above 0, a source and a date such as 2026-11-29")


class Error(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far measurements were from estimates: the largest share, and what was measured."""

    share: float
    source: str


class Roofline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's processor cores.

    - ``bytes_per_second``: of memory
    - ``int8_operations_per_second``, ``float32_operations_per_second``: multiplications and additions, all fast cores
      together
    - ``picojoules_per_byte``, ``picojoules_per_operation``: where a source gives them, else no energy is estimated
    - ``memory_bytes``: what the device has
    - ``process_bytes``: resident in a process of the runtime that has no bundle open
    - ``kernels``: how onnxruntime's kernels pack weights there (:mod:`.packing`); None takes what targets are
    """

    name: str
    soc: str
    cores: str
    bytes_per_second: Figure
    int8_operations_per_second: Figure
    float32_operations_per_second: Figure
    kernels: Kind | None = None
    memory_bytes: Figure | None = None
    process_bytes: Figure | None = None
    picojoules_per_byte: Figure | None = None
    picojoules_per_operation: Figure | None = None
    error: Error | None = None

    def times(self, bytes_: float, operations: float) -> tuple[float, float]:
        """Seconds that memory takes for so many bytes, and the cores for so many operations; the larger is the bound.

        Operations are counted at the rate of int8, in which products of quantized weights are computed.
        """
        return bytes_ / self.bytes_per_second.value, operations / self.int8_operations_per_second.value


def roofline_names() -> list[str]:
    """Names of the devices there is a file for."""
    return sorted(path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml"))


def find_roofline(name: str) -> Roofline:
    """The figures of a device that comes with edgepress, or of a file of the same form.

    Raises:
        InputError: there is no such device or file, or the file is none of this form.

    """
    path = Path(name)
    if path.suffix == ".toml":
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{name} cannot be read: {error}") from None
        return _read(text, name)
    if name not in roofline_names():
        near = difflib.get_close_matches(name, roofline_names(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise InputError(
            f"there are no figures of a device {name!r}; {hint}known are "
            f"{', '.join(roofline_names())}, or give a .toml file"
        )
    return _read(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"), name)


def check_target(path: Path) -> None:
    """Refuse a place for a device's figures where something else lies.

    Raises:
        InputError: what is there is no file of this form.

    """
    if path.exists() or path.is_symlink():
        try:
            find_roofline(str(path))
        except InputError as error:
            raise InputError(f"{path} is not replaced: {error}; give another name") from None


def write_roofline(path: Path, roofline: Roofline) -> None:
    """Write the figures of a device to a ``.toml`` file, whole or not at all; one of this form is replaced.

    Raises:
        InputError: something else is there, or the folder cannot be written.

    """
    check_target(path)
    with atomic_file(path, replace=True) as file:
        file.write_text(_toml(roofline), encoding="utf-8")


def _toml(roofline: Roofline) -> str:
    """The names of a device, then a table for each figure that it has."""
    content = {name: value for name, value in msgspec.to_builtins(roofline).items() if value is not None}
    lines = [f"{name} = {_toml_value(value)}" for name, value in content.items() if not isinstance(value, dict)]
    for name, table in content.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _toml_value(value: str | float) -> str:
    """A string or a number; JSON writes both as TOML does, but for one control character that it leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _read(text: str, name: str) -> Roofline:
    try:
        return msgspec.convert(tomllib.loads(text), Roofline)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"{name} has no figures of a device: {error}") from None
