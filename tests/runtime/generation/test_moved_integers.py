"""Keys that are integers move: rounded anew by the scales that the graph has, and not too often."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from tiny_models import CONTEXT, save

from edgepress.bundle.manifest import read_manifest
from edgepress.bundle.rotations import KeyRotation
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, load
from edgepress.runtime.config import read_config
from edgepress.runtime.generation.forgetting import Forgetting
from edgepress.runtime.graph_file.cache_scales import key_scales
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.moving import moved_back
from edgepress.text.tokenizer import read_tokenizer

KEEP = 40
TEXT = "To be, or not to be, that is the question: whether 'tis nobler. "
CACHES = {"qwen3": f"bits = 8\nkeep = {KEEP}", "gemma3_text": "bits = 8\nwindows = true"}


@given(st.data())
def test_integers_are_turned_as_floats_and_rounded_once(data: st.DataObject) -> None:
    """Turning is multiplication by exp(−i angle), of pairs as complex numbers."""
    pairs, plain, interleaved = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3)), data.draw(st.booleans())
    random, width = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), 2 * pairs + plain
    scales = (10 ** random.uniform(-3, 1, (1, 2, 1, width))).astype(np.float32)
    codes = random.integers(-128, 128, (1, 2, 5, width)).astype(np.int8)
    speeds, places = 10 ** random.uniform(-3, 0, pairs), data.draw(st.integers(0, 500))
    found = moved_back(codes, KeyRotation(("key",), tuple(speeds), interleaved), places, scales)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found[..., 2 * pairs :], codes[..., 2 * pairs :])
    columns = np.arange(2 * pairs).reshape((pairs, 2) if interleaved else (2, pairs))
    first, second = columns.T if interleaved else columns
    keys = codes * scales.astype(np.float64)
    turned = (keys[..., first] + 1j * keys[..., second]) * np.exp(-1j * places * speeds)
    for half, wanted in ((first, turned.real), (second, turned.imag)):
        exact = np.clip(wanted / scales[..., half], -128, 127)  # beyond that they are cut off
        assert np.abs(found[..., half] - exact).max() <= 0.5 + 1e-3


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("integers")
    (folder / "text.txt").write_text(TEXT * 40)
    for name, cache in CACHES.items():
        recipe = folder / f"{name}.toml"
        calibration = '[calibration]\ntext = ["text.txt"]\ntokens = 320\nlength = 80\n'
        recipe.write_text(f"weights.bits = 32\n{calibration}[cache]\n{cache}\n", encoding="utf-8")
        checkpoint = save(name, folder / f"{name}-checkpoint")
        export(checkpoint, out=folder / name, recipe=recipe, target="x86-cpu", threads=1)
    return {name: folder / name for name in CACHES}


@pytest.mark.parametrize("name", list(CACHES))
def test_keys_of_the_first_layer_are_those_that_would_be_computed(bundles: dict[str, Path], name: str) -> None:
    """Whole and in windows: to half a step for each rounding, of one here and of three there."""
    config = read_config(bundles[name])
    tensors = onnx.load(config.model, load_external_data=False).graph.initializer
    scales = key_scales(config.model, config.states)
    assert sorted(scales) == sorted(state.name for state in config.states if state.name.endswith("key"))
    for state, scale in scales.items():
        (wanted,) = (numpy_helper.to_array(tensor) for tensor in tensors if tensor.name == f"{state}.scale")
        np.testing.assert_array_equal(scale, wanted)
    tokens, (gone, first) = np.resize(read_tokenizer(config.bundle).encode_plain(TEXT)[4:-4], 60), (18, 5)
    moved = CpuSession(config, threads=1, context=64, prefill_chunk=16, prepared=False)
    anew = moved.with_adapter(None)
    moved.append(tokens)
    moved.evict(first, gone)
    anew.append(np.concatenate([tokens[:first], tokens[first + gone :]]))
    found, wanted = (session.entries("layers.0.key").astype(np.float64) for session in (moved, anew))
    scale = scales["layers.0.key"]
    beside = np.roll(scale, scale.shape[-1] // 2, axis=-1)  # of the other channel of each pair
    off = np.abs(found - wanted) * scale
    assert np.all(off <= 0.501 * (3 * scale + beside))
    assert off.max() > 0  # they were rounded


def test_a_text_goes_on_in_8_bits_and_its_price_is_told(bundles: dict[str, Path]) -> None:
    model = opened(bundles["qwen3"])
    generation = model.generate([5, 9, 17, 33, 2], max_tokens=90, bias=dict.fromkeys(model.eos, -np.inf))
    generation.text()
    assert (len(generation.tokens), generation.computed_again) == (90, 0)
    assert generation.forgotten >= 54
    kept = read_manifest(bundles["qwen3"]).kept
    assert kept is not None
    assert kept.loss is not None
    assert kept.loss.tokens == 2 * (CONTEXT - KEEP)  # of 320 tokens, texts as long as the context


def test_tokens_that_would_be_moved_often_are_computed_again(bundles: dict[str, Path]) -> None:
    model = opened(bundles["qwen3"])
    assert Forgetting(4, 0.0625).for_text(model, 128).way == "moving"
    assert Forgetting(4, 0.02).for_text(model, 128).way == "computing"
    with pytest.raises(InputError, match=r"key are integers, which are rounded each time.*moved 61 times, and 16 are"):
        Forgetting(4, 0.02, "moving").for_text(model, 128)


def opened(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)
