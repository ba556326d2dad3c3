"""A form for what is said behind thoughts: the model thinks as it likes first, and is held to the form after that."""

from collections.abc import Callable

from edgepress.runtime.generation.constraints import Matcher
from edgepress.runtime.generation.penalties import Floats
from edgepress.text.tokenizer import Detokenizer


class AfterThoughts:
    """Holds an answer whose prompt ends inside of thoughts to a form from where they end.

    Args:
        form: at its beginning.
        close: the text that ends thoughts.
        detokenizer: of the answer; it shows special tokens that are in ``close``.
        encode: tokens of a text as they are inside of one.

    """

    def __init__(self, form: Matcher, close: str, detokenizer: Detokenizer, encode: Callable[[str], list[int]]) -> None:
        self._form, self._close, self._detokenizer, self._encode = form, close, detokenizer, encode
        self._is_thinking, self._end = True, ""  # the last of the thoughts, in which their mark may have begun

    @property
    def is_over(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return not self._is_thinking and self._form.is_over

    @property
    def is_unfinished(self) -> bool:
        """Whether the answer, if it ended here, would not have its form."""
        return self._is_thinking or self._form.is_unfinished

    def masked(self, logits: Floats) -> Floats:
        """``logits`` (vocab,) with −∞ for every token that may not come next: none while thoughts go on."""
        return logits if self._is_thinking else self._form.masked(logits)

    def take(self, token: int) -> list[int]:
        """Go on by a token; return it, or what of it ends the thoughts, and the tokens that have to follow."""
        if not self._is_thinking:
            return self._form.take(token)
        text = self._detokenizer.push(token)
        seen = self._end + text
        at = seen.find(self._close)
        if at < 0:
            self._end = seen[-len(self._close) :]
            return [token]
        self._is_thinking = False
        behind = seen[at + len(self._close) :]
        step = self._encode(text.removesuffix(behind)) if behind.strip() else [token]
        return [*step, *self._form.forced()]
