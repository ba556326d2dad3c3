"""Fixtures for the tests of an app: the bundle that it ships, open or on a device.

pytest finds this by itself where edgepress is installed:

    pytest --edgepress-bundle app/assets/assistant --edgepress-device adb:SERIAL

Nothing of edgepress is loaded before a test asks for a fixture. Assertions are in :mod:`edgepress.testing`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgepress.runtime.machine.devices import Device
    from edgepress.runtime.profile.records import Profile


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("edgepress")
    group.addoption("--edgepress-bundle", type=Path, metavar="DIR", help="the bundle that tests are about")
    group.addoption("--edgepress-device", default="local", metavar="NAME", help="where it is measured (default: local)")


@pytest.fixture(scope="session")
def edgepress_bundle(request: pytest.FixtureRequest) -> Path:
    """Directory of the bundle that ``--edgepress-bundle`` names; a test that asks for it is skipped without one."""
    bundle: Path | None = request.config.getoption("--edgepress-bundle")
    if bundle is None:
        pytest.skip("no bundle was given; pass --edgepress-bundle DIR")
    return bundle


@pytest.fixture(scope="session")
def edgepress_model(edgepress_bundle: Path) -> Any:
    """The bundle, open in this process, as ``edgepress.runtime.load`` gives it.

    A language model holds one text at a time: begin each test with ``reset()``.
    """
    from edgepress.runtime import load

    return load(edgepress_bundle)


@pytest.fixture(scope="session")
def edgepress_device_name(request: pytest.FixtureRequest) -> str:
    """What ``--edgepress-device`` names, for assertions that measure there."""
    return str(request.config.getoption("--edgepress-device"))


@pytest.fixture(scope="session")
def edgepress_device(edgepress_device_name: str) -> "Iterator[Device]":
    """The device, reached until the tests are over."""
    from edgepress.runtime.machine.devices import open_device

    with open_device(edgepress_device_name) as device:
        yield device


@pytest.fixture(scope="session")
def edgepress_measurement(
    edgepress_bundle: Path, edgepress_device_name: str, tmp_path_factory: pytest.TempPathFactory
) -> "Profile":
    """Speed and memory of the bundle on the device, measured once for all tests."""
    from edgepress.runtime.profile.profiling import profile

    out = tmp_path_factory.mktemp("edgepress") / "profile.jsonl"
    return profile(edgepress_bundle, out=out, device=edgepress_device_name, passes=["speed", "memory"])
