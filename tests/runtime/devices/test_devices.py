"""The protocol on this machine and on an emulated processor: names, calls, reports, early ends, nothing left."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab.device_functions import double, end, refuse, write
from lab.timers import Timers

from edgepress.calls import Call
from edgepress.calls.host import RunnerDied, RunnerHung, RunnerKilled
from edgepress.errors import CheckFailed, InputError
from edgepress.runtime.machine.devices import find_devices, open_device, transports
from edgepress.runtime.machine.devices.common.protocol import Transport
from edgepress.targets.emulator import Installation


def test_each_transport_is_a_file_of_the_folder() -> None:
    found = transports()
    assert next(iter(found)) == "local"
    for name, transport in found.items():
        assert isinstance(transport, Transport)
        assert transport.name == name == transport.form.partition(":")[0]


@pytest.mark.parametrize("name", ["", "nothing", "local:1", "local:", "serial:1", "emulator:"])
def test_what_names_no_device_is_told_the_forms(name: str) -> None:
    with pytest.raises(InputError, match=r"no name of a device; give local.*emulator:CPU"):
        open_device(name)


def test_every_transport_lists_something() -> None:
    listed = {found.name.partition(":")[0] for found in find_devices()}
    assert listed == set(transports())


def test_functions_run_in_a_fresh_process() -> None:
    heard: list[dict[str, Any]] = []
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    with open_device("local") as device:
        answers = device.call([Call(double, {"x": 1}), Call(double, {"x": 4}, {"a/b": array})], report=heard.append)
    assert [value for value, _ in answers] == [{"x": 2}, {"x": 8}]
    assert heard == [{"half": 1}, {"half": 4}]
    np.testing.assert_array_equal(answers[1][1]["a/b"], 2 * array)


@pytest.mark.parametrize(("check", "kind"), [(True, CheckFailed), (False, InputError)])
def test_what_a_function_raises_is_raised(check: bool, kind: type[Exception]) -> None:
    with open_device("local") as device, pytest.raises(kind, match="it was told to"):
        device.call([Call(refuse, {"check": check})])


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (signal.SIGKILL, RunnerKilled, "killed on this machine .* after 1 of 2 calls: .* out of memory"),
        (signal.SIGSEGV, RunnerDied, "SIGSEGV"),
        (0, RunnerHung, "did not end on this machine within 60 s"),
    ],
)
def test_answers_until_an_early_end_are_kept(
    number: int, kind: type[RunnerDied], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timers = Timers(monkeypatch)

    def heard(value: dict[str, Any]) -> None:
        if "pid" in value and not number:
            timers.end_last()

    with open_device("local") as device, pytest.raises(kind, match=words) as caught:
        device.call([Call(double, {"x": 3}), Call(end, {"signal": number})], report=heard, timeout=60)
    assert caught.value.answers == [({"x": 6}, {})]


def test_files_come_back_and_nothing_is_left(tmp_path: Path) -> None:
    with open_device("local") as device:
        folder = device.scratch()
        assert Path(device.push(tmp_path)) == tmp_path
        device.call([Call(write, {"folder": folder})])
        device.pull(f"{folder}/samples", tmp_path / "samples")
        with pytest.raises(InputError, match="no file on local"):
            device.pull(f"{folder}/nothing", tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["samples"]
    assert (tmp_path / "samples").read_text() == "1 2 3"
    assert not Path(folder).exists()


def test_an_emulated_processor_answers_for_itself(emulator: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgepress.runtime.machine.devices.emulator.find", lambda: emulator)
    with open_device("emulator:cortex-a76") as device:
        found = device.describe(runner=True)
    assert (found.architecture, found.emulated) == ("aarch64", True)
    assert {"asimddp", "fphp"} <= set(found.features)
    assert "CPUExecutionProvider" in found.providers
    assert found.versions["python"] == emulator.versions["python"]
    with pytest.raises(InputError, match="no processor 'cortex-a7600'; did you mean"):
        open_device("emulator:cortex-a7600")


def test_this_machine_is_described() -> None:
    with open_device("local") as device:
        found = device.describe()
    assert found.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found.page_bytes == os.sysconf("SC_PAGE_SIZE")
    assert {core for cluster in found.clusters for core in cluster.cores} >= os.sched_getaffinity(0)
