"""Greedy and beam search over an encoder's source, as transformers' ``generate`` has them, for one source at a time.

Beam search (``GenerationMixin._beam_search``) keeps ``beams`` open ways. Each step takes the best 2 · beams
continuations of all of them (more where several tokens end a target), moves those of the best ``beams`` that end to the
finished ways, and goes on with the best ``beams`` of the others. The finished way with the best score / length^penalty
is the target.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.sequences.rules import Rules, log_softmax, log_sum_exp
from edgepress.runtime.sequences.session import EncoderDecoder

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]
_CLOSED = np.float32(-1e9)  # the score of a way that is none


@dataclass(frozen=True)
class Draw:
    """Tokens are drawn by their probabilities at a ``temperature`` above 0, in the place of the likeliest."""

    temperature: float
    random: np.random.Generator

    def token(self, scores: Floats) -> int:
        """One of the vocabulary, by its scores, (vocabulary,)."""
        scaled = scores.astype(np.float64) / self.temperature
        sums = np.cumsum(np.exp(scaled - scaled.max()))
        return int(np.searchsorted(sums, self.random.random() * sums[-1], side="right"))


def greedy(
    model: EncoderDecoder,
    start: list[int],
    rules: Rules,
    said: list[float] | None = None,
    draw: Draw | None = None,
) -> Iterator[int]:
    """Yield the tokens of the target after ``start``, each the likeliest, ties to the lowest id, and the one that ends.

    The model's source is encoded. It ends, too, when the target has ``rules.most`` tokens. The log-probability of each
    token, among those that the rules allow, is put into ``said``; with ``draw`` they are drawn.
    """
    target = list(start)
    model.begin()
    logits = model.append(start)
    while True:
        scores = rules.apply(np.array([target], np.int64), logits[None])
        token = int(scores[0].argmax()) if draw is None else draw.token(scores[0])
        target.append(token)
        if said is not None:
            said.append(float(log_softmax(scores)[0, token]))
        yield token
        if token in rules.ends or len(target) >= rules.most:
            return
        logits = model.append([token])


@dataclass
class _Ways:
    """Some ways: ``tokens`` (ways, most), of which ``lengths`` (ways,) are there, and their ``scores`` (ways,).

    ``said`` (ways, most) has the log-probability of each token among those that the rules allowed.
    """

    tokens: Tokens
    said: Floats
    lengths: Tokens
    scores: Floats
    finished: NDArray[np.bool_]

    def best(self, count: int) -> "_Ways":
        """Those with the best scores."""
        order = np.argsort(-self.scores, kind="stable")[:count]
        return _Ways(
            self.tokens[order], self.said[order], self.lengths[order], self.scores[order], self.finished[order]
        )

    def and_(self, other: "_Ways") -> "_Ways":
        """These, then others."""
        pairs = ("tokens", "said", "lengths", "scores", "finished")
        return _Ways(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in pairs))


def beam_search(model: EncoderDecoder, start: list[int], rules: Rules) -> tuple[list[int], float, list[float]]:
    """The tokens of the best target after ``start``, the one that ends it included, its score, and each token's own.

    These are log-probabilities among the tokens that the rules allow.
    """
    search, begin, most = rules.search, len(start), rules.most
    beams, ends = search.beams, np.array(rules.ends, np.int64)
    keep = max(2, 1 + ends.size) * beams
    model.begin()
    logits = model.append(start)[None]
    model.spread(beams)
    tokens = np.zeros((beams, most), np.int64)
    tokens[:, :begin] = start
    said: Floats = np.zeros((beams, most), np.float32)
    scores: Floats = np.full(beams, _CLOSED, np.float32)
    done = _Ways(tokens.copy(), said.copy(), np.full(beams, begin), scores.copy(), np.zeros(beams, bool))
    scores[0] = 0  # all are alike at first
    length, improvable = begin, True
    while True:
        rows = np.broadcast_to(log_softmax(logits), (beams, logits.shape[1]))
        ruled = rules.apply(tokens[:, :length], rows)
        sums, allowed = log_sum_exp(ruled), ruled + scores[:, None]
        flat = allowed.reshape(-1)
        chosen = _largest(flat, min(keep, flat.size))
        parents, added = np.divmod(chosen, allowed.shape[1])
        found, told, reached = tokens[parents], said[parents], flat[chosen]
        found[:, length], told[:, length] = added, ruled[parents, added] - sums[parents]
        full = length + 1 >= most
        ending = np.isin(added, ends) | full
        is_best = np.arange(chosen.size) < beams
        # the finished ways, before the open ones are chosen anew
        closing = ending & is_best
        all_done = bool(done.finished.all()) and search.early_stopping == "yes"
        barred = ~closing + np.float32(all_done) + np.float32(not improvable)
        shares = reached / np.float32((length + 1 - begin) ** search.length_penalty) + _CLOSED * barred
        new = _Ways(found, told, np.full(chosen.size, length + 1), np.asarray(shares, np.float32), closing)
        open_scores: Floats = reached + ending.astype(np.float32) * _CLOSED
        order = np.argsort(-open_scores, kind="stable")[:beams]
        done = done.and_(new).best(beams)
        tokens, said, scores, parents = found[order], told[order], open_scores[order], parents[order]
        length += 1
        improvable = improvable and _may_improve(scores[0], done, length - begin, most - begin, rules)
        closed = bool(done.finished.all()) and search.early_stopping == "yes"
        if not improvable or closed or bool(ending.all()):
            break
        model.reorder(parents)
        logits = model.step(tokens[:, length - 1])
    best = slice(begin, int(done.lengths[0]))
    return done.tokens[0, best].tolist(), float(done.scores[0]), done.said[0, best].tolist()


def _may_improve(best: np.float32, done: _Ways, length: int, longest: int, rules: Rules) -> bool:
    """Whether an open way could still be better than the worst finished one, by the rule of ``early_stopping``."""
    search = rules.search
    if search.early_stopping == "never" and search.length_penalty > 0:
        length = longest
    possible = best / np.float32(length**search.length_penalty)
    worst = np.where(done.finished, done.scores.min(), _CLOSED)
    return bool((possible > worst).any())


def _largest(values: Floats, count: int) -> Tokens:
    """Where the ``count`` largest values are, the largest first; of equal ones that with the lowest index."""
    if count < values.size:
        threshold = np.partition(values, values.size - count)[values.size - count]
        places = np.flatnonzero(values >= threshold)
    else:
        places = np.arange(values.size)
    order = np.argsort(-values[places], kind="stable")[:count]
    return places[order]
