"""How many proposed tokens a step verifies: as many as pay, by what was right so far and what a step costs.

Of proposals with probability a of being right, each given those before it, a step over k of them and one token gives
E(k) = 1 + a + a² … aᵏ tokens (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
equation 1) and costs c(k + 1) steps. The k with the most tokens a cost is taken, none where that is no more than one.

What speculation may lose is bounded whatever it believes: :class:`Window` keeps an account in steps of the model. Each
token adds what it saved over a step of its own, and :data:`_GRANTED` besides; no step is tried that could leave less
than nothing. So a text takes at most 1 + ``_GRANTED`` of its plain time, and ``_FIRST`` steps.
"""

from collections.abc import Callable

from edgepress.runtime.generation.speculation.costs import StepCosts

_GRANTED = 0.015  # of a step, for each token
_FIRST = 0.5  # of a step
_WORTH = 1.02  # tokens a cost from which on a step is worth it: below, measuring is no better than that
_PRIOR = 1.0  # proposals that are taken for seen before there were any
_RIGHT = (0.3, 0.3, 0.55, 0.7, 0.8, 0.9, 0.95)  # how many of them were right, by evidence
_REMEMBERED = 12.0  # proposals of one evidence; older ones fade
_FORGET = 0.99  # what is left of them when none is made although there is evidence: so that it is tried again


class Window:
    """The width of the next step, for one text; ``spent`` is what all so far cost, in steps over one token.

    Args:
        costs: of steps over several tokens.
        most_rows: tokens of a step at most, the known one included.

    """

    def __init__(self, costs: StepCosts, most_rows: int) -> None:
        self._costs = [0.0, *(costs.of(rows) for rows in range(1, most_rows + 1))]  # by rows
        self._most_rows = most_rows
        self._balance, self.spent = _FIRST, 0.0
        self._seen: dict[int, tuple[float, float]] = {}  # by evidence: right ones, and how many were looked at

    def cost(self, rows: int) -> float:
        """What a step over ``rows`` tokens costs, in steps over one."""
        return self._costs[rows]

    def width(
        self,
        evidence: int,
        known: int = 1,
        drafting: Callable[[int], float] = lambda _: 0.0,
        *,
        once: float = 0.0,
        again: bool = False,
    ) -> int:
        """How many tokens to propose beside ``known`` ones that the step computes anyway; 0 where none pays.

        ``drafting`` says what it takes to propose so many, in steps. ``once`` of these are taken this time only: the
        account has to have them, and whether the width pays is a question of the others. With ``again`` the tokens of a
        step that was wrong are computed again by the next one, as states cannot be taken back.
        """
        right = self._chance(evidence)
        alone = self.cost(known)
        behind = self.cost(known + 1) - 1 if again and known < self._most_rows else 0.0
        best, width, expected, power = _WORTH / alone, 0, 1.0, 1.0
        for count in range(1, self._most_rows - known + 1):
            power *= right
            expected += power
            cost = self.cost(known + count) + drafting(count)
            if cost - alone + behind > self._balance:
                break
            if expected / (cost - once) > best:
                best, width = expected / (cost - once), count
        if not width and evidence in self._seen:
            was_right, seen = self._seen[evidence]
            self._seen[evidence] = _FORGET * was_right, _FORGET * seen
        return width

    def plain(self, rows: int = 1, drafted: float = 0.0) -> None:
        """A step over ``rows`` tokens has given one; ``drafted`` steps were spent on looking for more."""
        self._pay(1, self.cost(rows) + drafted)

    def verified(self, evidence: int, proposed: int, right: int, rows: int, drafted: float = 0.0) -> None:
        """A step over ``rows`` tokens, of which ``proposed`` were, has given ``right`` of them and one more.

        To propose them took ``drafted`` steps.
        """
        self._pay(right + 1, self.cost(rows) + drafted)
        before_right, before = self._seen.get(evidence, (0.0, 0.0))
        looked_at = min(right + 1, proposed)
        kept = min(1.0, _REMEMBERED / (before + looked_at))
        self._seen[evidence] = kept * (before_right + right), kept * (before + looked_at)

    def _pay(self, tokens: int, steps: float) -> None:
        self.spent += steps
        self._balance += tokens * (1 + _GRANTED) - steps

    def _chance(self, evidence: int) -> float:
        """How likely the next proposed token is right."""
        right, seen = self._seen.get(evidence, (0.0, 0.0))
        return (right + _PRIOR * _RIGHT[min(evidence, len(_RIGHT) - 1)]) / (seen + _PRIOR)
