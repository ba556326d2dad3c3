"""A board by ssh: Debian's OpenSSH server on loopback, behind it an arm64 machine; each fault that a link can have."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab.device_functions import double, end, look
from lab.ssh_server import SshServer
from lab.timers import Timers
from tiny_models import save

from edgepress.calls import Call
from edgepress.calls.host import RunnerHung
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime.machine.devices import Device, open_device
from edgepress.runtime.machine.devices.common import store
from edgepress.runtime.machine.devices.common.errors import (
    AccessDenied,
    ClientMissing,
    DeviceFull,
    DeviceInUse,
    DeviceReadOnly,
    DeviceUnreachable,
    HostKeyChanged,
    LinkLost,
)
from edgepress.runtime.machine.devices.ssh import hosts
from edgepress.runtime.profile.memories import memory_by_phase
from edgepress.runtime.profile.profiling import profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.summary import operator_shares


@pytest.fixture
def board(ssh_server: SshServer) -> Iterator[Device]:
    """The board, open."""
    del ssh_server
    with open_device("ssh:board") as device:
        yield device


def _is_gone(pid: int) -> bool:
    """Whether a process ends within a while."""
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.1)
    return False


def test_a_board_is_described_and_nothing_is_written(ssh_server: SshServer, board: Device) -> None:
    found = board.describe()
    assert (found.model, found.soc, found.architecture) == ("Raspberry Pi 5 Model B Rev 1.0", "brcm,bcm2712", "aarch64")
    [cluster] = found.clusters
    assert (cluster.name, cluster.cores, cluster.governor) == ("Cortex-A76", (0, 1, 2, 3), "ondemand")
    assert found.memory_bytes == 8246096 * 1024
    assert found.page_bytes == os.sysconf("SC_PAGE_SIZE")  # as smaps tells it: there is no getconf
    assert [counter.name for counter in found.counters] == ["ina3221"]
    assert {path.name for path in ssh_server.home().glob("*")} <= {"unpacked", "edgepress-device"}  # the fixture's


def test_functions_run_on_a_board_that_has_nothing(ssh_server: SshServer, board: Device, tmp_path: Path) -> None:
    """The whole way: push, call by our own loader, arrays, reports, pull; then only what is kept by hash is there."""
    bundle = tmp_path / "a bundle"
    (bundle / "inner").mkdir(parents=True)
    (bundle / "inner" / "it's").write_text("first")
    (bundle / "same").write_text("same")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    heard: list[dict[str, Any]] = []
    there, scratch = board.push(bundle), board.scratch()
    seen, doubled = board.call(
        [Call(look, {"pushed": there, "scratch": scratch}), Call(double, {"x": 2}, {"a/b": array})], report=heard.append
    )
    assert seen[0]["machine"] == "aarch64"
    assert seen[0]["found"] == {"inner/it's": "first", "same": "same"}
    assert not {"LD_PRELOAD", "LD_LIBRARY_PATH"} & seen[0]["environment"].keys()
    assert (doubled[0], heard) == ({"x": 4}, [{"half": 2}])
    np.testing.assert_array_equal(doubled[1]["a/b"], 2 * array)
    board.pull(f"{scratch}/left", tmp_path / "left")
    assert (tmp_path / "left").read_bytes() == b"\0left\n" * 1000
    board.__exit__(None, None, None)
    kept = {path.name for path in ssh_server.home().iterdir()}
    assert kept <= {"cache", "edgepress-device", "trees", "unpacked", "jobs", "scratch"}
    for name in ("jobs", "scratch", "cache"):
        assert not list((ssh_server.home() / name).iterdir())


def test_only_what_has_changed_is_sent(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    real = store._send
    monkeypatch.setattr(store, "_send", lambda *words: (sent.append(words[3]), real(*words)))
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    there = board.push(tmp_path)
    assert (board.push(tmp_path), sent) == (there, ["a", "b", "c"])
    (tmp_path / "b").write_text("B")
    (tmp_path / "c").unlink()
    assert board.push(tmp_path) == there
    assert sent == ["a", "b", "c", "b"]


def test_what_lies_there_is_what_lies_here(ssh_server: SshServer, board: Device, tmp_path: Path) -> None:
    """A file that somebody cut short there is sent again, and one that is gone here goes there."""
    for name in ("cut", "gone"):
        (tmp_path / name).write_text(name)
    there = ssh_server.root / board.push(tmp_path).lstrip("/")
    (there / "cut").write_text("c")
    (there / "cut.part").write_text("of a push that was killed")
    (tmp_path / "gone").unlink()
    board.push(tmp_path)
    assert {path.name: path.read_text() for path in there.iterdir()} == {"cut": "cut"}


def test_links_are_not_pushed(board: Device, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        board.push(tmp_path)


@pytest.mark.parametrize(
    ("host", "kind", "words"),
    [
        ("nobody", DeviceUnreachable, "Connection refused: nothing answers there"),
        ("denied", AccessDenied, r"Permission denied \(publickey\).*: it lets nobody in without a question"),
        ("changed", HostKeyChanged, "Host key verification failed.: another machine answers than the known one"),
        ("unknown", HostKeyChanged, "log in once by hand: ssh unknown"),
        ("no.such.host.invalid", DeviceUnreachable, "Could not resolve"),
    ],
)
def test_who_lets_nobody_in(ssh_server: SshServer, host: str, kind: type[InputError], words: str) -> None:
    del ssh_server
    with pytest.raises(kind, match=words):
        open_device(f"ssh:{host}")


def test_without_a_client(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClientMissing, match="install OpenSSH's client"):
        open_device("ssh:board")


@pytest.mark.parametrize("address", ["-oProxyCommand=true", "a b", "a\nb"])
def test_an_address_is_no_option(address: str) -> None:
    with pytest.raises(InputError, match="is no host"):
        open_device(f"ssh:{address}")


def test_a_full_device(ssh_server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before a byte is sent; and where it fills up meanwhile, nothing half-written is left."""
    del ssh_server
    (tmp_path / "large").write_bytes(bytes(30 << 20))
    (tmp_path / "small").write_bytes(b"1")
    with open_device("ssh:small") as device:
        with pytest.raises(DeviceFull, match=r"20 MiB free at .*small.*, 46 are needed"):
            device.push(tmp_path)
        monkeypatch.setattr(store, "check_space", lambda *_words: None)
        with pytest.raises(DeviceFull, match=r"No space left on device.*--clean"):
            device.push(tmp_path)
        monkeypatch.undo()
        assert device.describe().storage_free_bytes is not None
        assert device.describe().storage_free_bytes > 19 << 20  # type: ignore[operator]  # asserted above
        device.clean()


def test_a_read_only_device(ssh_server: SshServer, tmp_path: Path) -> None:
    del ssh_server
    with open_device("ssh:readonly") as device:
        assert device.describe().architecture == "aarch64"
        with pytest.raises(DeviceReadOnly, match="Read-only file system; make it writable"):
            device.push(tmp_path)


def test_two_clients_at_once(ssh_server: SshServer, board: Device) -> None:
    """The second is told who is at work; when the first is cut off, the device is free."""
    board.scratch()
    with open_device("ssh:board") as second:
        assert second.describe().architecture == "aarch64"
        with pytest.raises(DeviceInUse, match=rf"in use by .*:{os.getpid()}, for \d+ s"):
            second.scratch()
    ssh_server.cut()
    with open_device("ssh:board") as third:
        assert _when_free(third)
        with pytest.raises(DeviceInUse):  # the first has lost it with its link, and does not work on without
            board.scratch()
    assert _when_free(board)


def _when_free(device: Device) -> str:
    """A scratch folder, as soon as the shell that held the device has noticed that it is alone."""
    for _ in range(100):
        with suppress(DeviceInUse):
            return device.scratch()
        time.sleep(0.1)
    return device.scratch()


def test_a_lock_whose_holder_was_killed_is_taken_over(ssh_server: SshServer, board: Device) -> None:
    ssh_server.home().mkdir(parents=True, exist_ok=True)
    (ssh_server.home() / "edgepress-device").touch()
    (ssh_server.home() / "lock").symlink_to(f"{os.getpid()} 1 somebody@else:1")  # a process, but no holder
    assert board.scratch()


def test_a_link_that_breaks_in_the_middle_and_the_rest_of_the_samples(
    ssh_server: SshServer, board: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was done is kept, nobody works on there, and the rest gives the set that an unbroken run would."""
    pids: list[int] = []

    def cut(value: dict[str, Any]) -> None:
        if "pid" in value:
            pids.append(value["pid"])
            ssh_server.cut()

    with pytest.raises(LinkLost, match=r"the link to ssh:board broke.*what is done is kept") as caught:
        board.call([Call(double, {"x": 1}), Call(end, {"signal": 0}), Call(double, {"x": 2})], report=cut)
    assert caught.value.answers == [({"x": 2}, {})]
    assert _is_gone(pids[0])

    def be_late(value: dict[str, Any]) -> None:
        if "pid" in value:
            pids.append(value["pid"])
            timers.end_last()

    timers = Timers(monkeypatch)
    with open_device("ssh:board") as again, pytest.raises(RunnerHung, match="on ssh:board within 600 s") as hung:
        again.call([Call(double, {"x": 2}), Call(end, {"signal": 0})], report=be_late, timeout=600)
    assert caught.value.answers + hung.value.answers == [({"x": 2}, {}), ({"x": 4}, {})]
    assert _is_gone(pids[1])
    assert not list((ssh_server.home() / "jobs").glob("*"))


@pytest.mark.usefixtures("ssh_server")
def test_a_bundle_is_profiled_through_it(tmp_path: Path) -> None:
    """Samples of three passes, taken by the processor of the board."""
    export(save("llama", tmp_path / "checkpoint"), out=tmp_path / "bundle", recipe="int4")
    settings = Settings(prompt_lengths=(4,), decode_tokens=4, turns=2, exact_rounds=1, threads=1, prepared=False)
    found = profile(
        tmp_path / "bundle",
        out=tmp_path / "profile.jsonl",
        device="ssh:board",
        settings=settings,
        passes=["memory", "operators", "speed"],
    )
    assert found.header.device == "ssh:board"
    assert found.header.description["model"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert [len(found.samples("speed", what)) for what in ("load", "prefill", "decode")] == [1, 2, 2]
    [load] = found.samples("speed", "load")
    assert "model_fp16.onnx" in load.detail["ran_on"]  # that processor's graph, not this one's
    assert sum(operator_shares(found, "decode").values()) == pytest.approx(1.0)
    assert memory_by_phase(found)["loaded"]["rss_bytes"] > 0


def test_clean_leaves_nothing(ssh_server: SshServer) -> None:
    """The last of this file: it removes the runner, too."""
    with open_device("ssh:board") as device:
        device.clean()
    assert not ssh_server.home().exists()


def test_hosts_of_a_config() -> None:
    text = 'Host a b *.c !d\n  HostName x\nhost=e\nMatch host f\nHost "g" a\n'
    assert hosts(text) == ["a", "b", "e", "g"]


@given(st.text())
def test_any_config_is_read(text: str) -> None:
    assert all(name and not set(name) & set("*?! \n") for name in hosts(text))
