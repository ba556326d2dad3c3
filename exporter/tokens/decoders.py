"""What makes text of tokens, in a tokenizer.json: which decoders do not ask where tokens end.

Of a text that is encoded into other tokens the decoder must make the same text. Byte-level decoders join the letters
of all tokens before they look at them. The others work token by token: a replacement of one character is the same
wherever tokens end, if that character is never written as bytes; runs of byte tokens become characters; what is
stripped is stripped from the whole text (after Fuse).
"""

from collections.abc import Mapping
from typing import Any

from edgepress.errors import InputError

_SPACE = "\u2581"  # SentencePiece's space


def steps(part: object) -> list[dict[str, Any]]:
    """A decoder, normalizer, pre-tokenizer or post-processor as the list of its steps."""
    if not isinstance(part, dict):
        return []
    inner = next((part[key] for key in ("decoders", "normalizers", "pretokenizers", "processors") if key in part), None)
    if part.get("type") != "Sequence" or not isinstance(inner, list):
        return [part]
    return [step for one in inner for step in steps(one)]


def types(part: object) -> list[object]:
    """Names of the steps of a part."""
    return [step.get("type") for step in steps(part)]


def looked_for(content: Mapping[str, object]) -> set[str]:
    """Characters that the decoder treats unlike others."""
    found = set()
    for step in steps(content.get("decoder")):
        if step.get("type") == "Replace":
            found.add(_replaced(step))
        elif step.get("type") == "Metaspace":
            found.add(str(step.get("replacement", _SPACE)))
    return found


def _replaced(step: Mapping[str, object]) -> str:
    """The one character that a Replace step replaces; more of them could lie in two tokens."""
    pattern = step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(text, str) or len(text) != 1:
        raise InputError(
            f"tokenizer.json: its decoder replaces {pattern!r}, so text depends on where tokens end; such a vocabulary "
            "cannot be pruned"
        )
    return text


def check_decoder(content: Mapping[str, object]) -> None:
    """Refuse decoders whose text depends on where tokens end."""
    found = steps(content.get("decoder"))
    if not found:
        raise InputError("tokenizer.json has no decoder, so text depends on where tokens end; it cannot be pruned")
    fused = False
    for step in found:
        kind, fits = step.get("type"), True
        if kind == "Replace":
            _replaced(step)
        elif kind == "Metaspace":
            _check_metaspace(content)
        elif kind == "ByteLevel":
            fits = "ByteLevel" in (*types(content.get("pre_tokenizer")), *types(content.get("normalizer")))
        elif kind not in ("ByteFallback", "Fuse"):
            fits = kind == "Strip" and fused
        if not fits:
            raise InputError(
                f"tokenizer.json: its decoder {kind} looks at where tokens end; such a vocabulary cannot be pruned"
            )
        fused = fused or kind == "Fuse"


def _check_metaspace(content: Mapping[str, object]) -> None:
    """The decoder drops every space of the first token: no token may have two, so the words must be split."""
    found = [step for step in steps(content.get("pre_tokenizer")) if step.get("type") == "Metaspace"]
    if not found or not all(step.get("split", True) for step in found):
        raise InputError(
            "tokenizer.json: its decoder Metaspace needs a pre-tokenizer Metaspace that splits words; such a "
            "vocabulary cannot be pruned"
        )
