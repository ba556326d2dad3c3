"""tokenizer.json made of what a GGUF file says of its tokenizer: byte-level BPE ("gpt2") or SentencePiece's ("llama").

SentencePiece's BPE has scores in the place of merges: two neighbours are merged into the piece with the highest one, so
that every way to cut a piece into two pieces is a merge, and pieces come in the order of their scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgepress.errors import InputError
from edgepress.exporter.source.formats.gguf.file import Header
from edgepress.text.tokenizer import library_errors

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_KEY = "tokenizer.ggml."
_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6  # kinds of tokens; 1 is a plain one, 5 is unused
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_DIGITS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3, _QWEN2 = _DIGITS.format(digits="{1,3}"), _DIGITS.format(digits="")
_SPLITS: Mapping[str, tuple[str, ...]] = {  # what a text is cut at before merges, by ``tokenizer.ggml.pre``
    **dict.fromkeys(("gpt-2", "phi-2"), (_GPT2,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), (r"\p{N}", _GPT2)),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "dbrx", "smaug-bpe", "falcon3", "lfm2"), (_LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), (_QWEN2,)),
}
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "lfm2")  # a word that is a token is not merged
_COMPOSED = ("qwen2", "deepseek-r1-qwen", "stablelm2")  # NFC before all
_SPACE = "▁"


def tokenizer_files(header: Header) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and generation_config.json.

    Raises:
        InputError: the tokenizer is of a kind that is not read; the message names the key.

    """
    model = header.values.get(f"{_KEY}model")
    tokens = header.values.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not tokens:
        raise InputError(f"{header.path}: it has no tokenizer ({_KEY}tokens); export the original checkpoint")
    if len({*tokens}) != len(tokens):
        raise InputError(f"{header.path}: {_KEY}tokens has one token twice; convert it again")
    kinds = header.values.get(f"{_KEY}token_type")
    kinds = kinds if isinstance(kinds, list) and len(kinds) == len(tokens) else [1] * len(tokens)
    if model not in ("gpt2", "llama"):
        raise InputError(
            f"{header.path}: {_KEY}model = {model!r} is not read; gpt2 and llama are. Export the original checkpoint"
        )
    with library_errors(f"the tokenizer in {header.path} cannot be used", "convert it again, or export the original"):
        found = _byte_level(header, tokens) if model == "gpt2" else _sentencepiece(header, tokens, kinds)
        _add_tokens(header, found, tokens, kinds)
    named = {name: tokens[number] for name, number in _named(header, len(tokens)).items()}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    if isinstance(template := header.values.get("tokenizer.chat_template"), str):
        config["chat_template"] = template
    return {
        "tokenizer.json": found.to_str(pretty=False).encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "generation_config.json": json.dumps(_ids(header, len(tokens))).encode(),
    }


def _byte_level(header: Header, tokens: Sequence[str]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pre = header.values.get(f"{_KEY}pre")
    splits = _SPLITS.get(pre) if isinstance(pre, str) else None
    if splits is None:
        raise InputError(
            f"{header.path}: {_KEY}pre = {pre!r}: how texts are cut is not known; {', '.join(sorted(_SPLITS))} are. "
            "Export the original checkpoint"
        )
    pairs = header.values.get(f"{_KEY}merges")
    merges = [tuple(pair.split(" ", 1)) for pair in pairs if isinstance(pair, str)] if isinstance(pairs, list) else []
    vocabulary = {token: number for number, token in enumerate(tokens)}
    whole = [(pair[0], pair[1]) for pair in merges if len(pair) == 2]
    model = models.BPE(vocabulary, whole, ignore_merges=pre in _WHOLE_WORDS)
    found = Tokenizer(model)
    if pre in _COMPOSED:
        found.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(split), "isolated") for split in splits]
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found.pre_tokenizer = pre_tokenizers.Sequence([*cuts, bytes_of])
    found.decoder = decoders.ByteLevel()
    return found


def _sentencepiece(header: Header, tokens: Sequence[str], kinds: Sequence[int]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = header.values.get(f"{_KEY}scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise InputError(f"{header.path}: {_KEY}scores must be {len(tokens)} numbers, one for each token")
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == _UNKNOWN), None)
    model = models.BPE(
        {token: number for number, token in enumerate(tokens)},
        _merges(tokens, kinds, scores),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    found = Tokenizer(model)
    prefixed = header.values.get(f"{_KEY}add_space_prefix", True)
    before = [normalizers.Prepend(_SPACE)] if prefixed else []
    found.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefixed else []
    found.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after])
    return found


def _merges(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """Every pair of pieces that make up a piece, those of the highest score first.

    Of one score: longer left parts first, as transformers has it; which of two ways makes a piece says nothing of the
    outcome.
    """
    plain = {
        token: (score, number)
        for number, (token, kind, score) in enumerate(zip(tokens, kinds, scores, strict=True))
        if kind not in (_UNKNOWN, _CONTROL, _USER, _BYTE)
    }
    found = [
        (-score, -cut, number, token[:cut], token[cut:])
        for token, (score, number) in plain.items()
        for cut in range(1, len(token))
        if token[:cut] in plain and token[cut:] in plain
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _add_tokens(header: Header, found: Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Tokens that are seen whole in a text, and what begins every text."""
    from tokenizers import AddedToken, processors

    special = [AddedToken(token, special=True, normalized=False)
               for token, kind in zip(tokens, kinds, strict=True) if kind in (_CONTROL, _UNKNOWN)]  # fmt: skip
    found.add_special_tokens(special)
    users = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _USER]
    found.add_tokens([AddedToken(token, special=False, normalized=False) for token in users])
    pre = header.values.get(f"{_KEY}pre")
    default = header.values.get(f"{_KEY}model") == "llama" or pre in _WHOLE_WORDS
    bos = _named(header, len(tokens)).get("bos_token")
    if bos is not None and header.values.get(f"{_KEY}add_bos_token", default):
        text = tokens[bos]
        found.post_processor = processors.TemplateProcessing(
            single=f"{text}:0 $A:0", pair=f"{text}:0 $A:0 {text}:1 $B:1", special_tokens=[(text, bos)]
        )


def _named(header: Header, count: int) -> dict[str, int]:
    """Ids of tokens that have a name."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {name: header.values.get(f"{_KEY}{key}_token_id") for key, name in names.items()}
    return {name: number for name, number in found.items() if isinstance(number, int) and 0 <= number < count}


def _ids(header: Header, count: int) -> dict[str, object]:
    """What a generation config says: what begins a text, and all that may end it."""
    ends = [header.values.get(f"{_KEY}{key}_token_id") for key in ("eos", "eot", "eom")]
    whole = [number for number in ends if isinstance(number, int) and 0 <= number < count]
    bos = _named(header, count).get("bos_token")
    found: dict[str, object] = {} if bos is None else {"bos_token_id": bos}
    return found | ({"eos_token_id": list(dict.fromkeys(whole))} if whole else {})
