"""What numba compiles gives numpy's bits, is kept where nobody else writes, and is not missed where there is none."""

import glob
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgepress.exporter import export
from edgepress.exporter.arrays import kernels
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.scheme import BITS, Scheme
from edgepress.exporter.bundle import stream
from edgepress.exporter.methods.round import rtn

pytest.importorskip("numba", reason="numba is not installed: numpy does its work")


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def compiled(cache_home: Path) -> kernels.Kernels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        patch.setattr(kernels, "_loaded", kernels._Loaded())
        kernels.load(kernels.WORTH_COMPILING)
        found = kernels.loaded()
    assert found is not None
    return found


def _both(
    x: np.ndarray, scheme: Scheme, compiled: kernels.Kernels
) -> tuple[tuple[Quantized, stream._Sums], tuple[Quantized, stream._Sums]]:
    """What numpy makes of ``x``, and what the kernels do."""
    made = []
    for found in (None, compiled):
        with pytest.MonkeyPatch.context() as patch, np.errstate(over="ignore", invalid="ignore"):
            patch.setattr(kernels, "_loaded", kernels._Loaded(found, tried=True))
            stored = rtn.quantize(x, scheme, None)
            made.append((stored, stream._compare_stored(x, stored, scheme)))
    return made[0], made[1]


def _assert_same(x: np.ndarray, scheme: Scheme, compiled: kernels.Kernels) -> None:
    (stored, sums), (fast, fast_sums) = _both(x, scheme, compiled)
    np.testing.assert_array_equal(fast.values, stored.values)
    np.testing.assert_array_equal(fast.scales.view(np.uint32), stored.scales.view(np.uint32))  # −0 is not 0 here
    if stored.zero_points is None:
        assert fast.zero_points is None
    else:
        np.testing.assert_array_equal(fast.zero_points, stored.zero_points)
    assert fast_sums == sums


def _samples(rows: int, columns: int) -> Iterator[np.ndarray]:
    random = np.random.default_rng(rows * columns)
    x = (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    yield x
    yield np.abs(x)
    yield -np.abs(x)
    yield np.where(random.random(x.shape) < 0.9, np.float32(-0.0), x)
    yield np.zeros_like(x)
    yield x * np.float32(1e-36)
    yield x * np.float32(1e16)
    yield np.where(np.arange(rows)[:, None] % 2, x * np.float32(1e15), x)
    yield random.standard_t(1, x.shape).astype(np.float32)
    yield random.integers(-3, 4, x.shape).astype(np.float32)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(1, 7), (3, 32), (33, 1000), (2, 4864)])
def test_compiled_scale_search_gives_numpys_bits(
    shape: tuple[int, int], bits: int, symmetric: bool, per_channel: bool, compiled: kernels.Kernels
) -> None:
    for x in _samples(*shape):
        _assert_same(x, Scheme("rtn", bits, 128 if shape[1] > 100 else 32, symmetric, per_channel), compiled)


@settings(max_examples=50, deadline=None)
@given(
    x=arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 140)),
        elements=st.one_of(st.floats(-1, 1, width=32), st.floats(-(2.0**60), 2.0**60, width=32), st.just(-0.0)),
    ),
    bits=st.sampled_from(BITS),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
)
def test_compiled_scale_search_gives_numpys_bits_for_any_weights(
    x: np.ndarray, bits: int, symmetric: bool, per_channel: bool, compiled: kernels.Kernels
) -> None:
    _assert_same(x, Scheme("rtn", bits, 32, symmetric, per_channel), compiled)


def _files(bundle: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in bundle.iterdir()}


@pytest.mark.parametrize("recipe", ["int4", "int4-128"])
def test_an_export_has_the_same_bytes_compiled_and_in_numpy(
    recipe: str, compiled: kernels.Kernels, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, found in (("numpy", None), ("compiled", compiled)):
        monkeypatch.setattr(kernels, "_loaded", kernels._Loaded(found, tried=True))
        export("demo", out=tmp_path / name, recipe=recipe)
    assert _files(tmp_path / "compiled") == _files(tmp_path / "numpy")


def test_where_numba_cannot_be_loaded_numpy_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", kernels._Loaded())
    monkeypatch.setitem(sys.modules, "numba", None)
    kernels.load(kernels.WORTH_COMPILING)
    assert kernels.loaded() is None
    assert rtn.quantize(np.ones((2, 32), np.float32), Scheme("rtn", 4, 32), None).values.shape == (2, 1, 16)


def test_a_small_model_does_not_wait_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", kernels._Loaded())
    kernels.load(kernels.WORTH - 1)
    assert kernels.loaded() is None
    assert not kernels._loaded.tried


def test_a_usual_model_takes_what_is_compiled_and_does_not_wait_for_a_compiler(
    compiled: kernels.Kernels, cache_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert callable(compiled.search)
    for home, there in ((tmp_path, False), (cache_home, True)):
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
        monkeypatch.setattr(kernels, "_loaded", kernels._Loaded())
        kernels.load(kernels.WORTH)
        assert (kernels.loaded() is not None) is there
        assert kernels._loaded.tried is there


_LOAD = """
from edgepress.exporter.arrays import kernels
kernels.load(kernels.WORTH_COMPILING)
assert kernels.loaded() is not None
import numba
print(numba.config.CACHE_DIR)
"""


def made_of(index: Path) -> list[Path]:
    """The files of compiled code that numba found by ``index``."""
    return list(index.parent.glob(f"{glob.escape(index.stem)}*.nbc"))


def test_compiled_code_is_kept_for_this_user_alone_and_made_anew_when_it_is_damaged(
    compiled: kernels.Kernels, cache_home: Path, tmp_path: Path
) -> None:
    assert callable(compiled.search)
    folder = cache_home / "edgepress" / "kernels"
    assert folder.stat().st_mode & 0o777 == 0o700
    copy = tmp_path / "edgepress" / "kernels"
    shutil.copytree(folder, copy)
    index = min(copy.rglob("*.nbi"), key=lambda path: sum(file.stat().st_size for file in made_of(path)))
    index.write_bytes(index.read_bytes()[:-7])  # of what compiles soonest: all are kept and read alike
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _LOAD], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(copy)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
@pytest.mark.parametrize("kind", ["writable by others", "a link", "a file"])
def test_compiled_code_is_not_taken_from_where_others_write(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "edgepress" / "kernels"
    folder.parent.mkdir(parents=True)
    if kind == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    elif kind == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    used = kernels._cache()
    assert used != folder
    assert used.stat().st_mode & 0o777 == 0o700
    used.rmdir()
