"""Sampling against transformers' own processors, and its settings."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as oracle

from edgepress.errors import InputError
from edgepress.runtime.generation.sampling import (
    Sampling,
    candidates,
    choose,
    min_p_indices,
    penalized,
    top_k_indices,
    top_p_indices,
    typical_indices,
)

NO_TOKENS = np.empty(0, np.int64)


def random_logits(seed: int, size: int, spread: float) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def kept_by(processor: oracle.LogitsProcessor, logits: np.ndarray) -> list[int]:
    scores = processor(torch.zeros((1, 1), dtype=torch.long), torch.from_numpy(logits)[None].clone())
    return torch.isfinite(scores[0]).nonzero()[:, 0].tolist()


logits_cases = st.builds(
    random_logits, st.integers(0, 2**32), st.sampled_from([1, 2, 7, 100, 3000]), st.sampled_from([0.01, 1.0, 5.0])
)


@settings(max_examples=60, deadline=None)
@given(logits_cases, st.integers(1, 120))
def test_top_k_keeps_what_transformers_keeps(logits: np.ndarray, k: int) -> None:
    assert top_k_indices(logits, k).tolist() == kept_by(oracle.TopKLogitsWarper(k), logits)


@settings(max_examples=60, deadline=None)
@given(logits_cases, st.floats(0.01, 0.99))
def test_top_p_keeps_what_transformers_keeps(logits: np.ndarray, p: float) -> None:
    ours = set(top_p_indices(logits, p).tolist())
    theirs = set(kept_by(oracle.TopPLogitsWarper(p), logits))
    # Their sum is in float32: over 3,000 tokens it is off by up to 1e-5, which may move the boundary by that much mass.
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    assert ours <= theirs or theirs <= ours
    assert sum(probabilities[token] for token in ours ^ theirs) <= 2e-5 + 2 * probabilities.min()


@settings(max_examples=60, deadline=None)
@given(logits_cases, st.floats(0.001, 0.99))
def test_min_p_keeps_what_transformers_keeps(logits: np.ndarray, p: float) -> None:
    distance = np.abs(logits - logits.max() - math.log(p))
    if (distance < 1e-5).any():  # rounding decides
        return
    assert min_p_indices(logits, p).tolist() == kept_by(oracle.MinPLogitsWarper(p), logits)


@settings(max_examples=40, deadline=None)
@given(logits_cases, st.floats(0.5, 3.0), st.integers(0, 50))
def test_repetition_penalty_is_transformers_own(logits: np.ndarray, penalty: float, count: int) -> None:
    seen = np.random.default_rng(count).integers(0, logits.size, count)
    original = logits.copy()
    theirs = oracle.RepetitionPenaltyLogitsProcessor(penalty)(
        torch.from_numpy(seen)[None], torch.from_numpy(original)[None]
    )
    found = penalized(logits, Sampling(repetition_penalty=penalty), seen)
    np.testing.assert_array_equal(found, theirs[0].numpy())
    np.testing.assert_array_equal(logits, original)


@settings(max_examples=60, deadline=None)
@given(logits_cases, st.floats(0.05, 0.99))
def test_typical_keeps_what_transformers_keeps(logits: np.ndarray, p: float) -> None:
    ours, theirs = set(typical_indices(logits, p).tolist()), set(kept_by(oracle.TypicalLogitsWarper(p), logits))
    probabilities = np.exp(logits.astype(np.float64) - logits.max())
    probabilities /= probabilities.sum()
    # Equally far on both sides of the entropy, or rounding in float32: some mass at the boundary may go either way.
    assert abs(sum(probabilities[token] for token in ours) - sum(probabilities[token] for token in theirs)) <= (
        2e-5 + 2 * probabilities[list(ours ^ theirs)].max(initial=0)
    )
    assert len(ours ^ theirs) <= 2 + logits.size // 100


def test_typical_leaves_out_a_token_that_says_too_little() -> None:
    logits = np.log(np.array([0.55, 0.09, 0.09, 0.09, 0.09, 0.09], np.float32))  # entropy 1.41; information 0.6, 2.4 …
    assert typical_indices(logits, 0.5).tolist() == [0]
    logits = np.log(np.array([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1], np.float32))  # entropy 1.75; information 0.92, 2.3 …
    assert typical_indices(logits, 0.45).tolist() == [1, 2, 3, 4, 5]


@settings(max_examples=40, deadline=None)
@given(logits_cases, st.integers(1, 4), st.lists(st.integers(0, 3), max_size=20))
def test_blocked_ngrams_are_transformers_own(logits: np.ndarray, size: int, text: list[int]) -> None:
    seen = np.array([token % logits.size for token in text], np.int64)
    theirs = oracle.NoRepeatNGramLogitsProcessor(size)(torch.from_numpy(seen)[None], torch.from_numpy(logits)[None])
    if not np.isfinite(theirs.numpy()).any():
        with pytest.raises(InputError, match="every token is forbidden"):
            penalized(logits, Sampling(no_repeat_ngram=size), seen)
        return
    np.testing.assert_array_equal(penalized(logits, Sampling(no_repeat_ngram=size), seen), theirs[0].numpy())


def test_biases_are_transformers_own_and_forbid() -> None:
    logits, bias = random_logits(1, 50, 2.0), {3: 4.5, 7: -math.inf, 49: -2.0}
    processor = oracle.SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()})
    theirs = processor(torch.zeros((1, 1), dtype=torch.long), torch.from_numpy(logits)[None].clone())
    np.testing.assert_array_equal(penalized(logits, Sampling(bias=bias), NO_TOKENS), theirs[0].numpy())
    with pytest.raises(InputError, match="token 50 has a bias, and the vocabulary has 0 to 49"):
        penalized(logits, Sampling(bias={50: 1.0}), NO_TOKENS)
    with pytest.raises(InputError, match="the bias of token 5 is nan"):
        Sampling(bias={5: math.nan})


def test_all_together_in_transformers_order() -> None:
    logits = random_logits(3, 2000, 3.0)
    seen = np.array([5, 9, 9, 100])
    sampling = Sampling(
        temperature=0.7,
        top_k=50,
        top_p=0.9,
        min_p=0.02,
        typical_p=0.8,
        repetition_penalty=1.3,
        no_repeat_ngram=2,
        bias={int(logits.argmax()): -1.0},
    )
    scores = torch.from_numpy(logits)[None].clone()
    for processor in (
        oracle.SequenceBiasLogitsProcessor({(int(logits.argmax()),): -1.0}),
        oracle.RepetitionPenaltyLogitsProcessor(1.3),
        oracle.NoRepeatNGramLogitsProcessor(2),
        oracle.TemperatureLogitsWarper(0.7),
        oracle.TopKLogitsWarper(50),
        oracle.TopPLogitsWarper(0.9),
        oracle.MinPLogitsWarper(0.02),
        oracle.TypicalLogitsWarper(0.8),
    ):
        scores = processor(torch.from_numpy(seen)[None], scores)
    expected = torch.softmax(scores[0].double(), -1).numpy()
    tokens, probabilities = candidates(penalized(logits, sampling, seen), sampling)
    dense = np.zeros(logits.size)
    dense[tokens] = probabilities
    np.testing.assert_allclose(dense, expected, atol=1e-6)


def test_draws_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    rows = np.random.default_rng(0).standard_exponential((20_000, 4))
    sampling = Sampling(temperature=1.0)
    draws = np.bincount([choose(logits, sampling, NO_TOKENS, noise) for noise in rows], minlength=4) / 20_000
    np.testing.assert_allclose(draws, [0.5, 0.3, 0.15, 0.05], atol=0.015)


def test_greedy_takes_the_first_of_equals_and_the_penalty_reaches_it() -> None:
    logits = np.array([1.0, 2.0, 2.0, 0.0], np.float32)
    noise = np.ones(4)
    assert choose(logits, Sampling(), NO_TOKENS, noise) == 1
    assert choose(logits, Sampling(repetition_penalty=1.5), np.array([1]), noise) == 2


def test_equal_seeds_draw_equal_tokens() -> None:
    logits = random_logits(0, 500, 1.0)
    sampling = Sampling(temperature=1.0, top_p=0.95)
    draws = [
        [
            choose(logits, sampling, NO_TOKENS, noise)
            for noise in np.random.default_rng(seed).exponential(size=(50, 500))
        ]
        for seed in (7, 7, 8)
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [1e-10, 1e10])
@pytest.mark.parametrize("temperature", [1e-10, 1e10])
def test_the_largest_and_least_settings_keep_probabilities_finite(temperature: float, penalty: float) -> None:
    logits = np.array([30, -20, 5, -30], np.float32)
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty, bias={2: 1e10, 3: -math.inf})
    made = penalized(logits, sampling, np.array([0, 1, 2]))
    kept, probabilities = candidates(made, sampling)
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[kept == 3] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", 1e-300),  # 0 in float32
        ("temperature", 1e300),
        ("repetition_penalty", 1e-45),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("typical_p", 0.0),
        ("no_repeat_ngram", -1),
        ("min_p", -0.1),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("seed", -1),
    ],
)
def test_a_setting_out_of_range_is_named_with_its_value(name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"^{name} is {re.escape(str(value))};"):
        Sampling(**{name: value})
