"""Choosing the next token from a row of logits: free functions on arrays.

Each filter is defined, and ordered, as transformers' ``generate`` does it (``generation/logits_process.py``), which the
tests hold it to:

1. repetition penalty (Keskar et al. 2019, CTRL, section 4.1) over every token of prompt and answer so far,
2. temperature: logits / T,
3. top-k (Fan et al. 2018): ties with the k-th are kept,
4. top-p (Holtzman et al. 2020): the smallest set whose probability reaches p, over what top-k left,
5. min-p (Nguyen et al. 2024): at least ``min_p`` times the best token's probability, over what top-p left.

Filters return the indices kept instead of a masked row: after the first, the rest work on few numbers, and a vocabulary
of 150,000 costs one pass.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.whole import whole_number

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. The default, temperature 0, is greedy: the most likely token, ties to the lowest id.

    - ``temperature`` ≥ 0; 0 is greedy and ignores ``top_k``, ``top_p`` and ``min_p``
    - ``top_k`` ≥ 0; 0 is off
    - 0 < ``top_p`` ≤ 1; 1 is off
    - 0 ≤ ``min_p`` ≤ 1; 0 is off
    - ``repetition_penalty`` > 0; 1 is off, above 1 discourages what was already said
    - ``seed``: the same seed gives the same text; None takes one from the operating system
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                raise InputError(f"{name} is {value!r}; it must be a number")
        # Written as `not (good)` so that NaN, for which every comparison is false, is refused too.
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number")
        whole_number("top_k", self.top_k, least=0, takes="it must be a whole number, 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}; it must be between 0 (off) and 1")
        if not 0 < self.repetition_penalty < float("inf"):
            raise InputError(f"repetition_penalty is {self.repetition_penalty}; it must be a positive number, 1 is off")
        if self.seed is not None:
            whole_number("seed", self.seed, least=0, takes="it must be a whole number, 0 or more")


def penalize_repetition(logits: Floats, seen: Indices, penalty: float) -> Floats:
    """Return ``logits`` with every token in ``seen`` made less likely: divided by ``penalty``, or multiplied if < 0."""
    penalized = logits.copy()  # (vocab,)
    values = logits[seen]  # an id that occurs twice is written twice with the same value, so once is enough
    factor = np.float32(penalty)
    penalized[seen] = np.where(values < 0, values * factor, values / factor)
    return penalized


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of a row of logits, in float64."""
    exponentials = np.exp((logits - logits.max()).astype(np.float64))
    return np.asarray(exponentials / exponentials.sum())


def top_k_indices(logits: Floats, k: int) -> Indices:
    """Return where ``logits`` is at least its k-th largest value, in ascending order of index."""
    if k >= logits.size:
        return np.arange(logits.size)
    threshold = np.partition(logits, logits.size - k)[logits.size - k]
    return np.flatnonzero(logits >= threshold)


def top_p_indices(logits: Floats, p: float) -> Indices:
    """Return the smallest set of most likely tokens whose probability reaches ``p``, in ascending order of index.

    In ascending order of probability, a token goes while the sum up to and with it is at most 1 - p. Tokens below
    (1 - p) / n sum to less than 1 - p, so they go without being sorted: of a large vocabulary only a few hundred stay.
    """
    probabilities = softmax(logits)
    # Slightly below the bound, so that rounding never drops a token that the exact rule would sort.
    candidates = np.flatnonzero(probabilities >= (1 - p) / logits.size * (1 - 1e-9))
    likely = probabilities[candidates]
    order = np.argsort(likely, kind="stable")
    dropped = max(0.0, 1.0 - float(likely.sum()))
    goes = dropped + np.cumsum(likely[order]) <= 1 - p
    goes[-1] = False  # the most likely token always stays
    return np.sort(candidates[order[~goes]])


def min_p_indices(logits: Floats, p: float) -> Indices:
    """Return where the probability is at least ``p`` times the largest, in ascending order of index."""
    return np.flatnonzero(logits - logits.max() >= np.log(p)) if p > 0 else np.arange(logits.size)


def candidates(logits: Floats, sampling: Sampling) -> tuple[Indices, NDArray[np.float64]]:
    """Return the tokens that may be drawn and their probabilities, which sum to 1; ``logits`` are already penalized."""
    scaled = logits / np.float32(sampling.temperature)
    kept = top_k_indices(scaled, sampling.top_k) if sampling.top_k else np.arange(scaled.size)
    if sampling.top_p < 1:
        kept = kept[top_p_indices(scaled[kept], sampling.top_p)]
    if sampling.min_p > 0:
        kept = kept[min_p_indices(scaled[kept], sampling.min_p)]
    return kept, softmax(scaled[kept])


def choose(logits: Floats, sampling: Sampling, seen: Indices, generator: np.random.Generator) -> int:
    """Return the next token. ``logits`` (vocab,) are left as they are; ``seen`` are the tokens so far."""
    if sampling.repetition_penalty != 1:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    tokens, probabilities = candidates(logits, sampling)
    cumulative = np.cumsum(probabilities)
    # Inverse-CDF draw; scaled by the sum because rounding leaves it a hair off 1.
    drawn = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return int(tokens[min(int(drawn), tokens.size - 1)])
