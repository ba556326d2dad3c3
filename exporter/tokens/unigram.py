"""The unigram model (Kudo 2018, arXiv:1804.10959) as the tokenizers library computes it, and a part of it.

A text becomes the pieces with the highest sum of scores (Viterbi); a character that is no piece is unknown there, with
the least score of the vocabulary less 10, and then its bytes (``byte_fallback``) or the unknown token.

**Why encodings stay.** Keep a piece of the least score, so that unknown characters score as before. Take a text whose
best path has only kept pieces. Every other path of the smaller vocabulary was one of the larger too, but for those that
go over a dropped character as unknown: each of them scores less than the path over that character's piece did. So at
each place of the best path no candidate is better than it was, the chosen one is as good as it was, and of equal ones
the first still comes first: the path stays. No piece needs another.
"""

from collections.abc import Mapping

from edgepress.errors import InputError
from edgepress.exporter.tokens.bpe import BYTE_TOKENS


class Unigram:
    """The ``model`` of a tokenizer.json whose type is Unigram; see :class:`.bpe.Bpe` for the attributes."""

    def __init__(self, content: Mapping[str, object]) -> None:
        self._content = content
        vocab = content.get("vocab")
        if not isinstance(vocab, list) or not vocab or not all(map(_is_entry, vocab)):
            raise InputError(
                "tokenizer.json: a Unigram model needs a vocab of [piece, score]; save the tokenizer again"
            )
        self._entries = vocab
        self.tokens: dict[int, str] = {token: piece for token, (piece, _) in enumerate(vocab)}
        self.ids: dict[str, int] = {piece: token for token, piece in self.tokens.items()}
        if len(self.ids) < len(self.tokens):
            twice = next(piece for token, piece in self.tokens.items() if self.ids[piece] != token)
            raise InputError(f"tokenizer.json: the piece {twice!r} occurs twice; such a model cannot be pruned")
        has_bytes = bool(content.get("byte_fallback"))
        self.byte_tokens = frozenset(self.ids[name] for name in BYTE_TOKENS if has_bytes and name in self.ids)
        # without an unknown token the library refuses the text before it comes to bytes
        self.falls_back = len(self.byte_tokens) == len(BYTE_TOKENS) and self.unknown is not None

    @property
    def unknown(self) -> int | None:
        """The token of what has no token."""
        token = self._content.get("unk_id")
        return token if isinstance(token, int) else None

    @property
    def always(self) -> frozenset[int]:
        """A piece of the least score: what an unknown character scores follows from it."""
        return frozenset([min(self.tokens, key=lambda token: float(self._entries[token][1]))])

    def needs(self, token: int) -> frozenset[int]:
        """``token`` alone."""
        return frozenset([token])

    def pruned(self, new: Mapping[int, int]) -> dict[str, object]:
        """The model of the pieces that ``new`` (old id → new id) has."""
        vocab = [entry for old, entry in enumerate(self._entries) if old in new]
        unknown = self.unknown
        return {**self._content, "vocab": vocab, "unk_id": None if unknown is None else new[unknown]}


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], int | float)
    )
