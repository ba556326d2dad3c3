"""Limits of a tokenizer: how much longer it may make a text.

A tokenizer.json is a small program. Rules that replace text can make it a thousand times longer, each; a regular
expression can take forever on the right text; and the library, when it runs out of memory, ends the process. What can
be counted is counted each time that one is read (:func:`check_growth`, microseconds). What cannot is tried once, when
a bundle is made and when it is first verified, in a process of its own (:mod:`.tokenizer_trial`).
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from edgepress.errors import InputError

LARGEST = 256 << 20  # bytes of a tokenizer's file: the largest vocabularies take 40 MB
MOST_GROWTH = 1000  # characters that one may become
MOST_ADDED = 1000  # tokens put around a text
_CHILDREN = ("normalizers", "pretokenizers", "processors", "decoders")
_UNICODE_GROWTH = 18  # U+FDFA in NFKC
TAKE_ANOTHER = "take the tokenizer from where the model came from"


def check_growth(library: Library, where: str | Path, remedy: str) -> None:
    """Check that no character becomes more than ``MOST_GROWTH``, and that few tokens are put around a text.

    Raises:
        InputError: one may. It names ``where``, the part and the number.

    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = _growth(_described(getattr(library, part)))
        if growth > MOST_GROWTH:
            raise InputError(
                f"{where}: its {part} may make one character {min(growth, 10**9):,} long or longer, and "
                f"{MOST_GROWTH:,} is the most that is taken; {remedy}"
            )
    added = _added(_described(library.post_processor))
    if added > MOST_ADDED:
        raise InputError(
            f"{where}: its post_processor puts {added:,} tokens around a text, and {MOST_ADDED:,} is the most that is "
            f"taken; {remedy}"
        )


def _described(part: Any) -> Mapping[str, Any]:
    """A part of the tokenizer as JSON has it, empty where there is none."""
    found: Mapping[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return found


def _children(part: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return next((part[key] for key in _CHILDREN if key in part), ())


def _growth(part: Mapping[str, Any]) -> int:
    """The most characters that a part makes of one."""
    kind = part.get("type")
    if kind == "Sequence":
        return math.prod(map(_growth, _children(part)))
    if kind in ("Replace", "Prepend"):
        return max(1, len(part.get("content", part.get("prepend", ""))))
    if kind in ("NFKC", "NFKD", "NFD"):
        return _UNICODE_GROWTH
    if kind == "Precompiled":
        return _longest(base64.b64decode(part.get("precompiled_charsmap") or ""))
    return 2 if kind == "ByteLevel" and "pretokenizers" not in part else 1


def _longest(charsmap: bytes) -> int:
    """The longest text in a SentencePiece map: a size in four bytes, a trie of that size, texts that end in 0."""
    texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    return max(1, *(len(text) for text in texts.split(b"\0")))


def _added(part: Mapping[str, Any]) -> int:
    """How many tokens a post-processor puts around one text, or around two."""
    if part.get("type") == "Sequence":
        return sum(map(_added, _children(part)))
    ids = {name: len(token["ids"]) for name, token in part.get("special_tokens", {}).items()}
    names = [[piece["SpecialToken"]["id"] for piece in part.get(key, ()) if "SpecialToken" in piece]
             for key in ("single", "pair")]  # fmt: skip
    return max((sum(ids.get(name, 1) for name in pieces) for pieces in names), default=0)
