"""A checkpoint's whole tokenizer, held against transformers' own conversion of the same folder."""

import codecs
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import decide, export
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.tokens.source_tokenizer import (
    compare_with_transformers,
    source_tokenizer,
    tokenizer_files,
    whole_tokenizer,
)
from edgepress.text.tokenizer import read_tokenizer
from tests.tiny_models import save
from tests.tokenizers_of_all_kinds import KINDS, content_of

FLAGS = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
NEW = ("<|begins|>", "<|ends|>", " stop ")

Files = dict[str, dict[str, object]]


def entry(content: str, **flags: bool) -> dict[str, object]:
    return {"content": content, **FLAGS, **flags}


def table(first: int, *entries: Mapping[str, object]) -> dict[str, object]:
    return {str(first + index): dict(one) for index, one in enumerate(entries)}


# By name: the files beside a tokenizer.json whose next free id is `n` and one of whose tokens is `piece`.
DECLARED: dict[str, Callable[[int, str], Files]] = {
    "added_tokens_decoder": lambda n, _: {
        "tokenizer_config.json": {"added_tokens_decoder": table(n, entry(NEW[0]), entry(NEW[1])), "eos_token": NEW[1]}
    },
    "every flag": lambda n, _: {
        "tokenizer_config.json": {
            "added_tokens_decoder": table(
                n,
                entry(NEW[0], lstrip=True),
                entry(NEW[1], rstrip=True, single_word=True),
                entry(NEW[2], special=False, normalized=True),
            )
        }
    },
    "added_tokens.json": lambda n, _: {"added_tokens.json": {NEW[1]: n + 1, NEW[0]: n}, "tokenizer_config.json": {}},
    "added_tokens.json, some named": lambda n, _: {
        "added_tokens.json": {NEW[0]: n, NEW[1]: n + 1, NEW[2]: n + 2},
        "special_tokens_map.json": {"eos_token": NEW[1], "additional_special_tokens": [NEW[0]]},
    },
    "special_tokens_map.json": lambda _, piece: {
        "special_tokens_map.json": {
            "pad_token": entry("[PAD]", rstrip=True),
            "bos_token": {"content": "[BOS]", "lstrip": False, "rstrip": False, "normalized": True},
            "eos_token": piece,
            "additional_special_tokens": list(NEW[:2]),
        }
    },
    "the table makes other files old": lambda n, _: {
        "tokenizer_config.json": {"added_tokens_decoder": table(n, entry(NEW[0]))},
        "added_tokens.json": {NEW[1]: n + 5},
        "special_tokens_map.json": {"pad_token": "[PAD]"},
    },
    "additional_special_tokens": lambda _, __: {
        "tokenizer_config.json": {"additional_special_tokens": list(NEW[:2]), "pad_token": NEW[0]}
    },
    "extra_special_tokens, a list": lambda _, __: {"tokenizer_config.json": {"extra_special_tokens": list(NEW[:2])}},
    "extra_special_tokens, by name": lambda _, __: {
        "tokenizer_config.json": {"extra_special_tokens": {"image_token": NEW[0]}, "audio_token": NEW[1]}
    },
    "extra_special_tokens in both": lambda _, __: {
        "tokenizer_config.json": {"extra_special_tokens": [NEW[0]]},
        "special_tokens_map.json": {
            "extra_special_tokens": [{"content": NEW[1], "rstrip": True}],
            "eos_token": "[EOS]",
        },
    },
    "named in the vocabulary, not special": lambda _, piece: {"tokenizer_config.json": {"eos_token": piece}},
    "order of names": lambda _, __: {
        "tokenizer_config.json": {"pad_token": "[PAD]", "image_token": NEW[0], "eos_token": "[EOS]"},
        "special_tokens_map.json": {"bos_token": "[BOS]"},
    },
    "a token that is no text": lambda n, _: {
        "tokenizer_config.json": {"added_tokens_decoder": table(n, entry("")), "eos_token": None}
    },
}


def write(folder: Path, kind: str, files: Callable[[int, str], Files]) -> Checkpoint:
    """A folder with a tokenizer of that kind; the returned checkpoint has no weights."""
    content = content_of(kind)
    library = Tokenizer.from_str(json.dumps(content))
    vocabulary = library.get_vocab(with_added_tokens=True)
    added = {token.content for token in library.get_added_tokens_decoder().values()}
    piece = max((text for text in vocabulary if text not in added), key=lambda text: (len(text), text))
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    for name, values in files(len(vocabulary), piece).items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    return Checkpoint(folder, {}, {}, ())


LARGE = ("phi-3-mini", "gpt2")  # a second each: with the three that have most of the others in them
FOR_LARGE = ("every flag", "special_tokens_map.json", "extra_special_tokens in both")
WHOLE = [(kind, name) for kind in KINDS for name in DECLARED if kind not in LARGE or name in FOR_LARGE]


@pytest.mark.parametrize(("kind", "declared"), WHOLE)
def test_the_whole_tokenizer_is_transformers_own_conversion(kind: str, declared: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path, kind, DECLARED[declared])
    whole = whole_tokenizer(checkpoint)
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours, theirs = json.loads(whole.content), json.loads(reference.backend_tokenizer.to_str())
    if whole.completed:
        assert ours == theirs
    else:
        assert ours == content_of(kind)
        assert ours["added_tokens"] == theirs["added_tokens"]
    library = source_tokenizer(checkpoint).library
    for special in (*NEW, "[PAD]", "[EOS]", "[BOS]", *(token["content"] for token in ours["added_tokens"])):
        for text in (special, f"say{special}it", f"say {special} it, {special}{special}"):
            expected = reference(text, add_special_tokens=False)["input_ids"]
            assert library.encode(text, add_special_tokens=False).ids == expected, text


def test_a_tokenizer_that_has_every_token_is_shipped_byte_for_byte(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "byte level", lambda *_: {"tokenizer_config.json": {}})
    before = (tmp_path / "tokenizer.json").read_bytes()
    assert whole_tokenizer(checkpoint).completed == ()
    assert tokenizer_files(checkpoint)["tokenizer.json"] == before


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (lambda n, _: {"tokenizer_config.json": {"added_tokens_decoder": table(n + 20, entry("<x>"))}}, "entries"),
        (lambda _, __: {"tokenizer_config.json": {"added_tokens_decoder": table(0, entry("<x>"))}}, "has '"),
        (lambda _, __: {"added_tokens.json": {"<x>": 1}}, "token 1 is '<x>'"),
        (lambda n, _: {"added_tokens.json": {"<x>": n + 3}}, "entries"),
        (lambda _, __: {"added_tokens.json": {"<x>": -1}}, "no token's id"),
        (lambda _, __: {"added_tokens.json": {"<x>": 10**12}}, "no token's id"),
        (lambda _, __: {"tokenizer_config.json": {"added_tokens_decoder": {"many": entry("<x>")}}}, "no token's id"),
        (lambda _, __: {"tokenizer_config.json": {"added_tokens_decoder": ["<x>"]}}, "must be an object"),
        (lambda n, _: {"tokenizer_config.json": {"added_tokens_decoder": {str(n): {"lstrip": True}}}}, "is no token"),
        (lambda _, __: {"tokenizer_config.json": {"eos_token": 2}}, "is no token"),
        (lambda _, __: {"tokenizer_config.json": {"extra_special_tokens": [3]}}, "is no token"),
    ],
)
def test_tokens_that_contradict_each_other_are_refused(
    files: Callable[[int, str], Files], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        whole_tokenizer(write(tmp_path, "byte level", files))


def declare(model: Path) -> list[str]:
    """Give the tiny llama a chat's tokens, which only tokenizer_config.json names; its embedding has rows for them."""
    library = Tokenizer.from_file(str(model / "tokenizer.json"))
    entries = library.get_vocab_size(with_added_tokens=True)
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["added_tokens_decoder"] = table(entries, entry(NEW[0]), entry(NEW[1]))
    (model / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return [f"{NEW[0]}hello{NEW[1]}", *NEW[:2]]


def test_a_bundle_sees_the_tokens_that_only_the_settings_name(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    texts = declare(model)
    export(model, out=tmp_path / "bundle")
    shipped, reference = read_tokenizer(tmp_path / "bundle"), PreTrainedTokenizerFast.from_pretrained(model)
    for text in texts:
        assert shipped.encode_plain(text) == reference(text, add_special_tokens=False)["input_ids"]
    assert len(shipped.encode_plain(NEW[0])) == 1


def test_a_plan_refuses_tokens_that_contradict_each_other(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    (model / "added_tokens.json").write_text('{"<x>": 9000}', encoding="utf-8")
    settings = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": None}))
    with pytest.raises(InputError, match="9000"):
        decide(model, target="arm64-cpu", recipe="int4")


def in_python(model: Path) -> Path:
    """Leave vocabulary and merges, as checkpoints have them that were saved without a tokenizer.json."""
    Tokenizer.from_file(str(model / "tokenizer.json")).model.save(str(model))
    (model / "tokenizer.json").unlink()
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    return model


def test_a_vocabulary_with_merges_becomes_a_tokenizer(tmp_path: Path) -> None:
    model = save("gpt2", tmp_path / "model")
    original = Tokenizer.from_file(str(model / "tokenizer.json"))
    export(in_python(model), out=tmp_path / "bundle")
    shipped = read_tokenizer(tmp_path / "bundle")
    for text in ("To be, or not to be", "slings and arrows: Ünïcödé, 1234", "\n\n  x"):
        assert shipped.encode_plain(text) == original.encode(text, add_special_tokens=False).ids


def test_a_sentencepiece_file_that_cannot_be_converted_says_what_to_do(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(b"no protobuf")
    with pytest.raises(InputError, match=r"pip install sentencepiece, or save it there with transformers"):
        export(model, out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_check_compares_the_tokenizer_with_transformers_own(tmp_path: Path) -> None:
    model = save("llama", tmp_path / "model")
    declare(model)
    manifest = export(model, out=tmp_path / "bundle", check=True)
    assert manifest.parity is not None
    assert manifest.parity["texts_tokenized_alike"] == 2 * 5  # three tokens of its own, two of its settings
    path = tmp_path / "bundle" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"] = content["added_tokens"][:-1]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckFailed, match="the bundle's tokenizer gives"):
        compare_with_transformers(tmp_path / "bundle", Checkpoint.open(model))


def test_a_byte_order_mark_is_no_part_of_a_tokenizers_files(tmp_path: Path) -> None:
    files = {"tokenizer_config.json": {"add_bos_token": False}, "added_tokens.json": {}}
    checkpoint = write(tmp_path, "byte level", lambda *_: files)
    expected = tokenizer_files(checkpoint)
    for name in expected:
        (tmp_path / name).write_bytes(codecs.BOM_UTF8 + (tmp_path / name).read_bytes())
    assert tokenizer_files(checkpoint) == expected
    assert source_tokenizer(checkpoint).encode("a text") == read_tokenizer(tmp_path).encode("a text")
