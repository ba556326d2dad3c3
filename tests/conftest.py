"""Lets tests import what they share (``tiny_models``, ``oracles…``), and keeps them out of the user's cache."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # each has one core, see keep_to_one_core
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when numpy and torch are loaded

from edgepress.errors import InputError
from edgepress.targets.emulator import Installation, System, emulator_directory, setup, setup_system

sys.path.insert(0, str(Path(__file__).parent))
from guests import Guests
from killing import Killing


def keep_to_one_core() -> None:
    """Give each process of pytest-xdist, and what it starts, a core of its own.

    On models as small as these, threads that share cores with those of other processes wait for each other, spinning:
    more than half of the processor time of a run went into that.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


keep_to_one_core()
gc.disable()  # importing what tests import makes millions of objects that live as long as the process


def pytest_configure(config: pytest.Config) -> None:
    """How long an example of hypothesis takes is no matter of right and wrong."""
    if config.pluginmanager.hasplugin("hypothesispytest"):
        from hypothesis import settings

        settings.register_profile("untimed", deadline=None)
        settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Collections of garbage look from here on at what tests make, not at what they import."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``-n 2`` gives each process one half of the tests in order, so that fixtures of a module are made once."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


EMULATOR = emulator_directory()  # the user's own: fetching 130 MB for each run would be a waste


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: on models as small as these, several only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> Iterator[None]:
    """What tests write is not forced onto the disk, which takes longer than much of what they ask.

    No test cuts the power; processes that tests start do wait for the disk, as users' do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("EDGEPRESS_CACHE")
    os.environ["EDGEPRESS_CACHE"] = str(tmp_path_factory.mktemp("prepared"))
    yield
    if before is None:
        del os.environ["EDGEPRESS_CACHE"]
    else:
        os.environ["EDGEPRESS_CACHE"] = before


@pytest.fixture(scope="session")
def killing() -> Iterator[Killing]:
    """Runs programs that are killed in the middle."""
    made = Killing()
    yield made
    made.end()


@pytest.fixture(scope="session")
def emulator() -> Installation:
    """Emulated arm64 processors; set up by the first that asks, in whichever process."""
    with _skipped_where_there_is_none():
        return setup(EMULATOR)


@pytest.fixture(scope="session")
def _guests() -> Iterator[Guests]:
    made = Guests()
    yield made
    made.end()


@pytest.fixture
def one_start(_guests: Guests, monkeypatch: pytest.MonkeyPatch) -> Guests:
    """Comparisons with an arm64 processor go to one process of it, started by the first test that asks."""
    for name in ("edgepress.targets.emulator.model.run", "edgepress.runtime.measures.emulated.run"):
        monkeypatch.setattr(name, _guests.run)
    return _guests


@pytest.fixture(scope="session")
def system() -> System:
    """The emulator of whole machines."""
    with _skipped_where_there_is_none():
        return setup_system(EMULATOR)


@pytest.fixture(scope="session")
def openvino_cpu() -> None:
    """OpenVINO's CPU device, where its wheel is installed and takes this processor."""
    pytest.importorskip("onnxruntime_ep_openvino", reason="not installed: pip install 'edgepress[openvino]'")
    from edgepress.targets.providers import openvino

    try:
        openvino._devices("CPU")
    except InputError as error:
        pytest.skip(str(error))


@contextmanager
def _skipped_where_there_is_none() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if "CI" in os.environ:  # what CI skips, nobody runs
            raise
        pytest.skip(f"the emulator cannot be set up: {error}")
