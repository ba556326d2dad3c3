"""Hostile tokenizers: what may grow without end, go on without end or end the process is refused before it is used."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from edgepress.errors import InputError
from edgepress.text import tokenizer_trial
from edgepress.text.tokenizer import read_tokenizer
from edgepress.text.tokenizer_trial import try_tokenizer

GPT2 = r"'(?:s|t)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def written(folder: Path, **parts: object) -> Path:
    """A small byte-level tokenizer with some parts replaced."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Tokenizer(models.BPE(vocab={sign: number for number, sign in enumerate(signs)}, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    content = json.loads(library.to_str()) | parts
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def split(regex: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def replaced(pattern: dict[str, str], content: str) -> dict[str, object]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def template(pieces: int, ids: int) -> dict[str, object]:
    special = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    token = {"id": "<s>", "ids": [1] * ids, "tokens": ["a"] * ids}
    single = [special] * pieces + [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {"<s>": token}}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [replaced({"String": "a"}, "aa")] * 40}}, "normalizer may"),
        ({"normalizer": replaced({"Regex": "."}, "b" * 5000)}, "normalizer may make one character 5,000 long"),
        ({"normalizer": {"type": "Prepend", "prepend": "b" * 1_000_000}}, "normalizer may"),
        ({"decoder": {"type": "Sequence", "decoders": [replaced({"String": "e"}, "eee")] * 30}}, "decoder may"),
        ({"post_processor": template(100_000, 1)}, "post_processor puts 100,000 tokens around a text"),
        ({"post_processor": {"type": "Sequence", "processors": [template(10, 100)] * 20}}, "puts 20,000 tokens"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "cannot be read: Precompiled"),
        ({"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}, "cannot be read"),
    ],
)
def test_what_can_be_counted_is_refused_when_it_is_read(tmp_path: Path, parts: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_tokenizer(written(tmp_path, **parts))
    assert len(str(error.value)) < 600


def test_usual_parts_are_taken(tmp_path: Path) -> None:
    sentencepiece = {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": "▁"}, replaced({"String": " "}, "▁")],
    }
    parts: dict[str, object] = {"normalizer": sentencepiece, "post_processor": template(1, 1), "decoder": None}
    assert read_tokenizer(written(tmp_path, **parts)).vocabulary == 256


@pytest.mark.parametrize("regex", ["(a+)+$", "(?:a|a)*b", r"(?:\s|\s)*x", "(a|a){0,21}c|a"])
def test_an_expression_that_backtracks_for_ever_is_refused(
    tmp_path: Path, regex: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sooner = f"import {tokenizer_trial.__name__} as program; program._TEXT_SECONDS = 1; "
    monkeypatch.setattr(tokenizer_trial, "_TRIAL", sooner + tokenizer_trial._TRIAL)
    with pytest.raises(InputError, match=r"tokenizer\.json: (it gives up on a text|a trial with .* took more than)"):
        try_tokenizer(written(tmp_path, pre_tokenizer=split(regex)))


def test_an_expression_that_is_written_with_escapes_is_tried_too(tmp_path: Path) -> None:
    path = written(tmp_path, pre_tokenizer=split("(a+)+$")) / "tokenizer.json"
    path.write_text(path.read_text().replace('"Regex"', '"\\u0052egex"'))
    with pytest.raises(InputError, match="it gives up on a text"):
        try_tokenizer(tmp_path)


def test_a_usual_expression_passes_its_trial(tmp_path: Path) -> None:
    try_tokenizer(written(tmp_path, pre_tokenizer=split(GPT2)))


def test_a_panic_on_a_text_is_an_input_error(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(written(tmp_path, pre_tokenizer=split("(a+)+$")))
    with pytest.raises(InputError, match="cannot encode this text: Onig: Regex search error"):
        tokenizer.encode("a" * 40 + "!")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"add_bos_token": "yes"}, "add_bos_token: Expected `bool | null`"),
        ({"bos_token": 7}, "bos_token: Expected"),
        ({"bos_token": {"content": None}}, "bos_token.content: Expected `str`"),
        ([], "holds a JSON list"),
    ],
)
def test_a_hostile_tokenizer_config_is_named(tmp_path: Path, config: object, message: str) -> None:
    (written(tmp_path) / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        read_tokenizer(tmp_path)
