"""Beam search (Graves 2012, section 2.3): several ways to go on with a text are followed side by side.

As transformers' ``generate`` has it (``GenerationMixin._beam_search``): ``count`` ways are open. Each step takes the
best 2 · count continuations of all of them (more where several tokens end a text), moves those of the best ``count``
that end to the finished ways, and goes on with the best ``count`` of the others. The finished way with the best
log-probability / length^penalty is the answer.

What computes the texts, and what they may be, is told by who searches: a decoder with a prompt (:mod:`.text_beams`) or
an encoder's source with its targets (:mod:`edgepress.runtime.sequences`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.generation.penalties import Floats
from edgepress.runtime.generation.sampling import log_softmax, log_sum_exp
from edgepress.whole import whole_number

Tokens = NDArray[np.int64]
EarlyStopping = Literal["no", "yes", "never"]
MOST_BEAMS = 64
_CLOSED = np.float32(-1e9)  # the score of a way that is none


@dataclass(frozen=True)
class Beams:
    """How ways are followed.

    - ``count``: how many are open at once; 1 is greedy
    - ``length_penalty`` p: a finished way's score is its log-probability / length^p; 0 compares log-probabilities, and
      the larger p, the longer the answers
    - ``early_stopping``: ``yes`` ends when there are as many finished ways as open ones, ``no`` when the best open way,
      scored at its present length, is no better than the worst of them, ``never`` when none could become better

    Raises:
        InputError: a setting is out of its range.

    """

    count: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = "no"

    def __post_init__(self) -> None:
        whole_number("the number of beams", self.count, most=MOST_BEAMS)
        if not -100 <= self.length_penalty <= 100:
            raise InputError(f"length_penalty is {self.length_penalty}; it must be -100 to 100, such as 1")
        if self.early_stopping not in get_args(EarlyStopping):
            raise InputError(
                f"early_stopping is {self.early_stopping!r}; it is one of {', '.join(get_args(EarlyStopping))}"
            )


class Texts(Protocol):
    """What computes the texts: one at first, then several that begin with it."""

    def begin(self) -> None:
        """Begin with one text that has no tokens."""

    def append(self, tokens: Sequence[int]) -> Floats:
        """Append tokens to the one text; return the logits after the last, (vocabulary,)."""

    def spread(self, count: int) -> None:
        """Make of the one text so many, all alike."""

    def reorder(self, order: Tokens) -> None:
        """Let text i go on from what text ``order[i]`` was."""

    def step(self, tokens: Tokens) -> Floats:
        """Append one token to each text; return the logits after each, (texts, vocabulary)."""


class Rules(Protocol):
    """What texts may be, and when they end: with one of ``ends``, as :meth:`ending` says, or with ``most`` tokens."""

    @property
    def beams(self) -> Beams:
        """How ways are followed."""

    @property
    def ends(self) -> Sequence[int]:
        """Tokens that end a text."""

    @property
    def most(self) -> int:
        """Tokens of a text at most, those that it begins with counted."""

    def apply(self, texts: Tokens, scores: Floats) -> Floats:
        """Scores (texts, vocabulary) of what may follow ``texts`` (texts, length); the argument is left as it is.

        They are log-probabilities, −∞ for what may not follow.
        """

    def ending(self, texts: Tokens, parents: Tokens) -> NDArray[np.bool_]:
        """Which of the texts (texts, length) end with their last token; text i went on from that of ``parents[i]``."""

    def follow(self, chosen: Tokens) -> None:
        """Hear which of the texts that were asked about go on, in their new order."""


@dataclass(frozen=True)
class Way:
    """A finished way: what follows the beginning, the token that ended it included.

    ``said`` has the log-probability of each token among those that the rules allowed; ``total`` is the sum of the
    scores that the rules left, ``score`` that sum / length^penalty.
    """

    tokens: list[int]
    said: list[float]
    total: float
    score: float


def beam_search(texts: Texts, start: Sequence[int], rules: Rules) -> list[Way]:
    """The finished ways after ``start``, the best first: one at least, and at most as many as there are beams.

    Raises:
        InputError: the rules allow no text.

    """
    beams, begin, most = rules.beams, len(start), rules.most
    count, ends_early = beams.count, beams.early_stopping == "yes"
    keep = max(2, 1 + len(rules.ends)) * count
    texts.begin()
    logits = texts.append(start)[None]
    texts.spread(count)
    tokens = np.tile(np.asarray(start, np.int64), (count, 1))  # (count, length)
    said: Floats = np.zeros((count, 0), np.float32)
    scores: Floats = np.full(count, _CLOSED, np.float32)
    scores[0] = 0  # all are alike at first
    done: list[Way] = []
    while True:
        rows = np.broadcast_to(log_softmax(logits), (count, logits.shape[1]))
        ruled = rules.apply(tokens, rows)
        sums, allowed = log_sum_exp(ruled), ruled + scores[:, None]
        flat = allowed.reshape(-1)
        chosen = _largest(flat, min(keep, flat.size))
        parents, added = np.divmod(chosen, allowed.shape[1])
        reached = flat[chosen]
        with np.errstate(invalid="ignore"):  # of a way that nothing may follow
            told = ruled[parents, added] - sums[parents]
        tokens = np.concatenate([tokens[parents], added[:, None]], axis=1)  # (candidates, length)
        said = np.concatenate([said[parents], told[:, None]], axis=1)
        length = tokens.shape[1] - begin
        ending = rules.ending(tokens, parents) | (tokens.shape[1] >= most)
        if not (ends_early and len(done) == count):
            for place in np.flatnonzero(ending[:count]):
                score = reached[place] / np.float32(length**beams.length_penalty)
                if score > _CLOSED:
                    way = Way(tokens[place, begin:].tolist(), said[place].tolist(), float(reached[place]), float(score))
                    done.append(way)
            done = sorted(done, key=lambda one: -one.score)[:count]
        open_scores: Floats = reached + ending.astype(np.float32) * _CLOSED
        order = np.argsort(-open_scores, kind="stable")[:count]
        tokens, said, scores = tokens[order], said[order], open_scores[order]
        closed = ends_early and len(done) == count
        if closed or bool(ending.all()) or not _may_improve(scores[0], done, length, most - begin, beams):
            break
        texts.reorder(parents[order])
        rules.follow(order)
        logits = texts.step(tokens[:, -1])
    found = [way for way in done if way.total > _CLOSED / 2]
    if not found:
        raise InputError("every token is forbidden, by biases, as it would repeat an n-gram, or by a form; forbid less")
    return found


def _may_improve(best: np.float32, done: Sequence[Way], length: int, longest: int, beams: Beams) -> bool:
    """Whether an open way could still be better than the worst finished one, by the rule of ``early_stopping``."""
    if beams.early_stopping == "never" and beams.length_penalty > 0:
        length = longest
    possible = best / np.float32(length**beams.length_penalty)
    worst = np.float32(done[-1].score) if len(done) == beams.count else _CLOSED
    return bool(possible > worst)


def _largest(values: Floats, count: int) -> Tokens:
    """Where the ``count`` largest values are, the largest first; of equal ones that with the lowest index."""
    if count < values.size:
        threshold = np.partition(values, values.size - count)[values.size - count]
        places = np.flatnonzero(values >= threshold)
    else:
        places = np.arange(values.size)
    order = np.argsort(-values[places], kind="stable")[:count]
    return places[order]
