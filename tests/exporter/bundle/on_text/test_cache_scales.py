"""Scales of keys and values as integers: against brute force, and in graphs against the cache of floats."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.on_text.cache_scales import scales_of
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

TEXT = "[calibration]\ntokens = 256\nlength = 64\n"


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-3, 3))
def test_no_value_that_was_seen_loses_more_than_half_a_step(seed: int, size: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((2, 3, 9, 8)) * 10**size).astype(np.float32)
    scales = scales_of(values)
    assert scales.shape == (1, 3, 1, 8)
    codes = np.clip(np.rint(values / scales), -128, 127)
    assert np.all(np.abs(codes * scales - values) <= scales * 0.5001)
    assert np.all(np.abs(codes).max(axis=(0, 2)) >= 110)  # of 127: the steps are used


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A tiny model with a cache of so many bits."""
    folder = tmp_path_factory.mktemp("caches")
    checkpoint = tiny_models.save("qwen3", folder / "qwen3")
    made = {}
    for bits in (32, 8):
        recipe = folder / f"{bits}.toml"
        recipe.write_text("weights.bits = 32\n" + (f"{TEXT}[cache]\nbits = {bits}\n" if bits < 32 else ""))
        made[bits] = folder / str(bits)
        export(checkpoint, out=made[bits], recipe=recipe, target="x86-cpu", threads=1)
    return made


def ran(bundle: Path, tokens: NDArray[np.int64]) -> tuple[NDArray[np.float32], CpuSession]:
    session = CpuSession(read_config(bundle), threads=1, context=64, prefill_chunk=16, prepared=False)
    return np.array(session.append(tokens), np.float32), session


def test_what_is_kept_are_the_nearest_integers_of_the_keys_and_values(bundles: dict[int, Path]) -> None:
    tokens = np.random.default_rng(3).integers(0, 200, 40)
    (plain, floats), (found, integers) = ran(bundles[32], tokens), ran(bundles[8], tokens)
    graph = onnx.load(bundles[8] / "model.onnx", load_external_data=False).graph
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if ".scale" in tensor.name}
    (whole,), (kept,) = floats.snapshot().arrays, integers.snapshot().arrays  # (states, 1, heads, tokens, channels)
    assert kept.dtype == np.int8
    for index in range(2):  # those of the first layer; what later ones read has its error
        wanted = np.clip(whole[index] / scales[f"{integers.states[index].name}.scale"], -128, 127)
        assert np.abs(kept[index] - wanted).max() <= 0.5 + 1e-3
    noise = 20 * np.log10(np.linalg.norm(plain) / np.linalg.norm(found - plain))
    assert 25 < noise < 80
    assert integers.states[0].bytes_at(64) * 4 == floats.states[0].bytes_at(64)


def test_genai_takes_it(bundles: dict[int, Path]) -> None:
    genai = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    model = genai.Model(str(bundles[8]))
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(max_length=40, do_sample=False)
    generator = genai.Generator(model, parameters)
    tokens = np.random.default_rng(4).integers(3, 200, 20)
    generator.append_tokens(tokens.astype(np.int32))
    ours, session = ran(bundles[8], tokens)
    wanted = []
    for _ in range(6):
        wanted.append(int(ours.reshape(-1, ours.shape[-1])[-1].argmax()))
        ours = np.array(session.append(np.array(wanted[-1:])), np.float32)
    found = []
    for _ in range(6):
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    assert found == wanted


@pytest.mark.parametrize(
    ("content", "target", "named"),
    [
        ("bits = 4", "x86-cpu", r"\[cache\] bits must be 8, not 4"),
        ("bits = 16", "x86-cpu", r"\[cache\] bits must be 8, not 16"),
        ("bits = true", "x86-cpu", r"\[cache\] bits must be 8, not True"),
        ("bits = 8", "qnn-htp", r"\[cache\] bits = 8, and the static graphs of qnn-htp"),
    ],
)
def test_what_has_no_such_cache_is_refused(tmp_path: Path, content: str, target: str, named: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"weights.bits = 32\n[cache]\n{content}\n")
    with pytest.raises(InputError, match=named):
        decide(tiny_models.save("qwen3", tmp_path / "qwen3"), target=target, recipe=recipe)
