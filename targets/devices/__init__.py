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
from typing import Literal

import msgspec

from edgepress.disk.files import atomic_file
from edgepress.errors import InputError
from edgepress.targets.devices.packing import Kind

Bound = Literal["memory", "arithmetic"]


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


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a call of a graph moves and computes.

    - ``weight_bytes``: constants that it reads whole, ``state_bytes``: states of the tokens before
    - ``products``, ``attention``: operations of matrix products and of attention
    - ``nodes``, ``numbers``: all other nodes, and the numbers that go into them
    - ``rows``: tokens that are computed at once
    """

    weight_bytes: float
    state_bytes: float
    products: float
    attention: float
    nodes: float
    numbers: float
    rows: float

    @property
    def bytes(self) -> float:
        """All that it reads."""
        return self.weight_bytes + self.state_bytes

    @property
    def operations(self) -> float:
        """All that is counted as operations."""
        return self.products + self.attention


class Roofline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One device's processor cores.

    - ``bytes_per_second``: of memory
    - ``int8_operations_per_second``, ``float32_operations_per_second``: multiplications and additions, all fast cores
      together
    - ``picojoules_per_byte``, ``picojoules_per_operation``: where a source gives them, else no energy is estimated
    - ``attention_decode_operations_per_second``, ``attention_prefill_operations_per_second``: of attention, of a token
      and of a chunk of a prompt; ``nodes_per_second``: that are started; ``numbers_per_second``: that nodes beside them
      work through. Where they were not measured, attention counts as products do and the rest for nothing
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
    attention_decode_operations_per_second: Figure | None = None
    attention_prefill_operations_per_second: Figure | None = None
    nodes_per_second: Figure | None = None
    numbers_per_second: Figure | None = None
    kernels: Kind | None = None
    memory_bytes: Figure | None = None
    process_bytes: Figure | None = None
    picojoules_per_byte: Figure | None = None
    picojoules_per_operation: Figure | None = None
    error: Error | None = None

    def seconds(self, call: Call) -> float:
        """What products take, and then the rest, where it is known: attention, starting nodes, and their numbers."""
        taken = max(self._memory_and_arithmetic(call))
        attention = self._attention(call)
        taken += 0.0 if attention is None else call.attention / attention.value
        for figure, amount in ((self.nodes_per_second, call.nodes), (self.numbers_per_second, call.numbers)):
            taken += 0.0 if figure is None else amount / figure.value
        return taken

    def bound_by(self, call: Call) -> Bound:
        """What the products of a call wait for."""
        memory, arithmetic = self._memory_and_arithmetic(call)
        return "memory" if memory >= arithmetic else "arithmetic"

    def _memory_and_arithmetic(self, call: Call) -> tuple[float, float]:
        """Seconds that memory takes for the bytes, and the cores for the operations; the larger is the bound.

        Operations are counted at the rate of int8, in which products of quantized weights are computed. Attention whose
        rate is known, with its states, is none of them.
        """
        known = self._attention(call) is not None
        bytes_, operations = (call.weight_bytes, call.products) if known else (call.bytes, call.operations)
        return bytes_ / self.bytes_per_second.value, operations / self.int8_operations_per_second.value

    def _attention(self, call: Call) -> Figure | None:
        of_one, of_many = self.attention_decode_operations_per_second, self.attention_prefill_operations_per_second
        return of_one if call.rows == 1 else of_many


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
