"""How many proposed tokens a step verifies: as many as pay, by what was right so far and what a step costs.

Of proposals with probability a of being right, each given those before it, a step over k of them and one token gives
E(k) = 1 + a + a² … aᵏ tokens (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding",
equation 1) and costs c(k + 1) steps. The k with the most tokens a cost is taken, none where that is no more than one.

What speculation may lose is bounded whatever it believes: there is an account in steps of the model. Each token adds
what it saved over a step of its own, and :data:`_GRANTED` besides; no step is tried that could leave less than nothing.

What answers have learned outlives them (:class:`Learned`), and so does the account: all answers of a model together
take at most 1 + ``_GRANTED`` of their plain time, and ``_FIRST`` steps. What is left goes from one answer to the next,
``_LEFT`` steps of what is granted and ``_CARRIED`` of what was saved at most: by that a short one can pay at its
beginning for what a drafter has to read first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from edgepress.runtime.generation.speculation.costs import StepCosts

_GRANTED = 0.015  # of a step, for each token
_FIRST = 0.5  # of a step
_WORTH = 1.02  # tokens a cost from which on a step is worth it: below, measuring is no better than that
_PRIOR = 2.0  # proposals that are taken for seen before there were any
_RIGHT = (0.3, 0.3, 0.55, 0.7, 0.8, 0.9, 0.95)  # how many of them were right, by evidence
_REMEMBERED = 12.0  # proposals of one evidence; older ones fade
_FORGET = 0.99  # what is left of them when none is made although there is evidence: so that it is tried again
_LEFT, _CARRIED = 1.0, 2.0  # steps that an answer has of what was granted to those before it, and of what they saved
_BETWEEN = 0.5  # what is left of the proposals seen when another answer begins, which may be of another kind


@dataclass
class Learned:
    """What answers have learned of one drafter's proposals to tokens that are chosen in one way.

    - ``balance``: of the account, in steps
    - ``saved``: steps that proposals have spared so far, less what they cost
    - ``seen``: by evidence, how many proposals were right and how many were looked at
    """

    balance: float = _FIRST
    saved: float = 0.0
    seen: dict[int, tuple[float, float]] = field(default_factory=dict)

    def next_answer(self) -> None:
        """Another answer begins: older proposals fade, and of the account it has what it may lose."""
        self.balance = min(self.balance, _LEFT + min(max(self.saved, 0.0), _CARRIED))
        self.seen = {evidence: (_BETWEEN * right, _BETWEEN * seen) for evidence, (right, seen) in self.seen.items()}


class Window:
    """The width of the next step; ``spent`` is what all so far cost, in steps over one token.

    Args:
        costs: of steps over several tokens.
        most_rows: tokens of a step at most, the known one included.
        learned: what earlier answers have learned.

    """

    def __init__(self, costs: StepCosts, most_rows: int, learned: Learned | None = None) -> None:
        self._costs = [0.0, *(costs.of(rows) for rows in range(1, most_rows + 1))]  # by rows
        self._most_rows = most_rows
        self.learned = Learned() if learned is None else learned
        self.spent = 0.0

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
            if cost - alone + behind > self.learned.balance:
                break
            if expected / (cost - once) > best:
                best, width = expected / (cost - once), count
        if not width and evidence in self.learned.seen:
            was_right, seen = self.learned.seen[evidence]
            self.learned.seen[evidence] = _FORGET * was_right, _FORGET * seen
        return width

    def plain(self, rows: int = 1, drafted: float = 0.0) -> None:
        """A step over ``rows`` tokens has given one; ``drafted`` steps were spent on looking for more."""
        self._pay(1, self.cost(rows) + drafted)

    def verified(
        self, evidence: int, proposed: int, right: int, rows: int, drafted: float = 0.0, *, judged: bool = True
    ) -> None:
        """A step over ``rows`` tokens, of which ``proposed`` were, has given ``right`` of them and one more.

        To propose them took ``drafted`` steps. Unless ``judged``, nobody asked whether the one after these is right.
        """
        self._pay(right + 1, self.cost(rows) + drafted)
        seen = self.learned.seen
        before_right, before = seen.get(evidence, (0.0, 0.0))
        looked_at = min(right + judged, proposed)
        kept = min(1.0, _REMEMBERED / max(before + looked_at, 1.0))
        seen[evidence] = kept * (before_right + right), kept * (before + looked_at)

    def _pay(self, tokens: int, steps: float) -> None:
        self.spent += steps
        self.learned.saved += tokens - steps
        self.learned.balance += tokens * (1 + _GRANTED) - steps

    def _chance(self, evidence: int) -> float:
        """How likely the next proposed token is right."""
        right, seen = self.learned.seen.get(evidence, (0.0, 0.0))
        return (right + _PRIOR * _RIGHT[min(evidence, len(_RIGHT) - 1)]) / (seen + _PRIOR)
