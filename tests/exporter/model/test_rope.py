"""Rope against transformers' own functions, over random parameters."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.exporter.model.parts.primitives import Rope
from edgepress.exporter.model.rope import read_rope, rope_tables
from edgepress.exporter.source.config import Config

torch = pytest.importorskip("torch")
LlamaConfig = pytest.importorskip("transformers").LlamaConfig
rope_utils = pytest.importorskip("transformers.modeling_rope_utils")
llama = pytest.importorskip("transformers.models.llama.modeling_llama")

ULP = 2.0**-23
# torch's float32 pow is within 1 ulp, ours is rounded from float64; sums and quotients of a few such terms
TOLERANCE = 8 * ULP

thetas = st.sampled_from([1e4, 1e5, 5e5, 1e6, 2e6, 5e6]) | st.floats(1e3, 1e7)
head_dims = st.sampled_from([8, 16, 64, 80, 96, 128, 256])
factors = st.floats(1.0, 64.0)
originals = st.sampled_from([256, 2048, 4096, 8192])
multiples = st.integers(1, 32)
some = settings(max_examples=60, deadline=None)


def compare(parameters: dict[str, object], head_dim: int, context: int, seq_len: int | None = None) -> Rope:
    """Read ``parameters`` and hold frequencies and attention factor against transformers'."""
    found = read_rope(Config({"rope_parameters": parameters}), head_dim=head_dim, context_length=context)
    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=context,
        rope_parameters=dict(parameters),
    )
    kind = str(parameters["rope_type"])
    if kind == "default":
        expected, attention_factor = llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        expected, attention_factor = rope_utils.ROPE_INIT_FUNCTIONS[kind](config, seq_len=seq_len)
    long = seq_len is not None and found.long_inverse_frequencies is not None
    frequencies = found.long_inverse_frequencies if long else found.inverse_frequencies
    np.testing.assert_allclose(frequencies, expected.numpy(), rtol=TOLERANCE)
    assert found.attention_factor == pytest.approx(attention_factor, rel=1e-12)
    return found


@some
@given(theta=thetas, head_dim=head_dims)
def test_default(theta: float, head_dim: int) -> None:
    compare({"rope_type": "default", "rope_theta": theta}, head_dim, 2048)


@some
@given(theta=thetas, head_dim=head_dims, factor=factors)
def test_linear(theta: float, head_dim: int, factor: float) -> None:
    compare({"rope_type": "linear", "rope_theta": theta, "factor": factor}, head_dim, 2048)


@some
@given(
    theta=thetas,
    head_dim=head_dims,
    factor=factors,
    original=originals,
    low=st.floats(0.5, 2.0),
    gap=st.floats(0.5, 8.0),
)
def test_llama3(theta: float, head_dim: int, *, factor: float, original: int, low: float, gap: float) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": low + gap,
        "original_max_position_embeddings": original,
    }
    found = read_rope(Config({"rope_parameters": parameters}), head_dim=head_dim, context_length=original * 8)
    config = LlamaConfig(head_dim=head_dim, max_position_embeddings=original * 8, rope_parameters=dict(parameters))
    expected = rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config)[0].numpy()
    # Near the high boundary the interpolation 1 − smooth cancels: its absolute error is what stays small.
    np.testing.assert_allclose(found.inverse_frequencies, expected, rtol=64 * ULP * (1 + 1 / gap))


@some
@given(
    theta=thetas,
    head_dim=head_dims,
    factor=factors,
    original=originals,
    fast=st.none() | st.floats(16.0, 64.0),
    slow=st.none() | st.floats(0.5, 4.0),
    mscale=st.none() | st.floats(0.1, 2.0),
    mscale_all_dim=st.none() | st.floats(0.1, 2.0),
    attention_factor=st.none() | st.floats(0.5, 2.0),
    truncate=st.booleans(),
)
def test_yarn(theta: float, head_dim: int, factor: float, original: int, **options: float | bool | None) -> None:
    names = {"fast": "beta_fast", "slow": "beta_slow"}
    given_options = {names.get(key, key): value for key, value in options.items() if value is not None}
    compare(
        {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": original,
            **given_options,
        },
        head_dim,
        original * 4,
    )


@some
@given(data=st.data(), theta=thetas, head_dim=head_dims, original=originals, multiple=multiples)
def test_longrope(data: st.DataObject, theta: float, head_dim: int, original: int, multiple: int) -> None:
    lists = st.lists(st.floats(1.0, 64.0), min_size=head_dim // 2, max_size=head_dim // 2)
    parameters: dict[str, object] = {
        "rope_type": "longrope",
        "rope_theta": theta,
        "short_factor": data.draw(lists),
        "long_factor": data.draw(lists),
        "original_max_position_embeddings": original,
    }
    for key in ("factor", "attention_factor"):
        if (value := data.draw(st.none() | st.floats(1.0, 32.0))) is not None:
            parameters[key] = value
    context = original * multiple
    short = compare(parameters, head_dim, context)
    assert (short.long_inverse_frequencies is None) == (context <= original)
    if context > original:
        assert compare(parameters, head_dim, context, seq_len=original + 1).long_from == original


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.75, 1.0])
def test_partial_rotary_counts_whole_pairs(factor: float) -> None:
    config = Config({"partial_rotary_factor": factor})
    rope = read_rope(config, head_dim=64, context_length=64, partial=True)
    assert len(rope.inverse_frequencies) == int(64 * factor) // 2
    exponents = np.arange(0, int(64 * factor), 2) / int(64 * factor)
    np.testing.assert_allclose(rope.inverse_frequencies, 1e4**-exponents, rtol=TOLERANCE)


@pytest.mark.parametrize("attention_factor", [1.0, 1.19])
def test_tables_are_those_of_transformers(attention_factor: float) -> None:
    length = 5000  # more than one piece
    rope = read_rope(Config({"rope_theta": 1e6}), head_dim=64, context_length=length)
    rope = Rope(rope.inverse_frequencies, attention_factor)
    module = llama.LlamaRotaryEmbedding(LlamaConfig(head_dim=64, max_position_embeddings=length))
    module.inv_freq = torch.tensor(rope.inverse_frequencies)
    module.attention_scaling = attention_factor
    expected = [table[0, :, :32].numpy() for table in module(torch.zeros(1), torch.arange(length)[None])]
    for found, reference in zip(rope_tables(rope, length), expected, strict=True):
        assert (found.dtype, found.shape) == (np.float32, (length, 32))
        np.testing.assert_allclose(found, reference, rtol=0, atol=2 * ULP)


@pytest.mark.parametrize(("length", "frequencies"), [(3, (1.0, 0.5)), (6, (0.25, 0.125))])
def test_longrope_tables_follow_the_length_of_the_text(length: int, frequencies: tuple[float, float]) -> None:
    rope = Rope((1.0, 0.5), 1.1, (0.25, 0.125), 3)
    cosines, sines = rope_tables(rope, length)
    assert cosines.shape == sines.shape == (length, 2)
    for position in range(length):
        for pair, frequency in enumerate(frequencies):
            angle = position * frequency
            assert cosines[position, pair] == pytest.approx(1.1 * math.cos(angle), rel=1e-6)
            assert sines[position, pair] == pytest.approx(1.1 * math.sin(angle), rel=1e-6)


def test_tables_are_made_once_a_length_and_as_long_as_the_text() -> None:
    rope = read_rope(Config({"rope_theta": 1e6}), head_dim=64, context_length=131_072)
    first = rope_tables(rope, 70)
    assert first[0].shape == (70, 32)  # not the whole context
    assert rope_tables(Rope(rope.inverse_frequencies), 70)[0] is first[0]
    assert not first[0].flags.writeable
    np.testing.assert_array_equal(rope_tables(rope, 40)[1], first[1][:40])
