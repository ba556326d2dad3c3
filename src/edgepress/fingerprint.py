"""Does one text hold another? Hashed n-grams of words, and a sketch of them of at most 16 KB.

Two texts share a passage when they share runs of 13 words (Brown et al. 2020, appendix C). A word is a run of letters
and digits in lower case, or one ideograph; each run of 13 is hashed to 32 bits, so that of B runs about
B · A / 2³² are found by chance among A others.

A :class:`Fingerprint` keeps the smallest hashes only (a bottom-k sketch; Cohen and Kaplan 2007): a text of up to
3,000 different runs is kept whole; of a longer one the kept ones are an even sample, and so are those of another text's
hashes that are not larger than the largest kept.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.schema import read_object

CALIBRATION_NAME = "calibration.json"
WORDS = 13
WORTH_WARNING = 0.01  # other texts of the same kind share 0.07 % (TinyStories) and 0.03 % (WikiText) at most
KEPT = 3000  # hashes: 16,000 characters of base64

Hashes = NDArray[np.uint32]

# Chinese and Japanese are written without spaces: there each sign counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_ALL = 0xFFFFFFFF
_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Fingerprint:
    """The ``KEPT`` smallest different hashes of a text, ascending, uint32 (≤ KEPT,)."""

    hashes: Hashes

    @property
    def largest(self) -> int:
        """Hashes above this were not kept."""
        return _ALL if self.hashes.size < KEPT else int(self.hashes[-1])


@dataclass(frozen=True)
class Leak:
    """What a text shares with the one of a fingerprint: of the runs of 13 words of each, the share in the other.

    ``of_evaluation`` counts repeated runs as often as they occur; ``of_calibration`` counts different ones.
    """

    of_evaluation: float
    of_calibration: float


def word_hashes(document: str) -> Hashes:
    """Hash of each run of 13 words in ``document``, (words − 12,); none for a shorter one."""
    words = _WORD.findall(document.lower())
    if len(words) < WORDS:
        return np.empty(0, np.uint32)
    known: dict[str, int] = {}
    for word in words:
        if word not in known:
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
    hashed = np.array([known[word] for word in words], np.uint64)  # (words,)
    runs = np.zeros(len(words) - WORDS + 1, np.uint64)
    for offset in range(WORDS):  # a polynomial in _BASE, modulo 2^64
        runs = runs * _BASE + hashed[offset : offset + len(runs)]
    # mixed, so that the upper half depends on all bits (the finalizer of splitmix64; Steele et al. 2014)
    runs = (runs ^ (runs >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    runs = (runs ^ (runs >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((runs ^ (runs >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def fingerprint(documents: Iterable[str]) -> Fingerprint:
    """Sketch ``documents``; memory is that of one document."""
    kept = np.empty(0, np.uint32)
    for document in documents:
        kept = np.unique(np.concatenate([kept, word_hashes(document)]))[:KEPT]
    return Fingerprint(kept)


def find_leak(calibration: Fingerprint, evaluation: Iterable[str]) -> Leak:
    """How much of ``evaluation`` is in the text of ``calibration``, and how much of that in ``evaluation``."""
    seen = np.zeros(calibration.hashes.size, bool)
    looked, found = 0, 0
    for document in evaluation:
        hashes = word_hashes(document)
        hashes = hashes[hashes <= calibration.largest]
        shared = np.isin(hashes, calibration.hashes)
        looked += hashes.size
        found += int(shared.sum())
        seen[np.searchsorted(calibration.hashes, hashes[shared])] = True
    return Leak(found / max(looked, 1), float(seen.mean()) if seen.size else 0.0)


def leak_warning(bundle: Path, evaluation: Iterable[str]) -> str | None:
    """One line when ``bundle`` was calibrated on a part of the text that it is scored on, else None."""
    known = read_fingerprint(bundle)
    if known is None:
        return None
    leak = find_leak(known, evaluation)
    if max(leak.of_evaluation, leak.of_calibration) < WORTH_WARNING:
        return None
    return (
        f"{bundle} was calibrated on a part of this text: of the runs of {WORDS} words, {leak.of_evaluation:.1%} of "
        f"the text's and {leak.of_calibration:.1%} of the calibration's are in both, so the score is too good; "
        "score on other text"
    )


def write_fingerprint(bundle: Path, found: Fingerprint) -> None:
    """Write ``calibration.json``, at most 16 KB."""
    content = {"words": WORDS, "hashes": base64.b64encode(found.hashes.astype("<u4").tobytes()).decode("ascii")}
    (bundle / CALIBRATION_NAME).write_text(json.dumps(content, sort_keys=True) + "\n", encoding="utf-8")


def read_fingerprint(bundle: Path) -> Fingerprint | None:
    """Read ``calibration.json`` of a bundle; None when it has none, as when it was not calibrated on text.

    Raises:
        InputError: the file is not as :func:`write_fingerprint` writes it.

    """
    path = bundle / CALIBRATION_NAME
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = read_object(path, "export the bundle again")
        if content["words"] != WORDS:
            raise ValueError(f"it has runs of {content['words']} words, this edgepress reads runs of {WORDS}")
        hashes = np.frombuffer(base64.b64decode(content["hashes"], validate=True), "<u4").astype(np.uint32)
        if hashes.size > KEPT or (np.diff(hashes.astype(np.int64)) <= 0).any():
            raise ValueError("its hashes are not in order")
    except KeyError as error:
        raise InputError(f"{path} has no entry {error}; export the bundle again") from error
    except (OSError, ValueError, TypeError, binascii.Error) as error:
        raise InputError(f"{path} cannot be read: {error}; export the bundle again") from error
    return Fingerprint(hashes)
