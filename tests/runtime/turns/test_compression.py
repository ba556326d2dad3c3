"""Prompts without the words that tell a model least, by an information that is computed another way."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, load
from edgepress.runtime.turns.compression import compress, information_of

TEXT = "ROMEO:\nWhat said my man, when my betossed soul did not attend him as we rode? I think he told me."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    bundle: Path = tmp_path_factory.mktemp("compression") / "demo"
    export("demo", out=bundle, recipe="int8", target="x86-cpu", threads=1)
    return load(bundle, threads=1, prepared=False)


def test_information_is_that_of_one_token_after_the_other(model: Model) -> None:
    tokens = model.tokenizer.encode_plain(TEXT)
    wanted = []
    model.reset()
    logits = None if model.config.bos is None else model.prefill([model.config.bos])
    for token in tokens:
        if logits is None:
            wanted.append(0.0)
        else:
            row = logits.astype(np.float64)
            wanted.append(float(np.log(np.exp(row).sum()) - row[token]))
        logits = model.decode(token)
    np.testing.assert_allclose(information_of(model, tokens), wanted, atol=0.1)  # of steps of 8 bits, another rounding


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95))
def test_the_words_that_stay_are_those_of_most_information(model: Model, keep: float) -> None:
    found = compress(model, TEXT, keep)
    words, kept = TEXT.split(), found.text.split()
    assert kept[0] == words[0]
    rest = iter(words)
    assert all(any(word == other for other in rest) for word in kept)  # in their order
    assert found.tokens_before == len(model.tokenizer.encode_plain(TEXT))
    assert len(kept) == 1 or found.tokens_after <= keep * found.tokens_before + 2  # words may join other tokens
    if keep > 0.3:
        assert len(kept) > 2


def test_more_that_is_kept_has_all_of_what_less_has(model: Model) -> None:
    texts = [compress(model, TEXT, keep).text.split() for keep in (0.2, 0.5, 0.8)]
    assert set(texts[0]) <= set(texts[1]) <= set(texts[2]) <= set(TEXT.split())


def test_a_text_longer_than_the_context_is_taken_in_windows(model: Model) -> None:
    short = load(model.config.bundle, threads=1, context=32, prepared=False)
    tokens = model.tokenizer.encode_plain(TEXT * 3)
    found, whole = information_of(short, tokens), information_of(model, tokens)
    assert len(found) == len(tokens) > 64
    np.testing.assert_allclose(found[:31], whole[:31], atol=0.1)
    assert np.abs(found - whole).max() > 0.5  # which saw more
    assert found.min() >= 0


def test_what_is_no_share_or_no_text_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match=r"the share of a prompt to keep is 1\.0; it must be above 0 and below 1"):
        compress(model, TEXT, 1.0)
    with pytest.raises(InputError, match="there is no text to compress"):
        compress(model, "", 0.5)
