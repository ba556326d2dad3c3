"""Several conversations over one model's weights, in one process: each with its own text and limits, none waiting long.

models = side_by_side(load("bundle"), 3)
answers = [Conversation(model).say(text) for model, text in zip(models, texts)]
for number, piece in in_turn(answers):
    print(number, piece)
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from edgepress.errors import InputError
from edgepress.runtime.generation.generation import Generation
from edgepress.runtime.model import Model
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.side_by_side import open_side_by_side
from edgepress.whole import whole_number

_Piece = TypeVar("_Piece")
_Asked = TypeVar("_Asked")


def side_by_side(model: Model, count: int, *, context: int | None = None) -> list[Model]:
    """Models with a text of its own each, over the weights that ``model`` has open; that one keeps its text.

    Their answers may be taken in any order, piece by piece. When one is asked for its next token, those of others that
    are known are computed in the same call, as far as that gives every text the bits that it has alone; else they take
    turns. ``model.session.together`` says how many one call goes on with; that is measured here. They must not be used
    by two threads at once.

    Args:
        model: an open bundle, on the CPU.
        count: how many.
        context: the most tokens of each, by default as many as ``model`` has.

    Raises:
        InputError: the model runs on an accelerator, or a number is out of range.

    """
    whole_number("count", count)
    session = model.session
    if not isinstance(session, CpuSession):
        raise InputError(f"{session.ran_on} holds one text at a time; run the bundle on the CPU (--on cpu)")
    longest = whole_number("context", session.context if context is None else context, most=session.context)
    return [model.with_session(one) for one in open_side_by_side(session, count, longest)]


def in_turn(answers: list[Iterator[_Piece]]) -> Iterator[tuple[int, _Piece]]:
    """A piece of each answer in turn, with its place in ``answers``, until all have ended.

    Answers that are appended to the list meanwhile are taken up in the next round.
    """
    going = set[int]()
    seen = 0
    while True:
        going |= set(range(seen, len(answers)))
        seen = len(answers)
        if not going:
            return
        for number in sorted(going):
            try:
                piece = next(answers[number])
            except StopIteration:
                going.discard(number)
                continue
            yield number, piece


@dataclass(frozen=True)
class Answered:
    """One of several that were asked: the whole ``text`` and its ``generation``, or the ``error`` that came of it."""

    text: str
    generation: Generation | None
    error: InputError | None = None


def in_order(
    models: Sequence[Model], asked: Sequence[_Asked], ask: Callable[[Model, _Asked], Generation]
) -> Iterator[Answered]:
    """Answer everything that is asked, as many side by side as there are models; yield the answers in its order.

    Each that goes on says a piece in turn, and where one has ended the next is begun in its place, so that none waits
    for the longest of a group. An error ends the answer that it is about, and no other.
    """
    waiting = iter(enumerate(asked))
    done: dict[int, Answered] = {}
    following = 0  # the next to be yielded

    def answers_of(model: Model) -> Iterator[None]:
        """Answer one after the other with a model; yield after each piece."""
        for number, one in waiting:
            pieces, generation = list[str](), None
            try:
                generation = ask(model, one)
                for piece in generation:
                    pieces.append(piece)
                    yield
            except InputError as error:
                done[number] = Answered("".join(pieces), generation, error)
            else:
                done[number] = Answered("".join(pieces), generation)
            yield

    for _ in in_turn([answers_of(model) for model in models]):
        while following in done:
            yield done.pop(following)
            following += 1
