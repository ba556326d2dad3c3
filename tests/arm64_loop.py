"""What is run on the machine that counts instructions: a loop of a known number, and a text that is really computed."""

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


def real_text(arguments: dict[str, Any], _arrays: object) -> tuple[dict[str, int], dict[str, Any]]:
    """Nanoseconds within onnxruntime of a token that is decoded after ``context`` others, the fewest of three."""
    from edgepress.runtime import load

    context = arguments["context"]
    session = load(arguments["bundle"], threads=1, context=context + 1, prepared=False, verify=False).session
    session.append(range(1, context + 1))
    found = []
    for _ in range(4):
        session.roll_back(context)
        before = session.run_seconds
        session.append([5])
        found.append(round((session.run_seconds - before) * 1e9))
    return {"instructions": min(found[1:])}, {}
