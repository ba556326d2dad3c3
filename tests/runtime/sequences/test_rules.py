"""Whisper's rules of times, against transformers' own."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, WhisperTimeStampLogitsProcessor

from edgepress.runtime.sequences.rules import Times

VOCABULARY, NO_TIMES, END, BEGIN = 40, 19, 12, 3


@settings(max_examples=150, deadline=None)
@given(
    target=st.lists(st.integers(0, VOCABULARY - 1), max_size=8),
    latest=st.none() | st.integers(0, 30),
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.1, 1.0, 8.0]),
)
def test_times_are_forbidden_as_transformers_forbids_them(
    target: list[int], latest: int | None, seed: int, size: float
) -> None:
    tokens = np.array([[1, 2, 3, *target]], np.int64)
    scores = (size * np.random.default_rng(seed).standard_normal((1, VOCABULARY))).astype(np.float32)
    config = GenerationConfig(eos_token_id=END, no_timestamps_token_id=NO_TIMES, max_initial_timestamp_index=latest)
    theirs = WhisperTimeStampLogitsProcessor(config, begin_index=BEGIN)
    expected = theirs(torch.from_numpy(tokens), torch.from_numpy(scores)).numpy()
    found = Times(NO_TIMES, END, latest).apply(tokens, BEGIN, scores)
    assert np.array_equal(found, expected)
