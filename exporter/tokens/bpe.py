"""Byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) as the tokenizers library computes it, and a part of it.

A word becomes symbols: its characters where the vocabulary has them, else their bytes (``byte_fallback``) or the
unknown token. Then, again and again, of all neighbours that have a merge the ones of the least rank (the leftmost of
equals) become one symbol. With ``ignore_merges`` a word that is a token itself becomes that token at once.

**What a token needs.** No merge of a run reaches across the borders of a token that is there at its end. So within
those borders the run took the same merges, in the same order, as if the token's own string were encoded: that
derivation, the only one by which text can give the token, is what :meth:`Bpe.needs` follows. A token that its own
string does not give comes out of no merges, and needs nothing.

**Why encodings stay.** Of a vocabulary with all that its tokens need, keep every merge whose parts and result are in
it, in the same order. Take a text whose encoding has only kept tokens. Each merge of its run belongs to the derivation
of one of them, so it is kept. At each step the kept merges are some of all merges, the chosen one among them, so it is
still the least; and where no merge was left, none is left. By induction both runs are the same. A word that
``ignore_merges`` made one token is that token still, and one that was none is none.
"""

from collections.abc import Mapping
from itertools import pairwise

from edgepress.errors import InputError

BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))

_REFUSED = ("continuing_subword_prefix", "end_of_word_suffix")  # a symbol would depend on its place in the word


class Bpe:
    """The ``model`` of a tokenizer.json whose type is BPE.

    ``tokens`` are its own, by id; ``falls_back`` says that characters without a token become bytes, all of which have
    one; ``byte_tokens`` are those.
    """

    def __init__(self, content: Mapping[str, object]) -> None:
        self._content = content
        for key in _REFUSED:
            if content.get(key):
                raise InputError(
                    f"tokenizer.json: BPE with {key} {content[key]!r} cannot be pruned; leave its step out"
                )
        vocab, merges = content.get("vocab"), content.get("merges")
        if not isinstance(vocab, dict) or not isinstance(merges, list):
            raise InputError("tokenizer.json: a BPE model needs vocab and merges; save the tokenizer again")
        if odd := next((text for text, token in vocab.items() if not isinstance(token, int)), None):
            raise InputError(f"tokenizer.json: {odd!r} has id {vocab[odd]!r}, which is no number; save it again")
        self.ids: dict[str, int] = vocab
        self.tokens: dict[int, str] = {token: text for text, token in vocab.items()}
        self._merges = [(_pair(merge), merge) for merge in merges]
        self._ranks = {pair: rank for rank, (pair, _) in enumerate(self._merges)}  # of equals the last, as there
        has_bytes = bool(content.get("byte_fallback"))
        self.byte_tokens = frozenset(vocab[name] for name in BYTE_TOKENS if has_bytes and name in vocab)
        merged_bytes = any(part in BYTE_TOKENS for pair in self._ranks for part in pair)
        self.falls_back = len(self.byte_tokens) == len(BYTE_TOKENS) and not merged_bytes

    @property
    def unknown(self) -> int | None:
        """The token of what has no token."""
        token = self._content.get("unk_token")
        return self.ids[token] if isinstance(token, str) and token in self.ids else None

    @property
    def always(self) -> frozenset[int]:
        """Tokens without which other text would be encoded in another way: none here."""
        return frozenset()

    def needs(self, token: int) -> frozenset[int]:
        """``token`` and every symbol that becomes part of it when text is encoded."""
        text = self.tokens[token]
        symbols = self._symbols(text)
        found = set(symbols)
        while len(symbols) > 1:
            ranked = [(self._ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self._ranks]
            if not ranked:
                return frozenset([token])
            _, at = min(ranked)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            found.add(symbols[at])
        return frozenset(self.ids[symbol] for symbol in found) if symbols == [text] else frozenset([token])

    def _symbols(self, text: str) -> list[str]:
        """What a word begins as; characters that are unknown stay as they are, and nothing merges with them."""
        found: list[str] = []
        for character in text:
            bytes_ = [BYTE_TOKENS[byte] for byte in character.encode("utf-8", "surrogatepass")]
            as_bytes = self.byte_tokens and all(self.ids.get(name) in self.byte_tokens for name in bytes_)
            found += bytes_ if character not in self.ids and as_bytes else [character]
        return found

    def pruned(self, new: Mapping[int, int]) -> dict[str, object]:
        """The model of the tokens that ``new`` (old id → new id) has, with every merge among them."""
        vocab = {self.tokens[old]: new[old] for old in sorted(self.tokens) if old in new}
        merges = [merge for (a, b), merge in self._merges if a in vocab and b in vocab and a + b in vocab]
        return {**self._content, "vocab": vocab, "merges": merges}


def _pair(merge: object) -> tuple[str, str]:
    """Two strings, or one with a space between them, as older files have it."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise InputError(f"tokenizer.json: merge {merge!r} is not two tokens; save the tokenizer again")
    return parts[0], parts[1]
