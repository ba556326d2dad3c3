"""Leaks between texts, against sets of word runs computed plainly."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress import fingerprint as module
from edgepress.errors import InputError
from edgepress.fingerprint import find_leak, fingerprint, read_fingerprint, word_hashes, write_fingerprint

WORDS = st.lists(st.sampled_from(["a", "b", "To", "be", "or", "not", "é", "ß9"]), max_size=60)
DOCUMENTS = st.lists(WORDS, max_size=4)


def runs(words: list[str]) -> list[tuple[str, ...]]:
    return [tuple(word.lower() for word in words[start : start + 13]) for start in range(len(words) - 12)]


@given(known=DOCUMENTS, scored=DOCUMENTS, copied=st.booleans())
def test_shares_are_those_of_sets_of_word_runs(known: list[list[str]], scored: list[list[str]], copied: bool) -> None:
    if copied:
        scored = [*scored, *known[:1]]
    inside = {run for words in known for run in runs(words)}
    looked = [run for words in scored for run in runs(words)]
    leak = find_leak(fingerprint(", ".join(words) for words in known), ["\n".join(words) for words in scored])
    assert leak.of_evaluation == sum(run in inside for run in looked) / max(len(looked), 1)
    assert leak.of_calibration == len(inside & set(looked)) / max(len(inside), 1)


def test_a_long_text_is_sampled_and_the_shares_come_near(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    known, new = (" ".join(map(str, generator.integers(0, 10**6, 60_000))) for _ in range(2))
    half_known = known[: len(known) // 2]
    kept = fingerprint([known])
    assert kept.hashes.size == module.KEPT
    write_fingerprint(tmp_path, kept)
    assert (tmp_path / module.CALIBRATION_NAME).stat().st_size <= 16 * 1024
    read = read_fingerprint(tmp_path)
    assert read is not None
    leak = find_leak(read, [new, half_known])
    assert leak.of_evaluation == pytest.approx(1 / 3, abs=0.05)  # 90,000 runs, a twentieth of them looked at
    assert leak.of_calibration == pytest.approx(1 / 2, abs=0.05)
    assert find_leak(read, [new]).of_evaluation < 0.01


def test_words_are_letters_and_digits_or_one_ideograph() -> None:
    signs = "我们在这里写一段普通的中文"
    assert len(signs) == 13
    assert word_hashes(signs).size == 1
    assert np.array_equal(word_hashes(signs), word_hashes("。 ".join(signs)))
    spaced = "One two three four five six seven eight nine ten eleven twelve 13"
    assert word_hashes(spaced).tolist() == word_hashes(re.sub(" ", " -- ", spaced.upper()) + "!").tolist()
    assert word_hashes(spaced) != word_hashes(spaced.replace("13", "14"))
    assert word_hashes("too short").size == 0


def test_a_bundle_without_and_one_with_a_broken_fingerprint(tmp_path: Path) -> None:
    assert read_fingerprint(tmp_path) is None
    for content, message in (
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"words": 13}), "no entry 'hashes'"),
        (json.dumps({"words": 8, "hashes": ""}), "runs of 8 words"),
        (json.dumps({"words": 13, "hashes": "AAAA"}), "cannot be read"),
        (json.dumps({"words": 13, "hashes": "?"}), "cannot be read"),
        (json.dumps({"words": 13, "hashes": "AQAAAAAAAAA="}), "not in order"),
    ):
        (tmp_path / module.CALIBRATION_NAME).write_text(content)
        with pytest.raises(InputError, match=message) as raised:
            read_fingerprint(tmp_path)
        assert "export the bundle again" in str(raised.value)
