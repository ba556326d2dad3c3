"""Tokens are chosen by random numbers that belong to their place, so that proposals are drawn as the text will be."""

import numpy as np
import pytest

from edgepress.runtime import Sampling
from edgepress.runtime.generation.choosing import Choosing

SAMPLING = Sampling(temperature=0.9, top_k=8, repetition_penalty=1.3, seed=5)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=2, size=(count, 20)).astype(np.float32)


def test_what_is_looked_at_ahead_is_what_is_chosen_then_and_changes_nothing() -> None:
    plain, looking = (Choosing(SAMPLING, [1, 2], 4) for _ in range(2))  # a text that outgrows its room
    wanted, found, logits = [], [], rows(12)
    for at, row in enumerate(logits):
        wanted.append(plain.next(row))
        plain.append(wanted[-1])
        found.append(looking.next(row))
        looking.append(found[-1])
        ahead: list[int] = []
        for later in logits[at + 1 : at + 1 + at % 4]:
            ahead.append(looking.ahead(later, ahead))
        assert ahead == wanted_after(logits, at, len(ahead))
    assert found == wanted
    assert plain.text.tolist() == [1, 2, *wanted]
    assert plain.count == 14


def wanted_after(logits: np.ndarray, at: int, count: int) -> list[int]:
    """The plain text's tokens after the one of row ``at``."""
    plain, found = Choosing(SAMPLING, [1, 2], 40), list[int]()
    for row in logits[: at + 1 + count]:
        found.append(plain.next(row))
        plain.append(found[-1])
    return found[at + 1 :]


def test_tokens_that_were_not_drawn_take_no_random_numbers() -> None:
    """A form makes some certain: the one that is drawn after them has the numbers that it has without."""
    logits = rows(2)
    plain, forced = (Choosing(Sampling(temperature=1.0, seed=3), [1], 40) for _ in range(2))
    for choosing, certain in ((plain, []), (forced, [7, 8, 9])):
        first = choosing.next(logits[0])
        for token in [first, *certain]:
            choosing.append(token)
    assert plain.next(logits[1]) == forced.next(logits[1])


@pytest.mark.parametrize("apart", [0.1, 0.5, 2.0])
def test_two_distributions_draw_one_token_as_often_as_gumbel_sampling_does(apart: float) -> None:
    """Daliri et al. 2024: Σᵢ 1 / Σⱼ max(pⱼ / pᵢ, qⱼ / qᵢ), between (1 − d) / (1 + d) and 1 − d."""
    p_row, other = rows(2)
    q_row = p_row + np.float32(apart) * other
    p, q = (np.exp(row.astype(np.float64)) / np.exp(row.astype(np.float64)).sum() for row in (p_row, q_row))
    wanted = sum(1 / np.maximum(p / p[one], q / q[one]).sum() for one in range(20))
    distance = 0.5 * np.abs(p - q).sum()
    assert (1 - distance) / (1 + distance) <= wanted + 1e-12
    assert wanted <= 1 - distance + 1e-12
    ours, theirs = (Choosing(Sampling(temperature=1.0, seed=1), [0], 5000) for _ in range(2))
    same = np.mean([ours.next(p_row) == theirs.next(q_row) for _ in range(4000)])
    assert same == pytest.approx(wanted, abs=4 * np.sqrt(wanted * (1 - wanted) / 4000))
    assert wanted > np.sum(p * (np.arange(20) == q.argmax()))  # the likeliest of q, proposed for certain
