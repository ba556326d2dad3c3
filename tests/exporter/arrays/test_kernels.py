"""What LLVM compiles gives numpy's bits, on any processor, and is not missed where there is none."""

import platform
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgepress.exporter import arrays as arrays_folder
from edgepress.exporter import export
from edgepress.exporter.arrays import kernels
from edgepress.exporter.arrays.packing import Quantized
from edgepress.exporter.arrays.scheme import BITS, Scheme
from edgepress.exporter.bundle import stream
from edgepress.exporter.methods.round import rtn

binding = pytest.importorskip("llvmlite.binding", reason="llvmlite is not installed: numpy does its work")


@pytest.fixture(scope="module")
def compiled() -> kernels.Kernels:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_loaded", kernels._Loaded())
        kernels.load(kernels.WORTH)
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


def test_where_llvm_cannot_be_loaded_numpy_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", kernels._Loaded())
    for name in ("fused", "instructions"):
        monkeypatch.delitem(sys.modules, f"{arrays_folder.__name__}.{name}", raising=False)
        monkeypatch.delattr(arrays_folder, name, raising=False)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    kernels.load(kernels.WORTH)
    assert kernels.loaded() is None
    assert rtn.quantize(np.ones((2, 32), np.float32), Scheme("rtn", 4, 32), None).values.shape == (2, 1, 16)


def test_where_a_kernel_cannot_be_compiled_numpy_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    found = kernels.Kernels()
    monkeypatch.setattr(found._fused, "kernel", lambda *_: (_ for _ in ()).throw(RuntimeError("no such processor")))
    for x in _samples(3, 32):
        _assert_same(x, Scheme("rtn", 4, 32), found)
    assert set(found._compiled.values()) == {None}


def test_a_small_model_does_not_load_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_loaded", kernels._Loaded())
    kernels.load(kernels.WORTH - 1)
    assert kernels.loaded() is None
    assert not kernels._loaded.tried


@pytest.mark.parametrize("count", [8, 120, 128, 136, 896, 1000, 4864, 11008])
def test_pieces_of_sums_are_numpys(count: int) -> None:
    x = np.random.default_rng(count).standard_normal((3, count)).astype(np.float32)
    cuts = kernels._pairwise(count)
    pieces = [x[:, start:stop].sum(axis=1) for start, stop in pairwise(cuts)]
    assert all(stop - start <= 128 for start, stop in pairwise(cuts))
    np.testing.assert_array_equal(kernels._add_pairwise(np.array(pieces), cuts), x.sum(axis=1))


@pytest.mark.parametrize("cpu", ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_every_generation_of_x86_has_the_same_bits(cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From SSE2, which calls a function to round, to AVX-512; multiply-adds are not used where there are some."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("no x86-64 processor")
    needs = {"x86-64": "sse2", "x86-64-v2": "sse4.1", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}[cpu]
    if not binding.get_host_cpu_features().get(needs):
        pytest.skip(f"this processor has no {needs}")
    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: cpu)
    monkeypatch.setattr(binding, "get_host_cpu_features", binding.FeatureMap)
    found = kernels.Kernels()
    for x in _samples(5, 896):
        for scheme in (Scheme("rtn", 4, 32), Scheme("rtn", 8, 128, symmetric=False)):
            _assert_same(x, scheme, found)
    assert all(found._compiled.values())
