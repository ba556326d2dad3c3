"""A conversation → the tokens that the model was trained to see, in which users cannot forge special tokens.

What a user writes may contain the text of a special token, such as ``<|im_end|>``. Encoded with the rest it would end
the user's turn. So such texts are put between two marks before the template runs, and what is between marks is encoded
as the plain characters that it is (as transformers does with ``sanitize_control_tokens``).
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

from edgepress.chat.template import ChatTemplate, Message
from edgepress.errors import InputError
from edgepress.text.documents import check_unicode
from edgepress.text.tokenizer import Tokenizer

_START, _END = "\ue0b0", "\ue0b1"  # of Unicode's private use area, and taken out of what users write
_FOLLOWING = ("a", "Z", "7", " x", "\n\nb", "é", "(", "日")  # that messages may begin with


class ChatEncoder:
    """A bundle's template and tokenizer. ``control`` are the tokens that users' texts may not contain as such."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self.template, self.tokenizer = template, tokenizer
        added = tokenizer.library.get_added_tokens_decoder()
        self._ids = {token.content: number for number, token in added.items()}
        self.control = [token.content for token in added.values() if token.special or self._is_control(token.content)]
        longest_first = "|".join(re.escape(token) for token in sorted(self.control, key=len, reverse=True))
        self._control = re.compile(longest_first or "(?!)")
        self._marked = re.compile(f"{_START}({longest_first or '(?!)'}){_END}|[{_START}{_END}]")
        self._newline = tokenizer.encode_plain("\n")

    def _is_control(self, token: str) -> bool:
        """Whether a token that is added and not special is one that the template writes."""
        if self.template.control is not None:
            return token in self.template.control
        return not token.isspace() and any(token in text for text in self.template.literals)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        answer: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> list[int]:
        """The tokens of a conversation; arguments and errors are those of :meth:`ChatTemplate.render`.

        Nothing is put before them: a template writes the beginning of a text itself.

        Raises:
            InputError: there are no messages, or a text in them is no Unicode.

        """
        text = self.template.render(
            self._mark(check_messages(messages)),
            tools=self._mark(tools),
            documents=self._mark(documents),
            answer=answer,
            variables=self._mark(variables),
        )
        tokens: list[int] = []
        for piece, is_marked in self._pieces(text):
            tokens += self._as_text(piece) if is_marked else self._inside(piece, first=not tokens)
        return tokens

    def encode_inside(self, text: str) -> list[int]:
        """Tokens of a text that others stand before, special tokens as such."""
        return self._inside(text, first=False)

    def _mark(self, value: Any) -> Any:
        """``value`` with marks around control tokens in its texts, keys left as they are."""
        if isinstance(value, str):
            check_unicode(value, "the conversation")
            return self._control.sub(f"{_START}\\g<0>{_END}", value.replace(_START, "").replace(_END, ""))
        if isinstance(value, Mapping):
            return {key: self._mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._mark(item) for item in value]
        return value

    def _pieces(self, text: str) -> Iterator[tuple[str, bool]]:
        """Runs of a rendered text, and whether each was marked. A mark that lost its other half parts the text."""
        for index, piece in enumerate(self._marked.split(text)):
            if piece:
                yield piece, index % 2 == 1

    def _inside(self, text: str, *, first: bool) -> list[int]:
        """Tokens of a run as they are inside a text: some tokenizers put a space before its beginning."""
        if first:
            return self.tokenizer.encode_plain(text)
        tokens, length = self.tokenizer.encode_plain("\n" + text), len(self._newline)
        return tokens[length:] if tokens[:length] == self._newline else self.tokenizer.encode_plain(text)

    def _as_text(self, text: str) -> list[int]:
        """Tokens of a control token's characters: in one run, or, where that gives the token itself, in two."""
        library = self.tokenizer.library
        library.encode_special_tokens = True
        try:
            tokens = self._inside(text, first=False)
            if self._ids[text] in tokens:
                tokens = [*self._inside(text[:1], first=False), *self._inside(text[1:], first=False)]
        finally:
            library.encode_special_tokens = False
        if self._ids[text] in tokens:
            raise InputError(f"the tokenizer makes a special token of the text {text!r}; leave it out of the messages")
        return tokens


def shared_beginning(encode: Callable[[Sequence[Message]], list[int]], messages: Sequence[Message]) -> list[int]:
    """The tokens with which every conversation begins whose first messages are ``messages``.

    Found by going on in several ways: what a tokenizer makes of the last characters depends on what follows.

    Raises:
        InputError: there are no such tokens, or as for :meth:`ChatEncoder.encode`.

    """
    role = "assistant" if messages and messages[-1].get("role") == "user" else "user"
    texts = [encode([*messages, {"role": role, "content": content}]) for content in _FOLLOWING]
    shared = list(takewhile(lambda tokens: len(set(tokens)) == 1, zip(*texts, strict=False)))
    if not shared:
        raise InputError("conversations of this model have no token in common at their beginning; give a system prompt")
    return [tokens[0] for tokens in shared]


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages as dictionaries, entries that are None left out.

    Raises:
        InputError: there are none, or one has no role.

    """
    if isinstance(messages, str | Mapping) or not messages:
        raise InputError('messages are a list of at least one, such as [{"role": "user", "content": "Hello"}]')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(
                f"message {number} of {len(messages)} is {str(message)[:100]!r}; it has to have a role, as in "
                '{"role": "user", "content": "Hello"}'
            )
    return [{key: value for key, value in message.items() if value is not None} for message in messages]
