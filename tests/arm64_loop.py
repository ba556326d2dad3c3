"""A loop of a known number of arm64 instructions, run on the machine that counts them."""

import ctypes
import mmap
import struct
from time import perf_counter_ns
from typing import Any

# Arm Architecture Reference Manual, A64: label: SUBS x0, x0, #1; B.NE label; RET
_CODE = struct.pack("<3I", 0xF1000400, 0x54FFFFE1, 0xD65F03C0)


def loop(arguments: dict[str, Any], _arrays: object) -> tuple[dict[str, int], dict[str, Any]]:
    """Nanoseconds of the clock for ``rounds`` of two instructions each."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_CODE)
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    function(1)
    start = perf_counter_ns()
    function(arguments["rounds"])
    return {"instructions": perf_counter_ns() - start}, {}
