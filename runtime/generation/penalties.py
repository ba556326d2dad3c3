"""What is held against single tokens before one is chosen: functions on rows of scores, which they change in place.

Scores are (texts, vocabulary): logits, or log-probabilities where a search follows several texts. A token that may not
be chosen scores −∞. Each is as transformers' ``generate`` has it (``generation/logits_process.py``), in whose order
they stand here.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
NEVER = -np.inf


def add_biases(scores: Floats, bias: Mapping[int, float]) -> None:
    """Add a number to the scores of some tokens.

    Raises:
        InputError: a token is not in the vocabulary.

    """
    tokens = np.fromiter(bias, np.int64, len(bias))
    if tokens.max() >= scores.shape[1]:
        raise InputError(f"token {tokens.max()} has a bias, and the vocabulary has 0 to {scores.shape[1] - 1}")
    scores[:, tokens] += np.fromiter(bias.values(), np.float32, len(bias))


def penalize_repetition(scores: Floats, texts: Indices, penalty: float) -> None:
    """Divide the scores of tokens that ``texts`` (texts, length) have by ``penalty``, multiply those below 0.

    Keskar et al. 2019, CTRL, section 4.1.
    """
    values = np.take_along_axis(scores, texts, 1)  # a token that occurs twice is written twice, with the same value
    factor = np.float32(penalty)
    np.put_along_axis(scores, texts, np.where(values < 0, values * factor, values / factor), 1)


def forbid_repeats(scores: Floats, texts: Indices, size: int) -> None:
    """Forbid each token that would end a sequence of ``size`` tokens which its text has already."""
    length = texts.shape[1]
    if length < size:
        return
    windows = np.lib.stride_tricks.sliding_window_view(texts, size, axis=1)  # (texts, windows, size)
    ends = texts[:, length + 1 - size :]
    rows, places = np.nonzero((windows[..., :-1] == ends[:, None]).all(-1))
    scores[rows, windows[rows, places, -1]] = NEVER
