"""What the system says of the processor."""

import platform
import sys
from functools import cache
from pathlib import Path

FEATURES = {"fp16": "float16 arithmetic"}
"""What :func:`features` can find, in the words of a bundle's manifest."""

_ARM64 = {"aarch64", "arm64"}
_AT_HWCAP = 16  # of getauxval: what the kernel says of the processor
_FPHP_ASIMDHP = 1 << 9 | 1 << 10  # float16 arithmetic, of one number and of vectors (Linux, arm64's uapi/asm/hwcap.h)
_DOT_PRODUCT = 43  # PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE: what onnxruntime asks Windows before it uses float16
_SYSCTL = b"hw.optional.arm.FEAT_FP16"


@cache
def features() -> frozenset[str]:
    """The words of :data:`FEATURES` that hold of the processor that this process runs on; a few microseconds, once.

    The system is asked as onnxruntime asks it, and an emulated processor answers for itself: /proc/cpuinfo would be the
    host's. x86-64 has none: onnxruntime's kernels there compute float16 in float32.
    """
    return frozenset({"fp16"}) if _is_arm64() and _has_float16() else frozenset()


def dies_of_float16() -> bool:
    """Whether float16 ends the process by an illegal instruction: onnxruntime's arm64 kernels do not ask.

    Its x86-64 ones compute in float32.
    """
    return _is_arm64() and "fp16" not in features()


def _is_arm64() -> bool:
    return platform.machine().lower() in _ARM64


def _has_float16() -> bool:
    """Whether an arm64 processor has ARMv8.2's FEAT_FP16; False where the system does not tell."""
    import ctypes

    try:
        if sys.platform == "win32":
            return bool(ctypes.windll.kernel32.IsProcessorFeaturePresent(_DOT_PRODUCT))
        libc = ctypes.CDLL(None)
        if sys.platform == "darwin":
            value, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
            failed = libc.sysctlbyname(_SYSCTL, ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
            return not failed and value.value == 1
        libc.getauxval.argtypes, libc.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        return int(libc.getauxval(_AT_HWCAP)) & _FPHP_ASIMDHP == _FPHP_ASIMDHP
    except (OSError, AttributeError):
        return False


def cpu_info(root: Path = Path("/")) -> dict[str, str]:
    """The first value of each key in ``proc/cpuinfo``; cores of one system differ in little that matters here."""
    found: dict[str, str] = {}
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def cpu_name(info: dict[str, str] | None = None) -> str:
    """The processor's name as ``info``, by default this system's, or Python has it."""
    info = cpu_info() if info is None else info
    named = (info.get(key) for key in ("model name", "Model", "Hardware"))
    return next(filter(None, named), None) or platform.processor() or "unknown"
