"""Which tokens a corpus asks for: against plain counting, and within every size."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_of_all_kinds import KINDS, PROSE, content_of, library_of

from edgepress.errors import InputError
from edgepress.exporter.tokens import corpus
from edgepress.exporter.tokens.corpus import Usage, choose_tokens, count_usage, script_costs, script_warnings
from edgepress.exporter.tokens.tokenizer import prune_tokenizer, read_vocabulary

ENGLISH = "the slings and arrows of outrageous fortune, or to take arms against a sea of troubles. " * 3


def ids(kind: str, text: str) -> list[int]:
    return library_of(kind).encode(text, add_special_tokens=False).ids


def test_counts_are_those_of_the_documents_in_any_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [*PROSE.split("\n"), "", ENGLISH, "the"]
    expected = Counter(token for text in documents for token in ids("byte level", text))
    for batch in (corpus._BATCH, 1, 200):
        monkeypatch.setattr(corpus, "_BATCH", batch)
        usage = count_usage(iter(documents), library_of("byte level"))
        assert {token: int(count) for token, count in enumerate(usage.counts) if count} == expected
        assert usage.tokens == expected.total()
        assert usage.characters == Counter("".join(documents))


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_size_everything_used_is_kept(kind: str) -> None:
    vocabulary, library = read_vocabulary(content_of(kind)), library_of(kind)
    usage = count_usage([ENGLISH], library)
    choice = choose_tokens(vocabulary, usage)
    assert choice.coverage == 1
    assert set(ids(kind, ENGLISH)) <= choice.keep
    assert len(choice.keep) % 32 == 0 or len(choice.keep) == len(vocabulary)
    assert choice.filled < 32
    kept = prune_tokenizer(vocabulary, choice.keep).kept
    assert kept.tolist() == sorted(choice.keep)  # closed: pruning adds nothing


@settings(max_examples=80, deadline=None)
@given(size=st.integers(1, 440), least=st.integers(1, 5), text=st.text("the slingarow,é日", max_size=80))
def test_no_size_is_exceeded(size: int, least: int, text: str) -> None:
    vocabulary = read_vocabulary(content_of("byte level"))
    usage, smallest = count_usage([ENGLISH, text], library_of("byte level")), len(vocabulary.required)
    if size < smallest:
        with pytest.raises(InputError, match=f"size is {size} tokens and at least {smallest} must stay"):
            choose_tokens(vocabulary, usage, size=size, least=least)
        return
    choice = choose_tokens(vocabulary, usage, size=size, least=least)
    assert len(choice.keep) <= size
    assert len(choice.keep) % 32 == 0 or size - size % 32 < smallest or len(choice.keep) == len(vocabulary)
    assert vocabulary.closure(choice.keep) == choice.keep
    assert choice.coverage == pytest.approx(usage.counts[sorted(choice.keep)].sum() / usage.tokens)


def test_the_most_frequent_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "ROWS", 1)
    vocabulary = read_vocabulary(content_of("characters"))
    required = vocabulary.required
    others = [token for token in vocabulary.tokens if not vocabulary.needs(token) - required - {token}][::7]
    counts = np.zeros(len(vocabulary), np.int64)
    chosen = [token for token in others if token not in required][:6]
    counts[chosen] = [5, 50, 7, 70, 6, 60]
    size = len(required) + 3
    keep = choose_tokens(vocabulary, Usage(counts, {}), size=size).keep
    assert keep - required == {chosen[1], chosen[3], chosen[5]}
    rare = choose_tokens(vocabulary, Usage(counts, {}), least=10)
    assert rare.keep - required == {chosen[1], chosen[3], chosen[5]}
    assert rare.coverage == pytest.approx(180 / 198)


def test_places_that_are_left_go_to_tokens_in_the_corpus_s_characters() -> None:
    vocabulary = read_vocabulary(content_of("byte level"))
    usage = count_usage(["a sea of arms"], library_of("byte level"))
    choice = choose_tokens(vocabulary, usage, size=320)
    texts = {token: vocabulary.text(token) or "é" for token in vocabulary.tokens}
    spelled = {token for token, text in texts.items() if set(text) <= set("a sea of arms")}
    assert spelled <= choice.keep
    assert len(spelled) > 10
    seen = set(np.flatnonzero(usage.counts).tolist())
    assert len(choice.keep - vocabulary.required - seen - vocabulary.closure(spelled)) < 32  # to a multiple of 32
    assert choice.filled == len(choice.keep) - len(
        vocabulary.closure({*vocabulary.required, *np.flatnonzero(usage.counts)})
    )
    assert len(choice.warnings) == 1
    assert f"the corpus ({usage.tokens} tokens) is small" in choice.warnings[0]


def test_what_is_always_kept() -> None:
    vocabulary = read_vocabulary(content_of("byte level"))
    wanted = ids("byte level", " Voilà")
    usage = count_usage(["a"], library_of("byte level"))
    assert not set(wanted) <= choose_tokens(vocabulary, usage).keep
    assert set(wanted) <= choose_tokens(vocabulary, usage, always=wanted).keep


@pytest.mark.parametrize(
    ("kind", "text", "script"),
    [("gpt2", "你好世界", "cjk"), ("byte fallback", "ສະບາຍດີ", "lao"), ("byte level", "ສະບາຍດີ", "lao")],
)
def test_a_script_that_the_tokenizer_writes_as_bytes_is_warned_of(kind: str, text: str, script: str) -> None:
    vocabulary, library = read_vocabulary(content_of(kind)), library_of(kind)
    usage = count_usage([text, ENGLISH[:40]], library)
    costs = script_costs(usage.characters, vocabulary, library)
    assert sum(cost.share for cost in costs) == pytest.approx(1)
    one = next(cost for cost in costs if cost.script.lower() == script)
    letters = [letter for letter in text if letter.isalpha() or not letter.isascii()]
    if kind == "byte fallback":  # each letter's bytes are its tokens
        assert one.tokens_per_character == sum(len(letter.encode()) for letter in letters) / len(letters)
    warnings = script_warnings(costs)
    assert len(warnings) == 1
    assert f"the {script} letters" in warnings[0]
    assert f"costs {one.tokens_per_character:.1f} tokens" in warnings[0]


def test_emoji_are_warned_of_as_symbols() -> None:
    """Four bytes each, and the tokenizer has none of them."""
    vocabulary, library = read_vocabulary(content_of("byte fallback")), library_of("byte fallback")
    usage = count_usage(["🚀🔥🍕🎉" * 20], library)
    cost = script_costs(usage.characters, vocabulary, library)[0]
    assert (cost.share, cost.tokens_per_character, cost.broken) == (1.0, 4.0, 1.0)
    warning = script_warnings([cost])[0]
    assert "100% of the symbols (emoji and the like), 100% of the corpus's: a character costs 4.0 tokens" in warning


def test_a_known_script_and_a_few_strange_letters_are_not() -> None:
    vocabulary, library = read_vocabulary(content_of("byte level")), library_of("byte level")
    usage = count_usage([ENGLISH * 5, "ສະ"], library)
    assert script_warnings(script_costs(usage.characters, vocabulary, library)) == []
