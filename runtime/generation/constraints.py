"""Answers of a given form: a JSON schema, a regular expression, a Lark grammar, or one of several texts.

llguidance says at each step which tokens may come next; all others are given no probability. Where only one text can
come next, such as the name of a required property, its tokens are appended at once, without a step for each.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.generation.exact_numbers import misread_number
from edgepress.runtime.generation.penalties import Floats

if TYPE_CHECKING:
    from pathlib import Path

    from llguidance import LLTokenizer

_LARGEST = 1 << 20  # characters of a grammar
_REASON = 300  # characters of what the library says
_REMEDY = "pip install 'edgepress[structured]'"
_NAMES_A_TOKEN = 0xFF  # no byte of UTF-8: llguidance writes tokens that a grammar names so


@dataclass(frozen=True)
class Constraint:
    """What an answer has to be: ``grammar`` as llguidance reads it, and ``what`` it is, for messages.

    ``is_all`` says that it is all that the model writes, thoughts and calls of tools included, as a grammar may name
    their tokens; other forms are what the model says, behind thoughts that its template has begun.
    """

    grammar: str
    what: str
    is_all: bool = False

    @classmethod
    def json_schema(cls, schema: Mapping[str, Any] | str) -> Constraint:
        """JSON that a schema allows, without spaces between its parts; ``{}`` allows any.

        Raises:
            InputError: ``schema`` is no JSON object, llguidance cannot read it or would read other numbers, or is not
                installed.

        """
        try:
            content = json.loads(schema) if isinstance(schema, str) else dict(schema)
            text = json.dumps(content)
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"the JSON schema is no JSON object ({error}); give one such as an API has") from error
        if not isinstance(content, dict):
            raise InputError(f"the JSON schema is {text[:100]}, and a schema is an object; give one")
        if number := misread_number(content):
            raise InputError(
                f"the JSON schema has {number}, which llguidance, whose numbers are floats of 64 bits, would take for "
                f"another; write it as a text, or give one of at most 15 digits"
            )
        matcher = _library().LLMatcher
        try:
            grammar = matcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        except ValueError as error:  # its reader knows no NaN, and takes 127 levels
            raise InputError(f"the JSON schema cannot be read by llguidance ({error}); change it") from error
        return cls(_bounded(grammar), "the JSON schema")

    @classmethod
    def regex(cls, expression: str) -> Constraint:
        """A text that a regular expression (Rust's syntax, without looking around) matches as a whole."""
        return cls(
            _bounded(_library().LLMatcher.grammar_from_regex(expression)), f"the expression {expression[:100]!r}"
        )

    @classmethod
    def lark(cls, grammar: str, what: str = "the grammar") -> Constraint:
        """A text of a grammar in Lark's notation, whose rule ``start`` is all of it; ``what`` is for messages."""
        return cls(_bounded(_library().LLMatcher.grammar_from_lark(grammar)), what, is_all=True)

    @classmethod
    def choice(cls, texts: Sequence[str]) -> Constraint:
        """One of several texts.

        Raises:
            InputError: there are none, or one is empty.

        """
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise InputError(f"the choice is {texts!r}; give a list of texts that are not empty")
        rules = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
        return cls(_bounded(_library().LLMatcher.grammar_from_lark(f"start: {rules}")), f"the choice of {len(texts)}")


def _bounded(grammar: str) -> str:
    if len(grammar) > _LARGEST:
        raise InputError(f"a grammar of {len(grammar):,} characters, at most {_LARGEST:,} are read; give a smaller one")
    return grammar


def is_installed() -> bool:
    """Whether answers can be held to a form here."""
    return importlib.util.find_spec("llguidance") is not None


def _library() -> Any:
    try:
        import llguidance
    except ModuleNotFoundError as error:
        raise InputError(f"answers of a given form need llguidance, which is not installed; {_REMEDY}") from error
    return llguidance


def _reason(said: str) -> str:
    """What llguidance says is wrong, in one line, without the state of its parser and the lines that it quotes."""
    lines = [line.strip() for line in said.partition("<state>")[0].splitlines() if line.strip()]
    if not lines or lines[0].isalnum():  # the name of what stopped its parser, such as NoExtensionBias
        return "no token can come next" + "".join(f" ({line})" for line in lines[:1])
    precise = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]  # of an expression
    return (precise or lines)[0][:_REASON]


def token_table(tokenizer: Path, vocabulary: int, eos: frozenset[int]) -> LLTokenizer:
    """What llguidance needs to know of a bundle's ``tokenizer.json``; it is made once for a model.

    Raises:
        InputError: llguidance is not installed, or cannot read the tokenizer.

    """
    library = _library()
    try:
        made: LLTokenizer = library.LLTokenizer(
            str(tokenizer.absolute()), n_vocab=vocabulary, eos_token=sorted(eos) or None
        )
    except ValueError as error:
        raise InputError(
            f"{tokenizer} cannot be used for answers of a given form: {str(error)[:_REASON]}; leave the form out"
        ) from error
    return made


class Form(Protocol):
    """What holds an answer to a form, token by token."""

    @property
    def is_over(self) -> bool:
        """Whether the answer is whole and nothing can follow."""

    @property
    def is_unfinished(self) -> bool:
        """Whether the answer, if it ended here, would not have its form."""

    def masked(self, logits: Floats) -> Floats:
        """``logits`` (vocab,) with −∞ for every token that may not come next."""

    def take(self, token: int) -> list[int]:
        """Go on by a token; return what has to be appended for it: the token, and those that can only follow."""


class Matcher:
    """One answer, token by token, of one form from its beginning to its end."""

    def __init__(self, table: LLTokenizer, constraint: Constraint) -> None:
        self._matcher, self._constraint = _library().LLMatcher(table, constraint.grammar, log_level=0), constraint
        self._table = table
        self._bits: NDArray[np.int32] = np.zeros((table.vocab_size + 31) // 32, np.int32)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise InputError(
                f"{self._constraint.what} cannot be met: {_reason(str(self._matcher.get_error()))}; change it"
            )

    @property
    def is_over(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def is_unfinished(self) -> bool:
        """Whether the answer, if it ended here, would not have its form."""
        return not (self.is_over or self._matcher.is_accepting())

    @property
    def warnings(self) -> list[str]:
        """What of the form llguidance does not hold an answer to."""
        return [str(one).strip()[:_REASON] for one in self._matcher.get_grammar_warnings()]

    def masked(self, logits: Floats) -> Floats:
        """``logits`` (vocab,) with −∞ for every token that may not come next.

        Raises:
            InputError: none may.

        """
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little", count=logits.size).view(bool)
        ways = int(np.count_nonzero(allowed))
        if not ways:
            raise InputError(f"{self._constraint.what} cannot be met by any token of the vocabulary; change it")
        if ways == 1 and (plain := self._in_place_of(only := int(allowed.argmax()))) is not None:
            allowed[[only, plain]] = False, True
        return np.where(allowed, logits, np.float32(-np.inf))

    def take(self, token: int) -> list[int]:
        """Go on by a token; return it and those that have to follow, which are taken as well."""
        self._matcher.consume_token(token)
        self._check()
        return [token, *self.forced()]

    def after(self, token: int) -> Matcher | None:
        """The form after one more token, beside this one, which stays as it is; None where that may not come."""
        if self._matcher.validate_tokens([token]) != 1:
            return None
        other = copy(self)
        other._matcher = self._matcher.deep_copy()
        other._matcher.consume_token(token)
        other._check()
        return other

    def forced(self) -> list[int]:
        """The tokens that can only come now, taken."""
        taken: list[int] = []
        while not self.is_over and (tokens := [int(one) for one in self._matcher.compute_ff_tokens()]):
            fit = self._matcher.validate_tokens(tokens)
            plain = None if fit else self._in_place_of(tokens[0])
            tokens = tokens[:fit] or (tokens if plain is None else [plain])
            self._matcher.consume_tokens(tokens)
            self._check()
            taken += tokens
        return taken

    def _in_place_of(self, token: int) -> int | None:
        """What begins the text that has to come as characters, where ``token`` would be a special token of that text.

        A text that must come, such as ``<b>`` in an expression, is made of tokens by the tokenizer, to which it may be
        one of its own; a form means characters, and would take no such token. None where the token may come.
        """
        text = b"" if self._matcher.validate_tokens([token]) else self._matcher.compute_ff_bytes()
        if not text or text[0] == _NAMES_A_TOKEN:
            return None
        return int(self._table.greedy_tokenize(text.decode("utf-8", "ignore"))[0])

    def begin_anew(self, text: str) -> bool:
        """Begin the form again, by a text that is there; False, and nothing taken, where it begins otherwise."""
        self._matcher.reset()
        tokens = self._table.tokenize_str(text)
        if self._matcher.validate_tokens(tokens) < len(tokens):
            return False
        self._matcher.consume_tokens(tokens)
        self._check()
        return True
