"""What the processor is known to have: nothing on x86-64, float16 where an arm64 system says so."""

import ctypes
import platform
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgepress import processor
from edgepress.processor import FEATURES, dies_of_float16, features

HALF_ALONE, BOTH = 1 << 9, 1 << 9 | 1 << 10  # of one number, and of vectors too


@pytest.fixture(autouse=True)
def asked_anew() -> Any:
    features.cache_clear()
    yield
    features.cache_clear()


class Library:
    """A C library that answers what it was made with, and raises what a library without the function does."""

    def __init__(self, **functions: Any) -> None:
        for name, answer in functions.items():
            setattr(self, name, _Function(answer))


class _Function:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, *arguments: Any) -> Any:
        return self.answer(*arguments)


def on(monkeypatch: pytest.MonkeyPatch, machine: str, system: str, library: Library) -> frozenset[str]:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: library)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=library), raising=False)
    return features()


@pytest.mark.parametrize(
    ("bits", "found"), [(0, set()), (HALF_ALONE, set()), (BOTH, {"fp16"}), (BOTH | 0xFF, {"fp16"})]
)
def test_linux_is_asked_by_getauxval(monkeypatch: pytest.MonkeyPatch, bits: int, found: set[str]) -> None:
    library = Library(getauxval=lambda kind: bits if kind == 16 else 0xFFFF)
    assert on(monkeypatch, "aarch64", "linux", library) == found
    assert dies_of_float16() == (not found)


@pytest.mark.parametrize("value", [0, 1, None])
def test_macos_is_asked_by_sysctl(monkeypatch: pytest.MonkeyPatch, value: int | None) -> None:
    def sysctlbyname(name: bytes, place: Any, *_: Any) -> int:
        if value is None or name != b"hw.optional.arm.FEAT_FP16":
            return -1
        place._obj.value = value
        return 0

    assert on(monkeypatch, "arm64", "darwin", Library(sysctlbyname=sysctlbyname)) == ({"fp16"} if value else set())


@pytest.mark.parametrize("value", [0, 1])
def test_windows_is_asked_what_onnxruntime_asks(monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    library = Library(IsProcessorFeaturePresent=lambda feature: value if feature == 43 else 1 - value)
    assert on(monkeypatch, "ARM64", "win32", library) == ({"fp16"} if value else set())


def test_a_system_that_does_not_tell_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on(monkeypatch, "aarch64", "linux", Library()) == set()


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "armv7l", "riscv64", ""])
def test_others_are_not_asked(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    assert on(monkeypatch, machine, "linux", Library(getauxval=lambda _kind: BOTH)) == set()
    assert not dies_of_float16()


def test_every_word_is_described() -> None:
    assert features() <= FEATURES.keys()


def test_this_machine_is_what_its_system_says() -> None:
    """Linux writes in /proc/cpuinfo what it says to getauxval; on the machine itself, not in an emulator of one."""
    words = processor.cpu_info().get("Features", "").split()
    if not words:
        pytest.skip("/proc/cpuinfo lists no features of an ARM processor here")
    assert ("fp16" in features()) == (platform.machine() == "aarch64" and {"fphp", "asimdhp"} <= set(words))
