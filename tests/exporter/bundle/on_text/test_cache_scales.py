"""Scales of keys and values as integers: against brute force, and in graphs against the cache of floats."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from transformers import AutoModelForCausalLM

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.on_text.cache_scales import Turning, scales_of
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.text.tokenizer import read_tokenizer

LONG = 1024  # positions, where calibration sees the first 32 or 64
TEXT = "[calibration]\ntokens = 256\nlength = 64\n"


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-3, 3))
def test_no_value_that_was_seen_loses_more_than_half_a_step(seed: int, size: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((2, 3, 9, 8)) * 10**size).astype(np.float32)
    scales = scales_of(values)
    assert scales.shape == (1, 3, 1, 8)
    codes = np.clip(np.rint(values / scales), -128, 127)
    assert np.all(np.abs(codes * scales - values) <= scales * 0.5001)
    assert np.all(np.abs(codes).max(axis=(0, 2)) >= 110)  # of 127: the steps are used


@given(st.data())
def test_no_position_of_the_context_turns_a_key_beyond_its_scales(data: st.DataObject) -> None:
    """Turning is multiplication by exp(i angle), of pairs as complex numbers; all positions are tried, and between."""
    pairs, plain = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))
    interleaved, with_gains = data.draw(st.booleans()), data.draw(st.booleans())
    random, length, context = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), 5, 40
    # Gemma 4 has pairs that do not turn, nanochat's turn the other way.
    speeds = random.choice([0, 1, 1, 1, -1], pairs) * 10 ** random.uniform(-4, 0, pairs)
    columns = np.arange(2 * pairs).reshape((pairs, 2) if interleaved else (2, pairs))
    first, second = columns.T if interleaved else columns
    gains = 10 ** random.uniform(-1, 1, (2, 2 * pairs + plain)) * random.choice([-1, 1], (2, 2 * pairs + plain))
    gains = gains if with_gains else np.ones_like(gains)
    keys = random.standard_normal((3, 2, length, 2 * pairs + plain)) * 10 ** random.uniform(-2, 2, 2 * pairs + plain)

    def at(positions: Any) -> NDArray[np.float32]:
        """The keys at other positions, (1,) or (length,) for each of them its own."""
        found = keys.copy()
        angles = np.exp(1j * np.asarray(positions)[:, None] * speeds)
        as_complex = (keys[..., first] + 1j * keys[..., second]) * angles
        found[..., first], found[..., second] = as_complex.real, as_complex.imag
        return np.asarray(found * gains[:, None], np.float32)

    turning = Turning(speeds, (context - 1) * speeds, interleaved, gains.astype(np.float32) if with_gains else None)
    scales = scales_of(at(np.arange(length)), turning)
    codes = np.max([np.abs(at([n / 8]) / scales).max(axis=(0, 2)) for n in range(8 * context - 7)], axis=0)
    assert codes.max() < 116  # of 127, with the margin
    assert codes.min() > 114  # and each channel comes there: no step is wasted
    np.testing.assert_array_equal(scales[..., 2 * pairs :], scales_of(at([0]))[..., 2 * pairs :])


def cached(folder: Path, name: str, more: dict[str, object], calibration: str, gain: float = 8.0) -> Path:
    """A tiny model for long texts whose keys have large biases; its bundle is in ``bundle``."""
    variant = tiny_models.VARIANTS[name]
    variant = replace(
        variant, config={**variant.config, "max_position_embeddings": LONG, **more}, gains={"k_proj.bias": gain}
    )
    checkpoint, recipe = folder / "checkpoint", folder / "recipe.toml"
    tiny_models.save_variant(variant, checkpoint, seed=3)
    recipe.write_text(f"weights.bits = 32\n{calibration}[cache]\nbits = 8\n")
    export(checkpoint, out=folder / "bundle", recipe=recipe, target="x86-cpu", threads=1)
    return checkpoint


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("qwen2", {}),  # halves, turned by GroupQueryAttention
        ("glm", {"attention_bias": True}),  # neighbours of the first half of a head
        ("gptj", {"n_positions": LONG}),  # neighbours of a part of a head, by a node of its own
        ("deepseek_v3", {"attention_bias": True}),  # a part that all heads share, before channels that do not turn
        ("hunyuan_v1_dense-biases", {}),  # a norm after the rotation
        ("nanochat", {"attention_bias": True}),  # the other way
    ],
)
def test_keys_that_were_seen_fit_at_every_position(tmp_path: Path, name: str, more: dict[str, object]) -> None:
    """Of the first layer, where they follow from token and position: by scales for peaks alone they take 220 to 300."""
    words = "or not to be. To be, " * 9
    (tmp_path / "text.txt").write_text(words)
    settings = f'[calibration]\ntokens = 64\nlength = 32\ntext = ["{(tmp_path / "text.txt").as_posix()}"]\n'
    cached(tmp_path, name, more, settings)
    inner = read_tokenizer(tmp_path / "bundle").encode_plain(words)[4:-4]  # as words are within a sequence
    session = CpuSession(read_config(tmp_path / "bundle"), threads=1, context=LONG, prefill_chunk=128, prepared=False)
    session.append(np.resize(inner, LONG - 1))
    codes = np.abs(session.entries("layers.0.key").astype(np.int32))  # (1, heads, tokens, channels)
    assert 110 <= codes.max() <= 116  # of 127, with the margin


def test_a_text_to_the_end_of_the_context_is_as_with_floats(tmp_path: Path) -> None:
    """Beside transformers' own model: scales for peaks alone leave it 0.38 to 0.47 off beyond 256 positions."""
    checkpoint = cached(tmp_path, "qwen2", {}, TEXT, gain=20.0)
    tokens = np.random.default_rng(0).integers(3, 300, LONG - 1)
    session = CpuSession(read_config(tmp_path / "bundle"), threads=1, context=LONG, prefill_chunk=128, prepared=False)
    found = np.array(session.append(tokens, 0))
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(checkpoint)(torch.from_numpy(tokens[None])).logits[0].numpy()
    for part in (slice(256, 640), slice(640, LONG - 1)):
        assert np.linalg.norm(found[part] - wanted[part]) < 0.12 * np.linalg.norm(wanted[part])


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


def test_layers_that_read_the_keys_of_another_have_its_integers(tmp_path: Path) -> None:
    """Gemma 3n: the check compares with the float graph, whose keys and values are rounded by the same scales."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("weights.bits = 32\n[calibration]\ntokens = 512\nlength = 64\n[cache]\nbits = 8\n")
    checkpoint = tiny_models.save("gemma3n_text", tmp_path / "checkpoint")
    manifest = export(checkpoint, out=tmp_path / "out", recipe=recipe, target="x86-cpu", threads=1, check=True)
    assert manifest.parity is not None
    off, rounding = (float(str(manifest.parity[key])) for key in ("graph_difference", "cache_rounding"))
    assert 0.5 * rounding < off < 1.5 * rounding


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
