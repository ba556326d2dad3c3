"""Choosing the next token from a row of logits: free functions on arrays.

Each filter is defined, and ordered, as transformers' ``generate`` does it (``generation/logits_process.py``), which the
tests hold it to:

1. biases, the repetition penalty and blocked n-grams (:mod:`.penalties`), which greedy choice knows too,
2. temperature: logits / T,
3. top-k (Fan et al. 2018): ties with the k-th are kept,
4. top-p (Holtzman et al. 2020): the smallest set whose probability reaches p, over what top-k left,
5. min-p (Nguyen et al. 2024): at least ``min_p`` times the best token's probability, over what top-p left,
6. typical (Meister et al. 2023, Locally Typical Sampling): the tokens whose information is nearest to the row's
   entropy, until their probability reaches ``typical_p``, over what min-p left.

Of the tokens that are left one wins an exponential race: that with the largest p / e, where each token of the
vocabulary has an exponential random number e of its own. So each is drawn with its probability p, as by Gumbel noise on
logits, and of a distribution that differs little the same numbers draw the same token most times (:mod:`.choosing`).

Filters return the indices kept instead of a masked row: after the first, the rest work on few numbers, and a vocabulary
of 150,000 costs one pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.generation.penalties import Floats, Indices, add_biases, forbid_repeats, penalize_repetition
from edgepress.whole import whole_number

_SHARES = ("top_p", "typical_p")
_LARGEST = 1e10  # of what logits are multiplied, divided or raised by: in float32 they stay finite


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. The default, temperature 0, is greedy: the most likely token, ties to the lowest id.

    - ``temperature``, 10⁻¹⁰ to 10¹⁰; 0 is greedy and ignores ``top_k``, ``top_p``, ``min_p`` and ``typical_p``
    - ``top_k`` ≥ 0; 0 is off
    - 0 < ``top_p`` ≤ 1; 1 is off
    - 0 ≤ ``min_p`` ≤ 1; 0 is off
    - 0 < ``typical_p`` ≤ 1; 1 is off
    - ``repetition_penalty``, 10⁻¹⁰ to 10¹⁰; 1 is off, above 1 discourages what was already said
    - ``no_repeat_ngram`` ≥ 0: no sequence of so many tokens is said twice, the prompt's included; 0 is off
    - ``bias``: what is added to the logit of a token, by the token; −∞ forbids it
    - ``seed``: the same seed gives the same text; None takes one from the operating system
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in ("temperature", *_SHARES, "min_p", "repetition_penalty")}
        for name, value in (numbers | {f"the bias of {token}": value for token, value in self.bias.items()}).items():
            if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
                raise InputError(f"{name} is {value!r}; it must be a number")
        # Written as `not (good)` so that NaN, for which every comparison is false, is refused too.
        least, most = 1 / _LARGEST, _LARGEST
        if self.temperature != 0 and not least <= self.temperature <= most:
            raise InputError(f"temperature is {self.temperature}; it must be 0 (greedy), or {least:g} to {most:g}")
        for name in ("top_k", "no_repeat_ngram"):
            whole_number(name, getattr(self, name), least=0, takes="it must be a whole number, 0 (off) or more")
        for name in _SHARES:
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0 and at most 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}; it must be between 0 (off) and 1")
        if not least <= self.repetition_penalty <= most:
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}; it must be {least:g} to {most:g}, and 1 is off"
            )
        for token, value in self.bias.items():
            whole_number("a token with a bias", token, least=0, takes="tokens are numbers, 0 or more")
            if not value <= most:
                raise InputError(
                    f"the bias of token {token} is {value}; it must be at most {most:g}, and −∞ forbids it"
                )
        if self.seed is not None:
            whole_number("seed", self.seed, least=0, takes="it must be a whole number, 0 or more")


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Probabilities of a row of logits, in float64."""
    exponentials = np.exp((logits - logits.max()).astype(np.float64))
    return np.asarray(exponentials / exponentials.sum())


def log_probability(logits: Floats, token: int) -> float:
    """The logarithm of a token's probability, in float64."""
    shifted = logits - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted, dtype=np.float64).sum()))


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities of each row, in float32 as torch has them."""
    shifted = scores - scores.max(-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def log_sum_exp(values: Floats) -> Floats:
    """The logarithm of the sum of exponentials of each row; −∞ where all are."""
    largest = values.max(-1, keepdims=True)
    safe = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        found: Floats = (np.log(np.exp(values - safe).sum(-1, keepdims=True)) + safe)[:, 0]
    return found


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


def typical_indices(logits: Floats, p: float) -> Indices:
    """Return the fewest tokens nearest in information to the entropy whose probability reaches ``p``, ascending."""
    probabilities = softmax(logits)
    with np.errstate(divide="ignore"):
        information = -np.log(probabilities)  # infinite for what cannot be drawn, which is then the farthest
    possible = probabilities > 0
    entropy = float((probabilities[possible] * information[possible]).sum())
    order = np.argsort(np.abs(information - entropy), kind="stable")
    last = int((np.cumsum(probabilities[order]) < p).sum())
    return np.sort(order[: last + 1])


def candidates(logits: Floats, sampling: Sampling) -> tuple[Indices, NDArray[np.float64]]:
    """Return the tokens that may be drawn and their probabilities, which sum to 1; ``logits`` are already penalized."""
    scaled = logits / np.float32(sampling.temperature)
    kept = top_k_indices(scaled, sampling.top_k) if sampling.top_k else np.arange(scaled.size)
    if sampling.top_p < 1:
        kept = kept[top_p_indices(scaled[kept], sampling.top_p)]
    if sampling.min_p > 0:
        kept = kept[min_p_indices(scaled[kept], sampling.min_p)]
    if sampling.typical_p < 1:
        kept = kept[typical_indices(scaled[kept], sampling.typical_p)]
    return kept, softmax(scaled[kept])


def penalized(logits: Floats, sampling: Sampling, seen: Indices) -> Floats:
    """Logits (vocab,) after what is held against single tokens; the argument itself where that is nothing.

    Raises:
        InputError: a token with a bias is not in the vocabulary, or all tokens are forbidden.

    """
    if not (sampling.bias or sampling.no_repeat_ngram or sampling.repetition_penalty != 1):
        return logits
    scores = logits[None].copy()  # (1, vocab)
    penalize(scores, sampling, seen[None])
    if scores.max() == -np.inf:
        raise InputError("every token is forbidden, by biases or as it would repeat an n-gram; forbid less")
    row: Floats = scores[0]
    return row


def penalize(scores: Floats, sampling: Sampling, texts: Indices) -> None:
    """Change ``scores`` (texts, vocab) of what may follow ``texts`` (texts, length) by what is held against tokens.

    Raises:
        InputError: a token with a bias is not in the vocabulary.

    """
    if sampling.bias:
        add_biases(scores, sampling.bias)
    if sampling.repetition_penalty != 1:
        penalize_repetition(scores, texts, sampling.repetition_penalty)
    if sampling.no_repeat_ngram:
        forbid_repeats(scores, texts, sampling.no_repeat_ngram)


def choose(logits: Floats, sampling: Sampling, seen: Indices, noise: NDArray[np.float64]) -> int:
    """Return the next token. ``logits`` (vocab,) are left as they are; ``seen`` are the tokens so far.

    ``noise`` (vocab,) are independent exponential random numbers of mean 1; a greedy choice has no use for them.
    """
    logits = penalized(logits, sampling, seen)
    if sampling.temperature == 0:
        return int(logits.argmax())
    tokens, probabilities = candidates(logits, sampling)
    return int(tokens[(probabilities / noise[tokens]).argmax()])
