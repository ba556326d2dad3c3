"""What of a conversation a model is told when it has grown longer than the context: whole turns, the oldest go first.

What it begins with, the system prompt, always stays, and so does the last question with what belongs to it. Where one
is cut, so much is left out that half of the context is free: the turns after that go on from what the model keeps,
where a conversation that is cut a little at each turn would be computed anew each time.
"""

from collections.abc import Callable, Sequence

from edgepress.chat.template import Message

_FREE = 8  # of the context one in so many is free for an answer at least, where nobody said how long it may be


def beginning_of(messages: Sequence[Message]) -> int:
    """How many messages stand before the first turn: the system's or the developer's."""
    others = (place for place, message in enumerate(messages) if message.get("role") not in ("system", "developer"))
    return next(others, len(messages))


def left_out_of(
    messages: Sequence[Message],
    known: int,
    length: Callable[[Sequence[Message]], int],
    context: int,
    longest: int | None,
) -> int:
    """How many messages after the beginning are left out: ``known`` as long as the rest fits, else more.

    Args:
        messages: the conversation, the question that is to be answered included.
        known: how many were left out before.
        length: of messages as the model is told them, in tokens.
        context: how many it can be told, with its answer.
        longest: tokens of an answer at most; None where it ends by itself.

    """
    begin = beginning_of(messages)
    free = context // _FREE if longest is None else min(longest, context // 2)
    places = [place - begin for place in range(begin, len(messages)) if messages[place].get("role") == "user"]
    known = known if known in places else 0

    def tokens(left_out: int) -> int:
        return length([*messages[:begin], *messages[begin + left_out :]])

    if tokens(known) + free <= context:
        return known
    further = [place for place in places if place > known]
    halved = min(context // 2, context - free)
    return next((place for place in further if tokens(place) <= halved), further[-1] if further else known)
