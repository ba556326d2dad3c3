"""A tokenizer.json with fewer tokens, which encodes what it can as before and decodes everything as before.

Two promises, for any set of tokens to keep, each proved where the model is (:mod:`.bpe`, :mod:`.unigram`):

1. A text whose encoding has only kept tokens is encoded alike, ids renumbered.
2. Any text is still encoded, and what it is encoded to is decoded to what it was before.

The second rests on tokens that are always kept, and on decoders that do not ask where tokens end. A byte-level
tokenizer keeps its 256 letters: text is spelled with them, and decoded from the string that tokens make together.
One with byte fallback keeps its byte tokens and the characters that its decoder looks for (``▁``): a character that is
dropped becomes its bytes, all of them, and those become the character. Any other keeps every token of one character.
(One text is excepted: of a Unigram with byte fallback the library takes a byte token's name, typed in a text, for that
byte. ``<0xE2>`` was lost before; now dropped characters beside it are too, because the run of bytes is no UTF-8.)

What comes before the model (added tokens, normalizer, pre-tokenizer) stays as it is, so the model sees the same words.
Tokenizers of which this cannot be said are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.tokens.bpe import Bpe
from edgepress.exporter.tokens.decoders import check_decoder, looked_for, types
from edgepress.exporter.tokens.unigram import Unigram

_SAVE_AGAIN = "save the tokenizer again, or leave the step out"
_SPACE = "\u2581"  # SentencePiece's space


@dataclass(frozen=True)
class PrunedTokenizer:
    """``content`` of the new tokenizer.json; ``kept`` int64 (new tokens,): new id → old id, ascending."""

    content: dict[str, object]
    kept: NDArray[np.int64]

    def serialize(self) -> bytes:
        """The file's bytes: the same content gives the same."""
        return json.dumps(self.content, ensure_ascii=False, indent=1).encode()


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a tokenizer.json, and what each needs. Made by :func:`read_vocabulary`."""

    content: Mapping[str, object]
    model: Bpe | Unigram
    added: Mapping[int, str]  # added tokens that have a row in the embedding, those of the model among them
    byte_level: bool
    left_out: tuple[str, ...] = ()  # added tokens that have none
    _needs: dict[int, frozenset[int]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def tokens(self) -> dict[int, str]:
        """Every token by id, in ascending order."""
        found = {**self.model.tokens, **self.added}
        return {token: found[token] for token in sorted(found)}

    @cached_property
    def required(self) -> frozenset[int]:
        """What is always kept, with what that needs: the second promise rests on it."""
        model = self.model
        unknown = frozenset() if model.unknown is None else frozenset([model.unknown])
        named = _named(self.content)
        return self.closure({*self.added, *named, *unknown, *model.always, *model.byte_tokens, *self._spelling()})

    def _spelling(self) -> Iterator[int]:
        """Tokens that any text can be spelled with."""
        if self.byte_level:
            yield from (self.model.ids[letter] for letter in byte_letters() if letter in self.model.ids)
        elif _writes_bytes(self.content, self.model):
            yield from (self.model.ids[one] for one in looked_for(self.content) if one in self.model.ids)
        else:
            yield from (token for token, text in self.model.tokens.items() if len(text) == 1)

    def needs(self, token: int) -> frozenset[int]:
        """``token`` and those without which text would not be encoded to it."""
        if token not in self._needs:
            own = token in self.model.tokens
            self._needs[token] = self.model.needs(token) if own else frozenset([token])
        return self._needs[token]

    def closure(self, tokens: Iterable[int]) -> frozenset[int]:
        """``tokens`` with all that they need.

        Raises:
            InputError: one of them is none of the vocabulary.

        """
        found: set[int] = set()
        for token in tokens:
            if token not in self.tokens:
                raise InputError(f"token {token} is to be kept, and tokenizer.json has none of that id")
            found |= self.needs(token)
        return frozenset(found)

    def text(self, token: int) -> str | None:
        """What a token of the model writes; None for part of a character, a byte or an added token."""
        if token in self.added or token in self.model.byte_tokens:
            return None
        written = self.model.tokens[token]
        if not self.byte_level:
            return written.replace(_SPACE, " ")
        letters = byte_letters()
        try:
            return bytes(letters[letter] for letter in written).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            return None


@cache
def byte_letters() -> Mapping[str, int]:
    """The letters by which byte-level tokenizers write bytes (GPT-2's): printable ones as they are, others moved."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in sorted(printable)} | {chr(256 + n): byte for n, byte in enumerate(moved)}


def read_vocabulary(content: Mapping[str, object], *, rows: int | None = None) -> Vocabulary:
    """Read a parsed tokenizer.json. ``rows`` of the embedding: added tokens beyond them are left out.

    Raises:
        InputError: the model, or what its decoder does, cannot be pruned with the promises kept; or ids are not what
            the tokenizers library makes of them; or a token of the model has no row.

    """
    model = _read_model(content.get("model"))
    pre = {*types(content.get("pre_tokenizer")), *types(content.get("normalizer"))}
    byte_level = "ByteLevel" in pre and types(content.get("decoder")) == ["ByteLevel"]
    check_decoder(content)
    if isinstance(model, Unigram) and (byte_level or not _writes_bytes(content, model)):
        _check_spelled(model, content)
    added = {entry["id"]: entry["content"] for entry in _entries(content)}
    _check_ids(content, {**model.tokens, **added})
    limit = 1 + max([*model.tokens, *added], default=0) if rows is None else rows
    beyond = [token for token in model.tokens if token >= limit]
    if beyond:
        raise InputError(
            f"tokenizer.json has token {max(beyond)} ({model.tokens[max(beyond)]!r}), the model's vocabulary has "
            f"{limit}; the tokenizer belongs to another checkpoint"
        )
    left_out = tuple(text for token, text in added.items() if token >= limit)
    kept = {token: text for token, text in added.items() if token < limit}
    return Vocabulary(content, model, kept, byte_level, left_out)


def prune_tokenizer(vocabulary: Vocabulary, keep: Iterable[int]) -> PrunedTokenizer:
    """The tokenizer with the tokens ``keep``, what they need and what is always kept, numbered from 0 on.

    The result is read by the tokenizers library and compared with the old one, token by token.

    Raises:
        InputError: a token is not there, or the library numbers the new tokens in another way.

    """
    kept = np.array(sorted(vocabulary.closure(keep) | vocabulary.required), np.int64)
    new = {int(old): index for index, old in enumerate(kept)}
    content = dict(vocabulary.content)
    content["model"] = vocabulary.model.pruned(new)
    content["added_tokens"] = [{**entry, "id": new[entry["id"]]} for entry in _entries(content) if entry["id"] in new]

    def renumber(old: object) -> int:
        return new[cast("int", old)]  # required, so kept

    content["post_processor"] = _renumbered(content.get("post_processor"), renumber)
    content["padding"] = _padding(content, renumber)
    _check_ids(content, {index: vocabulary.tokens[old] for old, index in new.items()})
    return PrunedTokenizer(content, kept)


def _read_model(model: object) -> Bpe | Unigram:
    if not isinstance(model, dict):
        raise InputError(f"tokenizer.json has no model; {_SAVE_AGAIN}")
    kind = model.get("type") or ("BPE" if "merges" in model else "Unigram" if "unk_id" in model else "WordPiece")
    if kind == "BPE":
        return Bpe(model)
    if kind == "Unigram":
        return Unigram(model)
    raise InputError(
        f"tokenizer.json: a vocabulary of type {kind} cannot be pruned, only BPE and Unigram; {_SAVE_AGAIN}"
    )


def _entries(content: Mapping[str, object]) -> list[dict[str, Any]]:
    """The added tokens, each {"id", "content", …}."""
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("id"), int) and isinstance(e.get("content"), str) for e in entries
    ):
        raise InputError(f"tokenizer.json: added_tokens must be objects with id and content; {_SAVE_AGAIN}")
    return entries


def _writes_bytes(content: Mapping[str, object], model: Bpe | Unigram) -> bool:
    """Whether a character without a token becomes bytes, and these the character again."""
    return model.falls_back and "ByteFallback" in types(content.get("decoder"))


def _check_spelled(model: Unigram, content: Mapping[str, object]) -> None:
    """Without bytes each character of a piece must be a piece: else it is known in one word and unknown in another."""
    extra = {entry["content"] for entry in _entries(content)}
    for token, piece in model.tokens.items():
        missing = next((letter for letter in piece if letter not in model.ids), None)
        if missing is not None and piece not in extra and token != model.unknown and token not in model.byte_tokens:
            raise InputError(
                f"tokenizer.json: {missing!r} occurs in the piece {piece!r} and is none itself, and there are no byte "
                "tokens to write it with; such a vocabulary cannot be pruned"
            )


def _renumbered(part: object, new: Callable[[object], int]) -> object:
    """A post-processor with new ids: of templates, and of Bert's and Roberta's."""
    if not isinstance(part, dict):
        return part
    found = dict(part)
    if isinstance(processors := found.get("processors"), list):
        found["processors"] = [_renumbered(one, new) for one in processors]
    if isinstance(special := found.get("special_tokens"), dict):
        found["special_tokens"] = {
            name: {**entry, "ids": [new(old) for old in entry["ids"]]} for name, entry in special.items()
        }
    for key in ("sep", "cls"):
        if isinstance(pair := found.get(key), list) and len(pair) == 2:
            found[key] = [pair[0], new(pair[1])]
    return found


def _padding(content: Mapping[str, object], new: Callable[[object], int]) -> object:
    padding = content.get("padding")
    return {**padding, "pad_id": new(padding.get("pad_id"))} if isinstance(padding, dict) else padding


def _named(content: Mapping[str, object]) -> set[int]:
    """Tokens that the post-processor and the padding name by id."""
    found: set[int] = set()

    def note(token: object) -> int:
        if not isinstance(token, int):
            raise InputError(f"tokenizer.json: its post_processor or padding names token {token!r}; {_SAVE_AGAIN}")
        found.add(token)
        return token

    _renumbered(content.get("post_processor"), note)
    _padding(content, note)
    return found


def _check_ids(content: Mapping[str, object], tokens: Mapping[int, str]) -> None:
    """Hold that the tokenizers library gives each token its id, and has no others."""
    from tokenizers import Tokenizer

    try:
        library = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"tokenizer.json cannot be read: {error}") from error
    found = library.get_vocab(with_added_tokens=True)
    expected = {text: token for token, text in tokens.items()}
    if found != expected or len(expected) < len(tokens):
        names = sorted({*found, *expected}, key=lambda text: expected.get(text, -1))
        odd = next((text for text in names if found.get(text) != expected.get(text)), names[-1])
        raise InputError(
            f"tokenizer.json: {odd!r} should have id {expected.get(odd)}, and the tokenizers library gives it "
            f"{found.get(odd)}; such a vocabulary cannot be pruned"
        )
