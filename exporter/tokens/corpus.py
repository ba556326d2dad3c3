"""Which tokens a corpus uses, and which of them a smaller vocabulary keeps."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.tokens.tokenizer import Vocabulary, byte_letters

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ROWS = 32  # the head's rows come in such blocks where that can be
_BATCH = 1 << 20  # characters that are encoded at a time
_COMMON = 0.05  # share of the corpus's letters and symbols from which on a script is its own
_SYMBOL = "So"  # Unicode's category of other symbols: emoji, arrows, signs
_BROKEN = 0.5  # share of a script's letters without a token from which on the tokenizer does not know it


@dataclass(frozen=True)
class Usage:
    """How often each token (``counts``, by id) and each character occurs in a corpus."""

    counts: NDArray[np.int64]
    characters: Mapping[str, int]

    @property
    def tokens(self) -> int:
        """Tokens of the whole corpus."""
        return int(self.counts.sum())


@dataclass(frozen=True)
class Choice:
    """Ids to keep, with all that they need; of them ``filled`` are there for the size, not for the corpus.

    ``coverage`` is the share of the corpus's tokens that are kept; ``warnings`` are lines for the user.
    """

    keep: frozenset[int]
    filled: int
    coverage: float
    warnings: tuple[str, ...] = field(default_factory=tuple)


def count_usage(documents: Iterable[str], library: "Tokenizer") -> Usage:
    """Encode ``documents`` as they come, some of them in memory; no special tokens are added."""
    counts = np.zeros(1 + max(library.get_vocab(with_added_tokens=True).values(), default=0), np.int64)
    characters: Counter[str] = Counter()
    for batch in _batches(documents):
        encodings = library.encode_batch_fast(batch, add_special_tokens=False)
        ids = np.array([token for encoding in encodings for token in encoding.ids], np.int64)
        counts += np.bincount(ids, minlength=len(counts))
        for text in batch:
            characters.update(text)
    return Usage(counts, characters)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Lists of documents, about ``_BATCH`` characters each."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def choose_tokens(
    vocabulary: Vocabulary, usage: Usage, *, size: int = 0, least: int = 1, always: Collection[int] = ()
) -> Choice:
    """The tokens that occur at least ``least`` times, the most frequent ones first, at most ``size`` of them (0: all).

    Each comes with what it needs; one for which that is too much is passed over. ``always`` and what every pruned
    tokenizer keeps come before. With a ``size``, places that are left go to rarer tokens of the corpus, then to those
    of the lowest ids (in trained vocabularies the most frequent ones) that only have the corpus's characters. The
    number is a multiple of 32 where that can be: ``size`` is rounded down to one, and without a ``size`` as many tokens
    are added.

    Raises:
        InputError: ``size`` is less than what must be kept; the smallest possible is named.

    """
    kept = set(vocabulary.closure(always) | vocabulary.required)
    if size and len(kept) > size:
        raise InputError(
            f"size is {size} tokens and at least {len(kept)} must stay (bytes, special tokens, what is always kept and "
            f"their parts); set size to {len(kept)} or more"
        )
    limit, before = size - size % ROWS if size - size % ROWS >= len(kept) else size, len(kept)
    counts = _by_id(usage.counts, vocabulary)
    frequent = [token for token in np.argsort(-counts, kind="stable").tolist() if counts[token] > 0]
    used = [token for token in frequent if counts[token] >= least]
    _add(vocabulary, kept, used, limit or len(vocabulary))
    by_corpus = len(kept)
    rest = [token for token in frequent if counts[token] < least]
    if size:
        _add(vocabulary, kept, [*rest, *_spelled(vocabulary, usage.characters)], limit)
    rounded = -(-len(kept) // ROWS) * ROWS
    _add(vocabulary, kept, [*rest, *vocabulary.tokens], min(rounded, limit or rounded))
    coverage = float(counts[sorted(kept)].sum() / max(1, counts.sum()))
    asked, found = limit - before, by_corpus - before
    warnings = [_too_small(usage, found, asked)] if size and found < asked / 2 else []
    return Choice(frozenset(kept), len(kept) - by_corpus, coverage, tuple(warnings))


def _by_id(counts: NDArray[np.int64], vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Counts of the vocabulary's tokens, 0 where it has none: (highest id + 1,)."""
    found = np.zeros(1 + max(vocabulary.tokens, default=0), np.int64)
    ids = np.array([token for token in vocabulary.tokens if token < len(counts)], np.int64)
    found[ids] = counts[ids]
    return found


def _add(vocabulary: Vocabulary, kept: set[int], tokens: Iterable[int], limit: int) -> None:
    """Add ``tokens`` with what they need, as they come and as they fit."""
    for token in tokens:
        if len(kept) >= limit:
            return
        if token not in kept:
            new = vocabulary.needs(token) - kept
            if len(kept) + len(new) <= limit:
                kept |= new


def _spelled(vocabulary: Vocabulary, characters: Mapping[str, int]) -> Iterator[int]:
    """Tokens that have no character but those of the corpus, by id."""
    known = {*characters, " "}
    return (token for token in vocabulary.tokens if (text := vocabulary.text(token)) and known.issuperset(text))


def _too_small(usage: Usage, found: int, asked: int) -> str:
    return (
        f"the corpus ({usage.tokens} tokens) is small for this size: it uses {found} of the {asked} tokens that it may "
        "choose; the others are chosen by their characters alone: give more text, or a smaller size"
    )


@dataclass(frozen=True)
class ScriptCost:
    """What a script costs: tokens for each of its letters in the corpus, and the share of them without a token.

    Symbols, such as emoji, count as letters of a script of their own.
    """

    script: str
    share: float  # of the corpus's letters and symbols
    tokens_per_character: float
    broken: float


def script_costs(characters: Mapping[str, int], vocabulary: Vocabulary, library: "Tokenizer") -> list[ScriptCost]:
    """Cost of each script's letters and marks, and of symbols, one by one, the most frequent script first.

    A letter that has no token of its own is written as bytes, alone as in any word, unless a longer token has it.
    """
    scripts: dict[str, list[tuple[str, int]]] = {}
    for letter, count in characters.items():
        if unicodedata.category(letter)[0] in "LM" or unicodedata.category(letter) == _SYMBOL:
            scripts.setdefault(_script(letter), []).append((letter, count))
    total = sum(count for letters in scripts.values() for _, count in letters)
    found = []
    for script, letters in scripts.items():
        sizes = [(_tokens_of(letter, vocabulary, library), count) for letter, count in letters]
        number = sum(count for _, count in letters)
        tokens, broken = sum(size * count for size, count in sizes), sum(count for size, count in sizes if size > 1)
        found.append(ScriptCost(script, number / total, tokens / number, broken / number))
    return sorted(found, key=lambda cost: (-cost.share, cost.script))


def script_warnings(costs: Sequence[ScriptCost]) -> list[str]:
    """One line for each script of the corpus that the tokenizer writes as bytes."""
    return [
        f"the tokenizer has no tokens for {cost.broken:.0%} of the {_letters(cost.script)}, {cost.share:.0%} of "
        f"the corpus's: a character costs {cost.tokens_per_character:.1f} tokens, and the model hardly knows them"
        for cost in costs
        if cost.share >= _COMMON and cost.broken >= _BROKEN
    ]


def _letters(script: str) -> str:
    return "symbols (emoji and the like)" if script == _SYMBOL else f"{script.lower()} letters"


def _script(letter: str) -> str:
    """The first word of a letter's name, which is its script's: LATIN, GREEK, CJK, HIRAGANA, DEVANAGARI …

    Symbols have no script; for them it is their category.
    """
    if unicodedata.category(letter) == _SYMBOL:
        return _SYMBOL
    return unicodedata.name(letter, "UNNAMED").split(" ")[0].split("-")[0]


def _tokens_of(letter: str, vocabulary: Vocabulary, library: "Tokenizer") -> int:
    """Tokens that the model makes of one character."""
    if vocabulary.byte_level:
        letters = {byte: written for written, byte in byte_letters().items()}
        letter = "".join(letters[byte] for byte in letter.encode())
    return len(library.model.tokenize(letter))
