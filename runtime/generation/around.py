"""An open text around another one: what it passes on."""

from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.generation import OpenText
from edgepress.runtime.sessions.session import Session
from edgepress.text.tokenizer import Tokenizer


class Around:
    """Has of an :class:`OpenText` what the one inside has, but what changes the text; subclasses do that their way."""

    def __init__(self, inside: OpenText) -> None:
        self.inside = inside

    @property
    def changes(self) -> int:
        """See :class:`OpenText`."""
        return self.inside.changes

    @property
    def reused(self) -> int:
        """See :class:`OpenText`."""
        return self.inside.reused

    @property
    def session(self) -> Session:
        """See :class:`OpenText`."""
        return self.inside.session

    @property
    def tokenizer(self) -> Tokenizer:
        """See :class:`OpenText`."""
        return self.inside.tokenizer

    @property
    def eos(self) -> frozenset[int]:
        """See :class:`OpenText`."""
        return self.inside.eos

    def chosen_by(self, choosing: Choosing) -> None:
        """See :class:`OpenText`."""
        self.inside.chosen_by(choosing)

    def why_not_evict(self, recent: int, moves: int = 1) -> str:
        """See :class:`OpenText`."""
        return self.inside.why_not_evict(recent, moves)

    def expect(self, token: int) -> None:
        """See :class:`OpenText`."""
        self.inside.expect(token)
