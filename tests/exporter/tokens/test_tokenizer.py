"""Pruned tokenizers: encode alike where only kept tokens are used, and lose no text anywhere."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers_of_all_kinds import (
    BYTES,
    KINDS,
    PROSE,
    SENTENCE_PIECE,
    content_of,
    library_of,
    plain,
    text_of_every_script,
)

from edgepress.errors import InputError
from edgepress.exporter.tokens.tokenizer import PrunedTokenizer, Vocabulary, prune_tokenizer, read_vocabulary

LARGE = ("phi-3-mini", "gpt2")  # they take a second


def check_promises(old: Tokenizer, pruned: PrunedTokenizer, texts: list[str]) -> set[str]:
    """Hold both promises on ``texts``; returns those of them that are encoded alike."""
    new = plain(pruned.serialize().decode())
    kept, alike = {int(token): index for index, token in enumerate(pruned.kept)}, set()
    for text, before, after in zip(texts, old.encode_batch(texts), new.encode_batch(texts), strict=True):
        if set(before.ids) <= kept.keys():
            assert after.ids == [kept[token] for token in before.ids], repr(text)
            alike.add(text)
        assert new.decode(after.ids) == old.decode(before.ids), repr(text)
        assert new.decode(after.ids, skip_special_tokens=False) == old.decode(before.ids, skip_special_tokens=False)
    return alike


def some_tokens(vocabulary: Vocabulary, share: float, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [token for token in vocabulary.tokens if generator.random() < share]


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_every_script_comes_back_and_what_is_kept_is_encoded_alike(kind: str) -> None:
    vocabulary, old = read_vocabulary(content_of(kind)), library_of(kind)
    words = [word for line in PROSE.split("\n") for word in (line, *line.split(" "))]
    shares = (0.0, 0.9) if kind in LARGE else (0.0, 0.3, 0.9)
    for seed, share in enumerate(shares):
        pruned = prune_tokenizer(vocabulary, some_tokens(vocabulary, share, seed))
        alike = check_promises(old, pruned, [*text_of_every_script(seed), *words])
        assert share < 0.9 or sum(word in alike for word in words) > 10
        assert len(pruned.kept) < len(vocabulary) or share == 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_whose_tokens_are_kept_is_encoded_alike(kind: str) -> None:
    vocabulary, old = read_vocabulary(content_of(kind)), library_of(kind)
    texts = [*PROSE.split("\n"), *text_of_every_script(7)[:: 40 if kind in LARGE else 5]]
    for text in texts:
        pruned = prune_tokenizer(vocabulary, set(old.encode(text).ids))
        assert check_promises(old, pruned, [text]) == {text}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in LARGE])
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1), seed=st.integers(0, 2**16), texts=st.lists(st.text(max_size=40), max_size=10))
def test_any_tokens_and_any_text(kind: str, share: float, seed: int, texts: list[str]) -> None:
    vocabulary = read_vocabulary(content_of(kind))
    check_promises(library_of(kind), prune_tokenizer(vocabulary, some_tokens(vocabulary, share, seed)), texts)


@st.composite
def merges(draw: st.DrawFn) -> dict[str, object]:
    """Any merges at all over three letters, in any order of rank: far less orderly than trained ones."""
    vocab = {"a": 0, "b": 1, "c": 2}
    pairs: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(1, 14))):
        known = st.sampled_from(sorted(vocab))
        pair = (draw(known), draw(known))
        pairs.append(pair)
        vocab.setdefault("".join(pair), len(vocab))
    pairs = draw(st.permutations(pairs))
    extra = draw(st.lists(st.text("abc", min_size=1, max_size=5), max_size=3))  # tokens that no merge may give
    for token in extra:
        vocab.setdefault(token, len(vocab))
    model = {
        "type": "BPE",
        "vocab": vocab,
        "merges": [list(pair) for pair in pairs],
        "ignore_merges": draw(st.booleans()),
    }
    return bare(model)


@st.composite
def pieces(draw: st.DrawFn) -> dict[str, object]:
    """Pieces of any score, many of the same, with letters that are none and bytes to write those with."""
    scores = st.sampled_from([-1.0, -2.0, -3.0, -30.0, 0.0, 2.5])
    texts = draw(st.lists(st.text("abcd", min_size=1, max_size=4), min_size=1, max_size=14, unique=True))
    vocab = [["<unk>", 0.0], *([text, draw(scores)] for text in texts), *([name, -2.0] for name in BYTES)]
    return bare({"type": "Unigram", "vocab": vocab, "unk_id": 0, "byte_fallback": True})


def bare(model: dict[str, object]) -> dict[str, object]:
    """A tokenizer that is hardly more than its model."""
    decoder = json.loads(SENTENCE_PIECE["decoder"].__getstate__())
    return {"version": "1.0", "added_tokens": [], "decoder": decoder, "model": model} | dict.fromkeys(
        ("normalizer", "pre_tokenizer", "post_processor", "truncation", "padding")
    )


@settings(max_examples=400, deadline=None)
@given(content=merges() | pieces(), data=st.data())
def test_any_model_and_any_of_its_tokens(content: dict[str, object], data: st.DataObject) -> None:
    vocabulary, old = read_vocabulary(content), Tokenizer.from_str(json.dumps(content))
    texts = data.draw(st.lists(st.text("abcd", max_size=12), min_size=1, max_size=6))
    used = old.encode(texts[0]).ids
    chosen = data.draw(st.lists(st.sampled_from(sorted(vocabulary.tokens)), max_size=10))
    assert texts[0] in check_promises(old, prune_tokenizer(vocabulary, [*used, *chosen]), texts)


def test_a_token_needs_the_parts_of_its_own_derivation_and_no_others() -> None:
    vocab = {text: token for token, text in enumerate(["a", "b", "c", "ab", "bc", "abc", "cb"])}
    order = [["b", "c"], ["a", "b"], ["ab", "c"], ["a", "bc"]]  # bc comes first, so abc is a + bc
    vocabulary = read_vocabulary(bare({"type": "BPE", "vocab": vocab, "merges": order}))
    assert vocabulary.needs(vocab["abc"]) == {vocab[text] for text in ("a", "b", "c", "bc", "abc")}
    assert vocabulary.needs(vocab["cb"]) == {vocab["cb"]}  # no text gives it
    pruned = prune_tokenizer(vocabulary, [vocab["abc"]])
    assert pruned.kept.tolist() == [0, 1, 2, 4, 5]
    assert pruned.content["model"]["merges"] == [["b", "c"], ["a", "bc"]]


def test_what_an_unknown_letter_scores_does_not_change() -> None:
    scores = {"<unk>": 0.0, "ab": -14.0, "bb": -14.0, "b": -14.0, "bbbb": 0.0, "a": -60.0} | dict.fromkeys(BYTES, -2.0)
    content = bare({"type": "Unigram", "vocab": [*map(list, scores.items())], "unk_id": 0, "byte_fallback": True})
    vocabulary, old = read_vocabulary(content), Tokenizer.from_str(json.dumps(content))
    used = old.encode("abbbb").ids
    assert [vocabulary.tokens[token] for token in used] == ["ab", "b", "bb"]
    # Without `a` it is unknown: at −70 it stays out, at −24 (ten below the least of the others) a + bbbb would win.
    pruned = prune_tokenizer(vocabulary, [*used, vocabulary.model.ids["bbbb"]])
    assert check_promises(old, pruned, ["abbbb"]) == {"abbbb"}


ODD = [(seed, kind) for kind in KINDS for seed in range(1 if kind in LARGE else 2)]


@pytest.mark.parametrize(
    ("seed", "kind"), [case for case in ODD if case[1] != "unigram, byte fallback"]
)  # an exception
def test_what_looks_like_a_token_is_text(kind: str, seed: int) -> None:
    """Names of bytes that are no UTF-8, added tokens in words and beside marks, runs of spaces, lines, NULs, flags."""
    vocabulary, old = read_vocabulary(content_of(kind)), library_of(kind)
    generator = random.Random(f"{kind}{seed}")
    added = [entry["content"] for entry in content_of(kind)["added_tokens"]] or ["x"]
    odd = [
        "<0xE2>",
        "<0x0A>",
        "▁▁",
        "Ġ",
        "\x00",
        "\u0301\u0327",
        "\n" * 9,
        " " * 65,
        "\t\t",
        "👨\u200d👩\u200d👧",
        "🇩🇪🇫🇷",
        "e\u0301",
    ]
    words = [*added, *odd, *PROSE.split(" ")]
    texts = ["".join(generator.choice(words) for _ in range(9)) for _ in range(200)]
    for share in (0.0, 0.5):
        check_promises(old, prune_tokenizer(vocabulary, some_tokens(vocabulary, share, seed)), texts)


def test_ids_follow_the_old_order_and_added_tokens_keep_their_flags() -> None:
    content = content_of("byte level")
    vocabulary = read_vocabulary(content)
    pruned = prune_tokenizer(vocabulary, [300])
    assert pruned.kept.dtype == np.int64
    assert (np.diff(pruned.kept) > 0).all()
    old = {entry["content"]: entry for entry in content["added_tokens"]}
    for entry in pruned.content["added_tokens"]:
        before = old.pop(entry["content"])
        assert pruned.kept[entry["id"]] == before["id"]
        assert {**entry, "id": before["id"]} == before
    assert not old
    assert pruned.content["padding"]["pad_token"] == "</s>"
    assert pruned.kept[pruned.content["padding"]["pad_id"]] == 1
    assert pruned.content["post_processor"]["special_tokens"]["<s>"]["ids"] == [0]
    assert pruned.serialize() == prune_tokenizer(vocabulary, [300]).serialize()


def test_tokens_without_a_row() -> None:
    content = content_of("byte level")  # 420 of the model, three more added after them
    assert read_vocabulary(content, rows=512).left_out == ()
    vocabulary = read_vocabulary(content, rows=421)
    assert vocabulary.left_out == ("the", "<tool>")
    assert "<tool>" not in prune_tokenizer(vocabulary, []).serialize().decode()
    with pytest.raises(InputError, match="the model's vocabulary has 400"):
        read_vocabulary(content, rows=400)


def test_texts_of_tokens() -> None:
    vocabulary, old = read_vocabulary(content_of("byte level")), library_of("byte level")
    assert vocabulary.text(old.encode("a", add_special_tokens=False).ids[0]) == "a"
    assert vocabulary.text(old.token_to_id("Ã")) is None  # the first half of é
    assert vocabulary.text(old.token_to_id("<|im_end|>")) is None
    vocabulary, old = read_vocabulary(content_of("byte fallback")), library_of("byte fallback")
    assert vocabulary.text(old.token_to_id("▁t")) == " t"
    assert vocabulary.text(old.token_to_id("<0x41>")) is None


def changed(kind: str, **parts: object) -> dict[str, object]:
    return {**json.loads(json.dumps(content_of(kind))), **parts}


def changed_model(kind: str, **parts: object) -> dict[str, object]:
    return changed(kind, model={**content_of(kind)["model"], **parts})


WORD_PIECE = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": {"[UNK]": 0}}
OTHER_ID = [{**content_of("byte level")["added_tokens"][-1], "id": 999}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("byte level", model=WORD_PIECE), "type WordPiece cannot be pruned"),
        (changed("byte level", model={"type": "WordLevel", "vocab": {}}), "type WordLevel"),
        (changed("byte level", model=None), "has no model"),
        (changed_model("byte level", end_of_word_suffix="</w>"), "end_of_word_suffix '</w>'"),
        (changed_model("byte level", merges=["a b c"]), "merge 'a b c' is not two tokens"),
        (changed_model("byte level", vocab=None), "needs vocab and merges"),
        (changed_model("byte level", vocab={"a": [1]}), "'a' has id"),
        (changed_model("unigram", vocab=[[5, 1.0]]), r"a vocab of \[piece, score\]"),
        (changed_model("byte level", merges=[["th", "q"]]), "cannot be read"),
        (changed_model("unigram", vocab=[["a", 1.0, 2]]), r"a vocab of \[piece, score\]"),
        (changed_model("unigram", vocab=[["<unk>", 0], ["a", 1.0], ["a", 2.0]]), "'a' occurs twice"),
        (changed_model("unigram", vocab=[["<unk>", 0], ["ab", 1.0], ["a", 2.0]]), "'b' occurs in the piece 'ab'"),
        (changed("byte level", decoder=None), "has no decoder"),
        (changed("byte level", decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "decoder WordPiece"),
        (changed("byte fallback", decoder={"type": "ByteLevel"}), "decoder ByteLevel looks at"),
        (changed("unigram", pre_tokenizer=None), "a pre-tokenizer Metaspace that splits"),
        (changed("byte level", added_tokens=OTHER_ID), "should have id 999, and the tokenizers library gives it 420"),
        (changed("byte level", added_tokens=[{"content": "x"}]), "objects with id and content"),
    ],
)
def test_what_cannot_be_pruned_is_refused_by_name(content: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_vocabulary(content)


def test_a_decoder_that_replaces_several_characters_is_refused() -> None:
    decoder = {"type": "Replace", "pattern": {"String": "▁▁"}, "content": " "}
    with pytest.raises(InputError, match="depends on where tokens end"):
        read_vocabulary(changed("byte fallback", decoder=decoder))


def test_a_token_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="token 100000 is to be kept"):
        prune_tokenizer(read_vocabulary(content_of("byte level")), [100_000])
