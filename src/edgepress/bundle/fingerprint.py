"""Whether one long text is in another, from a table of hashed runs of words that gives away no word of either.

Two texts share a passage when they share runs of 13 words (Brown et al. 2020, appendix C). A word is a run of letters
and digits in lower case, or one ideograph; each run of 13 is hashed to 64 bits.

Whoever has a bundle can compute the same hashes, and try every word after twelve that they know. So a
:class:`Fingerprint` keeps little of them:

- of 24 different runs one is looked at, one with a small hash (a bottom-k sketch; Cohen and Kaplan 2007);
- of that only its place in a table of bits, one in 64 of which is set (a Bloom filter with one hash; Bloom 1970): of
  20,000 words that could come next 13 fit by chance, and 23 runs of 24 are not in it at all. The whole table holds a
  third of a bit for each word of the text, of the several that a word has;
- nothing of a text of fewer than 1,000 different runs.

Chance is counted out of what is found: a text is called known only where chance is a bad explanation.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.schema import convert, read_object

CALIBRATION_NAME = "calibration.json"
WORDS = 13
WORTH_WARNING = 0.01  # other texts of the same kind share 0.07 % (TinyStories) and 0.03 % (WikiText) at most
FEWEST = 1000  # different runs of a text of which anything is kept
KEPT = 1500  # runs: 16,000 characters of base64
_OF = 24  # one run of so many is looked at
_BITS = 64  # bits of the table for each run that is kept
_CHANCE = 1e-5  # what is found is called chance unless that is less likely

Hashes = NDArray[np.uint64]

# Chinese and Japanese are written without spaces: there each sign counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_LARGEST = (1 << 64) // _OF - 1  # hashes above this are never looked at
_LOW = np.uint64(0xFFFFFFFF)
_AGAIN = "export the bundle again"
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Fingerprint:
    """``table`` bool (size,), of which the runs with a hash of at most ``largest`` set one bit each."""

    table: NDArray[np.bool_]
    largest: int

    def look_up(self, hashes: Hashes) -> NDArray[np.bool_]:
        """Whether the bit of each hash is set: of all runs of the text, and of one in 64 others."""
        return self.table[_places(hashes, self.table.size)]


@dataclass(frozen=True)
class Leak:
    """What a text shares with the one of a fingerprint: of the runs of 13 words of each, the share in the other.

    Both are estimates, and 0 where chance explains what was found. ``of_evaluation`` counts repeated runs as often as
    they occur; ``of_calibration`` counts different ones.
    """

    of_evaluation: float
    of_calibration: float


@dataclass(frozen=True)
class _Written:
    """The entries of ``calibration.json``: the table packed and in base64."""

    words: int
    largest: Annotated[int, Meta(ge=0, le=_LARGEST)]
    table: str


class _OlderError(InputError):
    """What edgepress 0.1 wrote, which kept too much; it is not read."""


def word_hashes(document: str) -> Hashes:
    """Hash of each run of 13 words in ``document``, (words − 12,); none for a shorter one."""
    words = _WORD.findall(document.lower())
    if len(words) < WORDS:
        return np.empty(0, np.uint64)
    known: dict[str, int] = {}
    for word in words:
        if word not in known:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
    hashed = np.array([known[word] for word in words], np.uint64)  # (words,)
    runs = np.zeros(len(words) - WORDS + 1, np.uint64)
    for offset in range(WORDS):  # a polynomial in _BASE, modulo 2^64
        runs = runs * _BASE + hashed[offset : offset + len(runs)]
    # mixed, so that each half depends on all bits (the finalizer of splitmix64; Steele et al. 2014)
    runs = (runs ^ (runs >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    runs = (runs ^ (runs >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return runs ^ (runs >> np.uint64(31))


def _places(hashes: Hashes, size: int) -> NDArray[np.intp]:
    """Bits of a table, by the lower half: the upper one decides which hashes are looked at."""
    return ((hashes & _LOW) % np.uint64(size)).astype(np.intp)


def fingerprint(documents: Iterable[str]) -> Fingerprint | None:
    """Sketch ``documents``, None when they are too short for it; memory is that of one document."""
    runs = kept = np.empty(0, np.uint64)
    for document in documents:
        hashes = word_hashes(document)
        if runs.size < FEWEST:
            runs = np.unique(np.concatenate([runs, hashes]))
        kept = np.unique(np.concatenate([kept, hashes[hashes <= _LARGEST]]))[: KEPT + 1]
    if runs.size < FEWEST or not kept.size:
        return None
    largest = _LARGEST if kept.size <= KEPT else int(kept[KEPT]) - 1
    kept = kept[:KEPT]
    table = np.zeros(kept.size * _BITS, bool)
    table[_places(kept, table.size)] = True
    return Fingerprint(table, largest)


def find_leak(calibration: Fingerprint, evaluation: Iterable[str]) -> Leak:
    """How much of ``evaluation`` is in the text of ``calibration``, and how much of that in ``evaluation``."""
    pieces = [np.empty(0, np.uint64)]
    for document in evaluation:
        hashes = word_hashes(document)
        pieces.append(hashes[hashes <= calibration.largest])
    looked, counts = np.unique(np.concatenate(pieces), return_counts=True)
    hit = calibration.look_up(looked)
    chance = float(calibration.table.mean())
    if _is_chance(int(hit.sum()), chance * looked.size):
        return Leak(0.0, 0.0)
    above = float(hit.sum()) - chance * looked.size  # different runs
    shared = above / (1 - chance)
    known = -calibration.table.size * math.log1p(-chance)  # runs that set the bits, those that set the same one too
    of_evaluation = (float(counts[hit].sum()) / float(counts.sum()) - chance) / (1 - chance)
    return Leak(min(max(of_evaluation, 0.0), 1.0), min(shared / known, 1.0))


def _is_chance(hits: int, expected: float) -> bool:
    """Whether so many hits are no surprise: Chernoff's bound on P(X ≥ hits) of a Poisson distribution."""
    if hits <= expected:
        return True
    return hits * math.log(hits / expected) - hits + expected < -math.log(_CHANCE)


def leak_warning(bundle: Path, evaluation: Iterable[str]) -> str | None:
    """One line when ``bundle`` was calibrated on a part of the text that it is scored on, else None."""
    try:
        known = read_fingerprint(bundle)
    except _OlderError as error:
        return f"{error}. Whether it holds this text is not known"
    if known is None:
        return None
    leak = find_leak(known, evaluation)
    if max(leak.of_evaluation, leak.of_calibration) < WORTH_WARNING:
        return None
    return (
        f"{bundle} was calibrated on a part of this text: of the runs of {WORDS} words, about {leak.of_evaluation:.0%} "
        f"of the text's and {leak.of_calibration:.0%} of the calibration's are in both, so the score is too good; "
        "score on other text"
    )


def write_fingerprint(bundle: Path, found: Fingerprint) -> None:
    """Write ``calibration.json``, at most 16 KB."""
    table = base64.b64encode(np.packbits(found.table).tobytes()).decode("ascii")
    content = {"words": WORDS, "largest": found.largest, "table": table}
    (bundle / CALIBRATION_NAME).write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def read_fingerprint(bundle: Path) -> Fingerprint | None:
    """Read ``calibration.json`` of a bundle; None when it has none: not calibrated on text, or on a short one.

    Raises:
        InputError: the file is not as :func:`write_fingerprint` writes it.

    """
    path = bundle / CALIBRATION_NAME
    if not path.is_file():
        return None
    content = read_object(path, _AGAIN)
    if "hashes" in content:
        raise _OlderError(f"{path} (of 0.1) has hashes from which the text can be guessed; {_AGAIN}")
    written = convert(content, _Written, path, _AGAIN)
    try:
        if written.words != WORDS:
            raise ValueError(f"it has runs of {written.words} words, this edgepress reads runs of {WORDS}")
        packed = base64.b64decode(written.table, validate=True)
        table = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(bool)
        if not 0 < table.sum() < table.size or table.size > KEPT * _BITS:
            raise ValueError(f"a table of {table.size} bits, {table.sum()} of them set")
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}; {_AGAIN}") from error
    return Fingerprint(table, written.largest)
