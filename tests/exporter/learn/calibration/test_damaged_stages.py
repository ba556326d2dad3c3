"""A flipped bit anywhere in what a killed run left: the run that goes on ends with the bytes of an undisturbed one."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from calibrations import KilledError, calibration, content, prepare
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.streams.store import Store
from edgepress.exporter.streams.training import Training

RECIPE = """
before = ["smoothquant"]
after = ["distill"]
[weights]
method = "gptq"
bits = 8
block_size = "channel"
symmetric = true
[activations]
type = "uint8"
ranges = "minmax"
[options.distill]
steps = 8
batch = 2
"""
TOKENS = np.random.default_rng(7).integers(0, 150, (6, 16))

pytestmark = pytest.mark.usefixtures("one_thread")


def kill(patch: pytest.MonkeyPatch, owner: type, name: str, turn: int) -> None:
    """Let the method ``name`` raise when it is called for the ``turn``-th time."""
    original: Callable[..., object] = getattr(owner, name)
    turns = iter(range(1000))

    def method(*arguments: object, **named: object) -> object:
        if next(turns) == turn:
            raise KilledError
        return original(*arguments, **named)

    patch.setattr(owner, name, method)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Path, dict[str, bytes]]:
    """What kills in the third layer and in the middle of a training left, and what an undisturbed run makes."""
    home = tmp_path_factory.mktemp("left")
    prepared = prepare(home, RECIPE)
    with calibration(prepared, home / "whole", TOKENS) as run:
        run.run()
    for place, (owner, name, turn) in {"layer": (Calibration, "_layer", 2), "training": (Training, "step", 5)}.items():
        with pytest.MonkeyPatch.context() as patch, calibration(prepared, home / place, TOKENS) as run:
            kill(patch, owner, name, turn)
            with pytest.raises(KilledError):
                run.run()
    return prepared, home, content(home / "whole")


def files_of(store: Path) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.is_file() and path.stat().st_size)


def flipped(left: Path, name: str, bit: int, into: Path) -> Path:
    """A copy of what a kill left, with one bit of the file ``name`` the other way round."""
    store = Path(shutil.copytree(left, into / "store"))
    found = bytearray((store / name).read_bytes())
    found[bit // 8 % len(found)] ^= 1 << bit % 8
    (store / name).write_bytes(found)
    return store


def test_what_is_left_has_every_kind_of_file(left: tuple[Prepared, Path, dict[str, bytes]]) -> None:
    _, home, _ = left
    suffixes = {Path(name).suffix for place in ("layer", "training") for name in files_of(home / place)}
    assert suffixes == {".safetensors", ".f32", ".weights", ".state", ".json"}


def test_a_flip_in_any_file_that_the_next_stages_read_begins_anew_and_is_said(
    left: tuple[Prepared, Path, dict[str, bytes]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of each: of stages, streams and weights in full precision alike."""
    _, home, _ = left
    seen = 0
    for place in ("layer", "training"):
        with Store.open(home / place, {"same": "key"}) as store:
            needed = {path.name for path in store.directory.glob("*.safetensors")} | set(store._files)
        assert len(needed) > 4
        for name in sorted(needed):
            store_path = flipped(home / place, name, 4 * (home / place / name).stat().st_size, tmp_path / name)
            caplog.clear()
            with Store.open(store_path, {"same": "key"}) as store:
                assert store.stages() == []
            assert "is damaged" in caplog.text
            assert "beginning anew" in caplog.text
            shutil.rmtree(tmp_path / name)
            seen += 1
    assert seen > 10


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flip_in_any_file_gives_the_bytes_of_an_undisturbed_run(
    data: st.DataObject,
    left: tuple[Prepared, Path, dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    prepared, home, expected = left
    place = data.draw(st.sampled_from(["layer", "training"]), label="killed in")
    name = data.draw(st.sampled_from(files_of(home / place)), label="file")
    bit = data.draw(st.integers(0, 8 * (home / place / name).stat().st_size - 1), label="bit")
    store = flipped(home / place, name, bit, tmp_path_factory.mktemp("flipped"))
    with calibration(prepared, store, TOKENS) as run:
        run.run()
    assert content(store) == expected


def test_a_damaged_training_state_is_begun_anew_and_said(
    left: tuple[Prepared, Path, dict[str, bytes]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared, home, expected = left
    store = flipped(home / "training", "distill.state", 8 * 5000, tmp_path)
    with caplog.at_level(logging.WARNING), calibration(prepared, store, TOKENS) as run:
        run.run()
    assert "the saved state is damaged" in caplog.text
    assert content(store) == expected


@pytest.mark.parametrize("name", ["0000-layer.safetensors", "inputs-0002.f32", "reference-0002.f32"])
def test_a_file_that_is_missing_is_damage_too(
    name: str, left: tuple[Prepared, Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """A missing stream once read as zeros, and a layer was calibrated on them."""
    prepared, home, expected = left
    store = Path(shutil.copytree(home / "layer", tmp_path / "store"))
    (store / name).unlink()
    with calibration(prepared, store, TOKENS) as run:
        run.run()
    assert content(store) == expected
