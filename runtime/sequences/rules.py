"""Which tokens a target may go on with: free functions on rows of scores, as transformers' ``generate`` has them.

Scores are (targets, vocabulary): logits where the search is greedy, log-probabilities where it follows several ways.
A token that may not be chosen scores −∞. Rules are applied in the order of transformers' ``_get_logits_processor``,
which the tests hold them to; those of times come last.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.runtime.generation.penalties import NEVER, Floats, forbid_repeats, penalize_repetition
from edgepress.runtime.generation.sampling import log_softmax, log_sum_exp
from edgepress.runtime.generation.several.beams import Beams
from edgepress.tasks.sequences import Search

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Times:
    """Whisper's rules of timestamps (Radford et al. 2022, appendix; transformers' WhisperTimeStampLogitsProcessor).

    ``no_timestamps`` is the token before that of 0.00 s, ``end`` the one that ends a target; tokens below it are text.
    The first time is at most number ``latest_first``.
    """

    no_timestamps: int
    end: int
    latest_first: int | None

    def apply(self, targets: Tokens, begin: int, scores: Floats) -> Floats:
        """Forbid what would not be a pair of times around each piece of text, in their order."""
        first = self.no_timestamps + 1
        scores = scores.copy()
        scores[:, self.no_timestamps] = NEVER
        for row, target in zip(scores, targets[:, begin:], strict=True):
            times = target[target >= first]
            last = target.size >= 1 and target[-1] >= first
            before = target.size < 2 or target[-2] >= first
            if last and before:
                row[first:] = NEVER
            elif last:
                row[: self.end] = NEVER
            if times.size:  # times do not decrease, and one that ended a piece is said again to begin the next
                row[first : times[-1] + int(not last or before)] = NEVER
        if targets.shape[1] == begin:
            scores[:, :first] = NEVER
            if self.latest_first is not None:
                scores[:, first + self.latest_first + 1 :] = NEVER
        probabilities = log_softmax(scores)
        of_times = log_sum_exp(probabilities[:, first:])
        scores[of_times > probabilities[:, :first].max(-1), :first] = NEVER
        return scores


@dataclass(frozen=True)
class Rules:
    """The rules of one search: targets begin with ``begin`` tokens that nobody chose, and are ``most`` long at most."""

    search: Search
    ends: tuple[int, ...]
    begin: int
    most: int
    times: Times | None = None

    def apply(self, targets: Tokens, scores: Floats) -> Floats:
        """Scores (targets, vocabulary) of what may follow ``targets`` (targets, length); the argument is left as is."""
        search, length = self.search, targets.shape[1]
        scores = scores.copy()
        if search.repetition_penalty != 1:
            penalize_repetition(scores, targets, search.repetition_penalty)
        if search.no_repeat:
            forbid_repeats(scores, targets, search.no_repeat)
        if length < search.fewest_tokens and self.ends:
            scores[:, list(self.ends)] = NEVER
        if search.forced_first is not None and length == 1:
            scores = _only(scores, search.forced_first)
        if search.forced_last is not None and length == self.most - 1:
            scores = _only(scores, search.forced_last)
        suppress = self._suppressed
        if suppress.size:
            scores[:, suppress] = NEVER
        first = self.begin + int(self.begin == 1 and search.forced_first is not None)
        if search.suppressed_first and length == first:
            scores[:, list(search.suppressed_first)] = NEVER
        return scores if self.times is None else self.times.apply(targets, self.begin, scores)

    @property
    def beams(self) -> Beams:
        """How several ways are followed."""
        return Beams(self.search.beams, self.search.length_penalty, self.search.early_stopping)

    def ending(self, targets: Tokens, parents: Tokens) -> NDArray[np.bool_]:  # noqa: ARG002 - of rules without memory
        """Which targets (targets, length) end with their last token, (targets,)."""
        return np.isin(targets[:, -1], self.ends)

    def follow(self, chosen: Tokens) -> None:
        """Hear which of the targets that were asked about go on: these rules follow from a target's tokens alone."""

    @property
    def _suppressed(self) -> Tokens:
        return np.array(self.search.suppressed, np.int64)


def _only(scores: Floats, token: int) -> Floats:
    """Forbid all tokens but one."""
    only = np.full_like(scores, NEVER)
    only[:, token] = 0
    return only
