"""Limits of memory: what fits survives, what does not is told, and the smallest is found."""

import mmap
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.runtime.profile.system import memory_limit
from edgepress.runtime.profile.system.memory_limit import run_under, smallest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are Linux's")

MB = 1 << 20


def allocate(megabytes: int) -> None:
    block = mmap.mmap(-1, megabytes * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block[:: mmap.PAGESIZE] = b"x" * len(block[:: mmap.PAGESIZE])


def used() -> int:
    """What this process has allocated already, which a limit counts, too."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmData"].split()[0]) * 1024


def test_what_fits_survives_and_what_does_not_is_told() -> None:
    room = used()
    assert run_under(room + 400 * MB, lambda: allocate(50)).survived
    refused = run_under(room + 50 * MB, lambda: allocate(400))
    assert not refused.survived
    assert refused.by in ("cgroup", "RLIMIT_DATA")


def test_another_failure_is_not_taken_for_one_of_memory() -> None:
    def fail() -> None:
        raise ValueError("the prompt is empty")

    with pytest.raises(InputError, match="for another reason: the prompt is empty"):
        run_under(used() + 400 * MB, fail)


def test_a_folder_that_is_no_control_group_is_not_taken_for_one_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_limit, "_CGROUPS", tmp_path)
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    (tmp_path / own.lstrip("/")).mkdir(parents=True, exist_ok=True)
    found = run_under(used() + 50 * MB, lambda: allocate(400))
    assert (found.by, found.survived) == ("RLIMIT_DATA", False)
    assert not list(tmp_path.rglob("edgepress-*"))


@given(needed=st.integers(1, 3 << 30), begin=st.integers(1 << 20, 1 << 30))
def test_the_smallest_is_found_to_two_percent_and_was_tried(needed: int, begin: int) -> None:
    tried: dict[int, bool] = {}

    def survives(limit: int) -> bool:
        tried[limit] = limit >= needed
        return tried[limit]

    found = smallest(survives, begin)
    if found is None:
        assert 16 * begin < needed
        return
    assert tried[found]
    assert found - needed <= max(0.02 * found, MB)
    assert len(tried) <= 45
