"""Texts as the inputs of a graph: what :class:`~edgepress.tasks.text.Text` says, done."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.schema import read_bytes
from edgepress.tasks.text import Text
from edgepress.text.documents import check_unicode
from edgepress.text.tokenizer import library_errors, open_library
from edgepress.text.tokenizer_limits import LARGEST
from edgepress.whole import whole_number

_log = logging.getLogger("edgepress.texts")
Pair = tuple[str, str]
Feed = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Tokens:
    """One text, or a pair of them, as tokens: ids, which text each is of, where it stands, and whether it is added.

    ``offsets`` are characters of the text, (tokens, 2); ``special`` is true where a token is the tokenizer's own.
    ``words`` are numbers of the words that tokens are parts of, −1 for special ones.
    """

    ids: NDArray[np.int64]
    types: NDArray[np.int64]
    offsets: NDArray[np.int64]
    special: NDArray[np.bool_]
    words: NDArray[np.int64]


class Encoder:
    """The tokenizer of a task, which cuts texts as the task says, and says so once unless ``says_cut`` is false."""

    def __init__(self, text: Text, folder: Path, *, says_cut: bool = True) -> None:
        """Read the tokenizer that lies in ``folder``.

        Raises:
            InputError: it is missing or damaged.

        """
        path = folder / text.tokenizer
        again = "export the bundle again"
        self.text = text
        self._library = open_library(read_bytes(path, again, largest=LARGEST), path, again)
        self._library.no_padding()
        self._library.enable_truncation(text.longest)
        self._said = not says_cut

    def encode(self, texts: Sequence[object], prompt: str | None = None) -> list[Tokens]:
        """Each text as tokens, with the prompt of that name before it.

        What is beyond the longest text that the model reads is left out.

        Raises:
            InputError: one is no text, or there is no such prompt.

        """
        before = self._prompt(prompt)
        given = [_with_prompt(text, before) for text in texts]
        with library_errors("the tokenizer cannot encode a text", "give another one"):
            encodings = self._library.encode_batch(given)
            if not self._said and any(encoding.overflowing for encoding in encodings):
                self._said = True
                _log.warning(
                    "a text has more than the %d tokens that the model reads; what is beyond them is left out",
                    self.text.longest,
                )
            return [
                Tokens(
                    np.array(encoding.ids, np.int64),
                    np.array(encoding.type_ids, np.int64),
                    np.array(encoding.offsets, np.int64).reshape(-1, 2),
                    np.array(encoding.special_tokens_mask, bool),
                    np.array([-1 if word is None else word for word in encoding.word_ids], np.int64),
                )
                for encoding in encodings
            ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        with library_errors("the tokenizer cannot decode what the model says", "export the bundle again"):
            return str(self._library.decode(list(ids), skip_special_tokens=True))

    def token(self, id_: int) -> str:
        """What a token writes, as the vocabulary has it."""
        return str(self._library.id_to_token(id_))

    def _prompt(self, name: str | None) -> str:
        name = self.text.prompt if name is None else name
        if name is None:
            return ""
        if name not in self.text.prompts:
            raise InputError(f"there is no prompt {name!r}; there are {', '.join(self.text.prompts) or 'none'}")
        return self.text.prompts[name]


def _with_prompt(text: object, before: str) -> str | Pair:
    if isinstance(text, str):
        check_unicode(text, "the text")
        return before + text
    if isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text):
        first, second = text
        check_unicode(first, "the text")
        check_unicode(second, "the text")
        return before + first, second
    raise InputError(f"a text is a str, or a pair of them as a tuple, not {type(text).__name__}")


def text_feed(tokens: Sequence[Tokens], text: Text, kinds: dict[str, str]) -> Feed:
    """The inputs for a batch of texts, each (batch, tokens), padded at the task's side.

    ``kinds`` has each input's type by its name.
    """
    length = text.length or max(part.ids.size for part in tokens)
    inputs: dict[str | None, NDArray[np.int64]] = {
        text.ids: np.full((len(tokens), length), text.pad, np.int64),
        text.mask: np.zeros((len(tokens), length), np.int64),
        text.types: np.zeros((len(tokens), length), np.int64),
    }
    for row, part in enumerate(tokens):
        where = slice(0, part.ids.size) if text.side == "right" else slice(length - part.ids.size, length)
        for name, values in ((text.ids, part.ids), (text.mask, 1), (text.types, part.types)):
            inputs[name][row, where] = values
    return {name: values.astype(kinds[name]) for name, values in inputs.items() if name is not None}


def by_length(tokens: Sequence[Tokens], batch: int) -> list[list[int]]:
    """Numbers of the texts in batches of at most ``batch``, texts of about one length in each.

    Raises:
        InputError: ``batch`` is no number of texts.

    """
    batch = whole_number("batch", batch)
    ranked = sorted(range(len(tokens)), key=lambda index: tokens[index].ids.size)
    return [ranked[start : start + batch] for start in range(0, len(ranked), batch)]
