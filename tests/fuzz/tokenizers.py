"""tokenizer.json made hostile: regular expressions without end, templates that multiply, numbers that do not fit."""

from random import Random

from .mutations import Raw, encode, mutate_json

_REGEXES = ("(a+)+$", "(x+x+)+y", "(?:a|a)*b", "(.*)*\\1$", "(?=(a+))\\1+b", "(" * 2000, "[", "\\", "a{1,1000}{1,1000}",
            "(?:" * 300 + "a" + ")*" * 300, "", "^", "\\p{X}", "(?<=a{1,100000})b")  # fmt: skip
_NUMBERS = (-1, 0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 10**9, 0.5, Raw("1e999"))
_LONG = "ab" * 500_000


def mutate_tokenizer(content: dict[str, object], random: Random) -> tuple[str, str]:
    """JSON text of a hostile tokenizer, and what is wrong with it."""
    if random.random() < 0.35:
        return mutate_json(content, random)
    name, changes = random.choice(list(_PARTS.items()))
    if name == "model":
        name, changes = "model", [{**dict(content["model"]), **change} for change in _models(random)]  # type: ignore[call-overload]
    change = random.choice(changes)
    said = f"{name} = {encode(change)[:100]}"
    wrapped = {
        "type": "Sequence",
        {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}.get(name, "x"): [change],
    }
    if name in ("normalizer", "pre_tokenizer") and random.random() < 0.2:
        change = wrapped
    return encode({**content, name: change}), said


def _split(regex: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def _replace(pattern: dict[str, str], by: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": by}


def _template(tokens: int, ids: list[object]) -> dict[str, object]:
    special = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [special] * tokens + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": ids, "tokens": ["<s>"] * len(ids)}},
    }


def _added(id_: object, content: str, **flags: bool) -> dict[str, object]:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": content, **usual, **flags}


def _models(random: Random) -> list[dict[str, object]]:
    return [
        {"vocab": {"a": random.choice(_NUMBERS), "b": random.choice(_NUMBERS)}, "merges": []},
        {"merges": [["a", "b"]] * 100_000},
        {"merges": [["nowhere", "no"]]},
        {"vocab": {}, "merges": []},
        {"dropout": random.choice(_NUMBERS)},
        {"unk_token": "nowhere", "fuse_unk": True},
        {"byte_fallback": True, "vocab": {"a": 0}, "merges": []},
        {"continuing_subword_prefix": _LONG},
        {"end_of_word_suffix": "é" * 1000},
        {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": random.choice(_NUMBERS), "byte_fallback": True},
        {"type": "Unigram", "vocab": [["a", Raw("1e308")], ["", -1.0], ["b", Raw("-1e308")]], "unk_id": 0},
        {"type": "Unigram", "vocab": [], "unk_id": None},
        {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "nowhere", "max_input_chars_per_word": 2**62},
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "nowhere"},
    ]


_CHARSMAPS = ("", "AAAA", "/////w==", "A" * 100_000, "BAAAAP////8=", "not base64")
_PARTS: dict[str, list[object]] = {
    "pre_tokenizer": [
        *map(_split, _REGEXES),
        {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False},
        {"type": "Metaspace", "replacement": "ab", "prepend_scheme": "always", "split": True},
        {"type": "CharDelimiterSplit", "delimiter": ""},
        {"type": "FixedLength", "length": 0},
        {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": True}] * 12},
        {"type": "Sequence", "pretokenizers": []},
    ],
    "normalizer": [
        *[_replace({"Regex": regex}, "b") for regex in _REGEXES],
        _replace({"String": ""}, "b"),
        _replace({"String": "a"}, _LONG),
        {"type": "Sequence", "normalizers": [_replace({"Regex": "."}, "aa")] * 30},
        {"type": "Sequence", "normalizers": [_replace({"String": "o"}, "oo")] * 40},
        {"type": "Prepend", "prepend": _LONG},
        *[{"type": "Precompiled", "precompiled_charsmap": charsmap} for charsmap in _CHARSMAPS],
    ],
    "post_processor": [
        _template(1, [10**9]),
        _template(1, [2**32 - 1] * 1000),
        _template(100_000, [1]),
        _template(1000, [1] * 1000),
        _template(1, [-1]),
        _template(0, []),
        {"type": "Sequence", "processors": [_template(10, [1] * 100)] * 20},
        {"type": "BertProcessing", "sep": ["</s>", 2**32 - 1], "cls": ["", 0]},
        {"type": "RobertaProcessing", "sep": ["", 0], "cls": ["", 0], "trim_offsets": True, "add_prefix_space": True},
    ],
    "decoder": [
        {"type": "Strip", "content": "a", "start": 2**40, "stop": 2**40},
        {"type": "Replace", "pattern": {"Regex": "(e+)+$"}, "content": "b"},
        {"type": "Replace", "pattern": {"String": "e"}, "content": _LONG},
        {"type": "Sequence", "decoders": [_replace({"String": "e"}, "ee")] * 40},
        {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
        {"type": "BPEDecoder", "suffix": ""},
        {"type": "ByteFallback"},
        {"type": "WordPiece", "prefix": "", "cleanup": True},
    ],
    "added_tokens": [
        [_added(10**9, "<x>")],
        [_added(2**32 - 1, "<x>")],
        [_added(2**32, "<x>")],
        [_added(-1, "<x>")],
        [_added(0, "")],
        [_added(0, "a", special=False, lstrip=True, rstrip=True)],
        [_added(0, "x" * 1_000_000)],
        [_added(number, f"<{number}>") for number in range(20_000)],
        [_added(0, "<s>"), _added(1, "<s>"), _added(2, "<s>")],
    ],
    "truncation": [
        {"direction": "Right", "max_length": number, "strategy": "LongestFirst", "stride": stride}
        for number in (0, 1, 2**63)
        for stride in (0, 5, 2**63)
    ],
    "padding": [
        {
            "strategy": {"Fixed": 10**10},
            "direction": "Right",
            "pad_to_multiple_of": 0,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "x",
        }
    ],
    "version": ["2.0", "", 1],
    "model": [],
}
