"""Texts that are speculated on: how they are made, what their steps cost, and which distribution they have to have."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.stats import chisquare

from edgepress.runtime import Model, Sampling
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.generation import Generation, OpenText
from edgepress.runtime.generation.speculation.costs import StepCosts
from edgepress.runtime.generation.speculation.speculating import Speculating
from edgepress.text.tokenizer import StopStrings

PROMPT = [5, 17, 40, 33, 8, 9, 12]
CHEAP = StepCosts({1: 1.0, 2: 1.05, 16: 1.6}, exact=16)
GREEDY = Choosing(Sampling(), [], 0)
LENGTH, TOP = 3, 3  # tokens of a text, and how many each is drawn from
HOT, PENALTY = 1.2, 1.2


def answer(model: OpenText, sampling: Sampling, longest: int = 40, *, reuse: bool = False) -> Generation:
    """The answer to ``PROMPT``, whole."""
    generation = Generation(model, PROMPT, sampling, longest, StopStrings([]), reuse=reuse)
    list(generation._tokens())
    generation.model.settle()
    return generation


def chances(model: Model, text: Sequence[int]) -> dict[int, float]:
    """Tokens that may follow ``text``, by the definitions of temperature, top-k and repetition penalty, in float64."""
    model.reset()
    logits = model.prefill(text).astype(np.float64)
    logits[list(model.eos)] = -np.inf
    for token in set(text):
        logits[token] *= PENALTY if logits[token] < 0 else 1 / PENALTY
    best = np.argsort(logits)[-TOP:]
    shares = np.exp((logits[best] - logits[best].max()) / HOT)
    return dict(zip(best.tolist(), (shares / shares.sum()).tolist(), strict=True))


def check_distribution(plain: Model, ahead: Speculating, prompt: list[int], seeds: int) -> float:
    """Hold ``LENGTH`` tokens of so many seeds against what they should be; return the share of right proposals."""
    expected: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(LENGTH):
        expected = {
            (*said, token): share * chance
            for said, share in expected.items()
            for token, chance in chances(plain, [*prompt, *said]).items()
        }
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(seeds):
        sampling = Sampling(
            temperature=HOT, top_k=TOP, repetition_penalty=PENALTY, bias=dict.fromkeys(ahead.eos, -np.inf), seed=seed
        )
        generation = Generation(ahead, prompt, sampling, LENGTH, StopStrings([]), reuse=True)
        counts[tuple(generation._tokens())] += 1
        ahead.settle()
    assert set(counts) <= set(expected)
    assert len(expected) == TOP**LENGTH
    found = [(counts[said], seeds * share) for said, share in expected.items() if seeds * share >= 5]
    found.append((seeds - sum(count for count, _ in found), seeds - sum(share for _, share in found)))
    assert chisquare(*zip(*(pair for pair in found if pair[1] > 0), strict=True)).pvalue > 1e-3
    return ahead.tally.right / ahead.tally.proposed
