"""What came after the same few tokens before: answers repeat their prompt, and themselves. There is nothing to ship.

Saxena 2023, "Prompt Lookup Decoding". The last :data:`_SIZES` tokens of the text are looked up, longest first, among
those of all places before; what followed the latest such place is proposed. How far back the two places are alike is
the evidence: a text that was copied for twenty tokens goes on being copied.
"""

from collections.abc import Sequence

from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.speculation.kinds import Opening

_SIZES = (3, 2)
_LONGEST = 32  # tokens that are compared


class Ngrams:
    """Places of the text by the tokens before them."""

    def __init__(self, opening: Opening | None = None) -> None:
        del opening  # the text is all that it goes by
        self._text: list[int] = []
        self._places: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in _SIZES}

    def begin(self, tokens: Sequence[int]) -> None:
        """Enter all places of ``tokens`` but the last, which is what is looked up: of equal ones the latest stays."""
        self._text = list(tokens)
        text = self._text
        for size, places in self._places.items():
            ends = range(size, len(text))
            places.clear()
            places.update(zip(zip(*(text[start:] for start in range(size)), strict=False), ends, strict=False))

    def take(self, token: int) -> None:
        """Enter the place before ``token``."""
        text = self._text
        for size, places in self._places.items():
            if len(text) >= size:
                places[tuple(text[-size:])] = len(text)
        text.append(token)

    def evidence(self) -> int:
        """The length, in doublings, of what is alike."""
        place = self._place()
        return 0 if place is None else self._alike(place).bit_length()

    def cost(self, count: int) -> float:
        """A look into a dictionary."""
        del count
        return 0.0

    def once(self) -> float:
        """There is nothing to read."""
        return 0.0

    def propose(self, count: int, choosing: Choosing) -> list[int]:
        """What followed the latest place that is alike; where that runs into the end of the text, it repeats itself."""
        del choosing  # there is nothing to choose from
        text, place = self._text, self._place()
        if place is None:
            return []
        period = len(text) - place
        return [text[place + at % period] for at in range(count)]

    def _place(self) -> int | None:
        """What the latest place that ends like the text, and is not its end, is followed by."""
        for size, places in self._places.items():
            place = places.get(tuple(self._text[-size:]))
            if place is not None:
                return place
        return None

    def _alike(self, place: int) -> int:
        """How many tokens before ``place`` are those at the end of the text."""
        text, length = self._text, 0
        while length < min(place, _LONGEST) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        return length


DRAFTER = Ngrams
