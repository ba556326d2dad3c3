"""NVIDIA's management library: energy of graphics processors since their driver was loaded.

``nvmlDeviceGetTotalEnergyConsumption`` counts mJ on Volta and later; where it is not supported, as on every Jetson,
that is said, and 0 is never taken for an energy. Return codes and units are those of ``nvml.h``.
"""

import ctypes
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from edgepress.runtime.machine.energy import EnergySource
from edgepress.runtime.machine.metering.readings import Meter, Rail, Reading, Unavailable

_LIBRARY = "libnvidia-ml.so.1"
_NOT_SUPPORTED = 3  # NVML_ERROR_NOT_SUPPORTED
_STEP = 1e-3  # J
_UPDATES = 0.1  # s: the counter's steps on data-centre boards; no document gives it


class Library(Protocol):
    """The three functions that are used: each returns NVML's code and a value."""

    def start(self) -> int:
        """Return a code."""
        ...

    def count(self) -> tuple[int, int]:
        """Return a code, and how many graphics processors there are."""
        ...

    def energy(self, index: int) -> tuple[int, int]:
        """Return a code, and mJ of processor ``index``."""
        ...


class _Nvml:
    """The library itself, through its C interface."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(_LIBRARY)

    def start(self) -> int:
        return int(self._library.nvmlInit_v2())

    def count(self) -> tuple[int, int]:
        count = ctypes.c_uint()
        return int(self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))), count.value

    def energy(self, index: int) -> tuple[int, int]:
        device, energy = ctypes.c_void_p(), ctypes.c_ulonglong()
        if code := int(self._library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device))):
            return code, 0
        return int(self._library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(energy))), energy.value


@dataclass
class NvmlMeter:
    """Every graphics processor that counts."""

    library: Library
    began: dict[int, int]  # mJ

    @property
    def rails(self) -> tuple[Rail, ...]:
        """One a processor."""
        return tuple(Rail(f"gpu-{index}", "a graphics board", "energy", _STEP, _UPDATES) for index in self.began)

    def read(self) -> list[Reading]:
        """Read all counters; OSError where one does not answer."""
        found = []
        for index, began in self.began.items():
            code, millijoules = self.library.energy(index)
            if code:
                raise OSError(f"NVML answers {code} for graphics processor {index}")
            found.append(Reading(f"gpu-{index}", perf_counter(), (millijoules - began) / 1000))
        return found

    def trouble(self) -> str | None:
        """Nothing spoils these counters."""
        return None

    def close(self) -> None:
        """The library stays loaded."""


def open_nvml(library: Library | None = None) -> Meter | Unavailable:
    """Open the counters of all graphics processors through ``library``, by default the driver's own."""
    if library is None:
        try:
            library = _Nvml()
        except OSError:
            return Unavailable(f"there is no {_LIBRARY} (no NVIDIA driver)")
    if code := library.start():
        return Unavailable(f"NVML does not start: code {code}")
    code, count = library.count()
    began = {}
    for index in range(0 if code else count):
        code, millijoules = library.energy(index)
        if code == _NOT_SUPPORTED:
            return Unavailable(f"graphics processor {index} counts no energy (on a Jetson use hwmon or tegrastats)")
        if code:
            return Unavailable(f"NVML answers {code} for graphics processor {index}")
        began[index] = millijoules
    return NvmlMeter(library, began) if began else Unavailable("NVML finds no graphics processor")


SOURCE = EnergySource("nvml", "graphics boards of NVIDIA, their memory and fans in it", open_nvml)
