"""Control groups and available memory, read from a made-up system in the forms of both versions."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.runtime.profile.system.room import (
    ControlGroup,
    Mount,
    available_bytes,
    folders,
    memory_mounts,
    own_groups,
    read_control_group,
)

V1 = """31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "24 30 0:22 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def system(root: Path, mounts: str, own: str, **groups: str) -> Path:
    """A system whose control groups have the files that are given: ``folder`` to ``name=value`` words."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/self/cgroup").write_text(own)
    for folder, files in groups.items():
        place = root / "sys/fs/cgroup" / folder.removeprefix("top").replace("__", "/")
        place.mkdir(parents=True, exist_ok=True)
        for file in files.split():
            name, _, value = file.partition("=")
            (place / name).write_text(f"{value}\n")
    return root


def test_the_least_limit_of_the_own_group_and_those_above_is_what_counts(tmp_path: Path) -> None:
    root = system(
        tmp_path, V2, "0::/app/one\n",
        app="memory.max=500000000 memory.current=120000000",
        app__one="memory.max=800000000 memory.current=100000000",
        app__two="memory.max=1000 memory.current=10",
    )  # fmt: skip
    assert read_control_group(root) == ControlGroup(2, 500_000_000, 120_000_000)


def test_without_a_limit_the_use_of_the_own_group_is_told(tmp_path: Path) -> None:
    root = system(
        tmp_path, V2, "0::/app/one\n",
        app="memory.max=max memory.current=120000000", app__one="memory.max=max memory.current=100000000",
    )  # fmt: skip
    assert read_control_group(root) == ControlGroup(2, None, 100_000_000)


def test_version_1_says_no_limit_as_a_huge_number(tmp_path: Path) -> None:
    own = "4:memory:/box\n1:cpu:/\n0::/\n"
    whole = "memory.limit_in_bytes=9223372036854771712 memory.usage_in_bytes"
    root = system(tmp_path, V1, own, memory=f"{whole}=7000", memory__box=f"{whole}=5000")
    assert read_control_group(root) == ControlGroup(1, None, 5000)
    (root / "sys/fs/cgroup/memory/box/memory.limit_in_bytes").write_text("262144000\n")
    assert read_control_group(root) == ControlGroup(1, 262_144_000, 5000)


def test_a_container_that_sees_its_own_group_only_has_its_limit(tmp_path: Path) -> None:
    mounts = V1.replace("0:32 / /sys/fs/cgroup/memory", "0:32 /docker/ab /sys/fs/cgroup/memory")
    files = "memory.limit_in_bytes=1000 memory.usage_in_bytes=10"
    root = system(tmp_path, mounts, "4:memory:/docker/ab\n", memory=files)
    assert read_control_group(root) == ControlGroup(1, 1000, 10)


@pytest.mark.parametrize("own", ["", "0::/\n", "4:memory:relative\n", "nonsense"])
def test_a_system_without_groups_of_memory_has_none(tmp_path: Path, own: str) -> None:
    assert read_control_group(tmp_path) is None
    assert read_control_group(system(tmp_path / "there", V2, own)) is None


def test_mounts_and_groups_are_told_apart_by_version() -> None:
    assert memory_mounts(V1) == [Mount(1, "/", "/sys/fs/cgroup/memory"), Mount(2, "/", "/sys/fs/cgroup/unified")]
    assert memory_mounts("1 2 0:1 / /a\\040b rw - cgroup2 none rw") == [Mount(2, "/", "/a b")]
    assert own_groups("9:cpu,memory:/a:b\n0::/c\n") == {1: "/a:b", 2: "/c"}


def test_a_path_outside_of_what_is_mounted_is_not_followed() -> None:
    assert folders(Mount(2, "/", "/g"), "/../x") == ["/g"]
    assert folders(Mount(2, "/docker/a", "/g"), "/docker/b") == ["/g"]
    assert folders(Mount(2, "/", "/g"), "/a/b") == ["/g/a/b", "/g/a", "/g"]


@given(st.text(), st.text())
def test_no_text_breaks_the_parsers_nor_leads_out_of_the_mounts(mounts: str, own: str) -> None:
    for mount in memory_mounts(mounts):
        for path in own_groups(own).values():
            assert ".." not in " ".join(folders(Mount(mount.version, mount.root, "/g"), path)).split("/")


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_available_memory_is_bytes_of_its_own_line(tmp_path_factory: pytest.TempPathFactory, a: int, b: int) -> None:
    root = tmp_path_factory.mktemp("system")
    assert available_bytes(root) is None
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal:  {a} kB\nMemFree: {a} kB\nMemAvailable:   {b} kB\n")
    assert available_bytes(root) == 1024 * b
