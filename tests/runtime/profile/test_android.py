"""What Android's services print, put together from AOSP's sources (no phone was at hand), and how it is read."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.profile import circumstances, rounds
from edgepress.runtime.profile.circumstances import between, read_moment
from edgepress.runtime.profile.system.android import (
    ThermalStatus,
    memory_account,
    read_memory_account,
    thermal_status,
)

MEMINFO = """Applications Memory Usage (in Kilobytes):
Uptime: 277172845 Realtime: 423847246

** MEMINFO in pid 21936 [ld-linux-aarch64.so.1] **
                   Pss  Private  Private     Swap      Rss     Heap     Heap     Heap
                 Total    Dirty    Clean    Dirty    Total     Size    Alloc     Free
                ------   ------   ------   ------   ------   ------   ------   ------
  Native Heap     4482     4380        0        0     5072    39580    24489    11037
        Stack      976      976        0        0      988
    GL mtrack     1200     1200        0        0     1200
      Unknown   150000   149000        0        0   150400
        TOTAL   160658   155556        0        7   161660    39580    24489    11037

 App Summary
                       Pss(KB)                        Rss(KB)
                        ------                         ------
           Java Heap:        0                              0
         Native Heap:     4380                           5072
                Code:     2000                           9000
               Stack:      976                            988
            Graphics:     1200                           1200
       Private Other:   149000
              System:     3102
             Unknown:                                  145400

           TOTAL PSS:   160658            TOTAL RSS:   161660       TOTAL SWAP PSS:        7

 Objects
               Views:        0         ViewRootImpl:        0
"""
THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 3
Thermal Status: {}
Cached temperatures:
\tTemperature{{mValue=54.600002, mType=0, mName=cpu0-silver-usr, mStatus=0}}
HAL Ready: true
"""


def test_an_account_is_its_summary_in_bytes() -> None:
    found = {name: size // 1024 for name, size in memory_account(MEMINFO).items()}
    assert found == {
        "native_heap_bytes": 4380, "code_bytes": 2000, "stack_bytes": 976, "graphics_bytes": 1200,
        "private_other_bytes": 149000, "system_bytes": 3102, "total_pss_bytes": 160658, "total_rss_bytes": 161660,
        "total_swap_pss_bytes": 7,
    }  # fmt: skip


def test_an_older_total_is_proportional_memory_too_and_other_swap_is_left_out() -> None:
    old = " App Summary\n   Graphics:     12\n\n      TOTAL:    5000      TOTAL SWAP (KB):        9\n"
    assert memory_account(old) == {"graphics_bytes": 12 * 1024, "total_pss_bytes": 5000 * 1024}


@pytest.mark.parametrize("text", ["", "No process found for: 12\n", "Can't find service: meminfo\n", "App Summary"])
def test_no_account_is_empty(text: str) -> None:
    assert memory_account(text) == {}


@given(st.integers(-3, 20))
def test_a_status_is_one_of_android_s(number: int) -> None:
    assert thermal_status(THERMAL.format(number)) == (number if 0 <= number <= 6 else None)


@given(st.text(alphabet="Thermal Status:PSOAppummry0123456789\n ", max_size=200))
def test_no_text_breaks_the_parsers(text: str) -> None:
    assert thermal_status(text) in (None, *range(7))
    assert all(size >= 0 and name.endswith("_bytes") for name, size in memory_account(f"App Summary{text}").items())


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``dumpsys`` on the PATH that prints a file named after the service, and notes each call."""
    program = tmp_path / "dumpsys"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncat "{tmp_path}/$1"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for module in (circumstances, rounds):
        monkeypatch.setattr(module, "THERMAL_STATUS", ThermalStatus())
    return tmp_path


def test_a_phone_that_throttles_marks_its_samples(phone: Path) -> None:
    (phone / "thermalservice").write_text(THERMAL.format(2))
    before, after = read_moment(phone), read_moment(phone)
    assert (before.thermal_status, after.thermal_status) == (2, 2)
    assert between(before, after, 1).marks == ("throttled",)
    assert (phone / "calls").read_text() == "thermalservice\n"


def test_light_throttling_and_a_service_that_fails_mark_nothing(phone: Path) -> None:
    assert read_moment(phone).thermal_status is None  # there is no such service
    (phone / "thermalservice").write_text(THERMAL.format(1))
    assert ThermalStatus().known() == 1
    moment = replace(read_moment(phone), thermal_status=1)
    assert between(moment, moment, 1).marks == ()


def test_a_status_is_asked_for_after_a_turn_when_it_is_old(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A phone that becomes hot between two turns six seconds apart: the second one is marked, which no first asking
    tells; a third one a second later is believed without asking.
    """
    clock = [100.0]
    status = ThermalStatus(lambda: clock[0])
    for module in (circumstances, rounds):
        monkeypatch.setattr(module, "THERMAL_STATUS", status)
    found = []
    for number, seconds in ((0, 0.0), (3, 6.0), (0, 1.0)):
        (phone / "thermalservice").write_text(THERMAL.format(number))
        clock[0] += seconds
        with rounds.Under(1) as under:
            pass
        found.append((under.circumstances.before.thermal_status, under.circumstances.after.thermal_status))
    assert found == [(0, 0), (0, 3), (3, 3)]
    assert (phone / "calls").read_text() == "thermalservice\n" * 2


def test_the_account_is_of_this_process(phone: Path) -> None:
    (phone / "meminfo").write_text(MEMINFO)
    assert read_memory_account()["total_pss_bytes"] == 160658 * 1024
    assert (phone / "calls").read_text() == f"meminfo {os.getpid()}\n"
