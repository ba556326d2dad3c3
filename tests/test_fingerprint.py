"""Leaks between texts are found, and no word of a text can be read from what a bundle keeps of it."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepress.bundle import fingerprint as module
from edgepress.bundle.fingerprint import (
    Fingerprint,
    Leak,
    find_leak,
    fingerprint,
    leak_warning,
    read_fingerprint,
    word_hashes,
    write_fingerprint,
)
from edgepress.errors import InputError

WORDS = st.lists(st.sampled_from(["a", "b", "To", "be", "or", "not", "é", "ß9"]), max_size=60)


def numbers(count: int, seed: int, vocabulary: int = 10**6) -> list[str]:
    """Words of a text that nobody can guess: drawn evenly."""
    return [str(number) for number in np.random.default_rng(seed).integers(0, vocabulary, count)]


def sketch(words: list[str]) -> Fingerprint:
    found = fingerprint([" ".join(words)])
    assert found is not None
    return found


@given(words=WORDS)
def test_runs_are_hashed_to_what_their_words_are(words: list[str]) -> None:
    runs = [tuple(word.lower() for word in words[start : start + 13]) for start in range(len(words) - 12)]
    hashes = word_hashes(", ".join(words)).tolist()
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs)), "different runs have different hashes, and the same the same"


@pytest.mark.parametrize(("words", "kept"), [(1011, False), (1012, True), (20, False), (0, False)])
def test_nothing_is_kept_of_a_short_text(words: int, kept: bool) -> None:
    text = numbers(words, seed=0)
    assert (fingerprint([" ".join(text)]) is not None) is kept  # 1,012 words have 1,000 runs
    if not kept:
        assert fingerprint([" ".join(text)] * 100) is None, "repeated, it is as short"


class Attacker:
    """Tries every word of a vocabulary behind twelve that are known, with the hashes that anybody can compute."""

    def __init__(self, vocabulary: int) -> None:
        digests = [hashlib.blake2b(str(word).encode(), digest_size=8).digest() for word in range(vocabulary)]
        self.words = np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)

    def hashes(self, before: list[str]) -> NDArray[np.uint64]:
        """Of the run that each word would make with the twelve ``before``: (vocabulary,)."""
        base, known = np.uint64(0x9E3779B97F4A7C15), np.zeros(1, np.uint64)
        for word in before:
            known = known * base + self.words[int(word)]
        runs = known * base + self.words
        runs = (runs ^ (runs >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        runs = (runs ^ (runs >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(runs ^ (runs >> np.uint64(31)))


@pytest.mark.parametrize("vocabulary", [10_000, 50_000])
@pytest.mark.parametrize("length", [1012, 3000, 20_000, 200_000])
def test_who_knows_twelve_words_cannot_guess_the_next(length: int, vocabulary: int) -> None:
    text = numbers(length, seed=1, vocabulary=vocabulary)
    found, generator, attacker = sketch(text), np.random.default_rng(2), Attacker(vocabulary)
    tried = range(12, 512)
    right = 0
    for at in tried:
        hashes = attacker.hashes(text[at - 12 : at])
        assert hashes[int(text[at])] == word_hashes(" ".join(text[at - 12 : at + 1]))[0]
        fits = np.flatnonzero((hashes <= found.largest) & found.look_up(hashes))
        right += int(generator.choice(fits if fits.size else vocabulary)) == int(text[at])
    assert right <= len(tried) / 50, f"{right} of {len(tried)} words"


def test_who_knows_ten_words_of_which_one_is_next_hardly_guesses_better() -> None:
    """A good language model knows as much; what is in the table comes first, then what is not looked at, by chance."""
    text = numbers(3000, seed=1, vocabulary=10_000)
    found, generator, attacker = sketch(text), np.random.default_rng(2), Attacker(10_000)
    right = 0
    tried = range(12, 2012)
    for at in tried:
        words = [int(text[at]), *generator.integers(0, 10_000, 9).tolist()]
        hashes = attacker.hashes(text[at - 12 : at])[words]
        looked = hashes <= found.largest
        order = np.where(looked & found.look_up(hashes), 0, np.where(looked, 2, 1)) + generator.random(10) / 2
        right += int(order.argmin()) == 0
    assert right / len(tried) < 0.1 + 0.06  # 0.1 by chance; a run of 24 is looked at, and then it is certain


def test_what_is_kept_is_a_third_of_a_bit_a_word() -> None:
    for length in (1012, 5000, 30_000):
        table = sketch(numbers(length, seed=3)).table
        share = table.mean()
        entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
        assert table.size * entropy / length < 0.4  # of the table as a whole, the places of its bits counted


@pytest.mark.parametrize("length", [1012, 3000, 60_000])
def test_the_same_text_is_known_whole(length: int) -> None:
    text = numbers(length, seed=4)
    leak = find_leak(sketch(text), [" ".join(text)])
    assert leak.of_evaluation == pytest.approx(1, abs=0.01)
    assert leak.of_calibration == pytest.approx(1, abs=0.05)


def test_a_tenth_that_is_known_is_found_and_its_share_is_near() -> None:
    known, new = numbers(60_000, seed=5), numbers(54_000, seed=6)
    leak = find_leak(sketch(known), [" ".join(known[:6000]), " ".join(new)])
    assert leak.of_evaluation == pytest.approx(0.1, abs=0.03)
    assert leak.of_calibration == pytest.approx(0.1, abs=0.03)


def test_a_small_calibration_is_found_in_a_large_text() -> None:
    """Of 200,000 words 1,600 were calibrated on: as the default does on a text of a megabyte."""
    text = numbers(200_000, seed=7)
    leak = find_leak(sketch(text[50_000:51_600]), [" ".join(text)])
    assert leak.of_calibration > 0.5
    assert leak.of_evaluation < 0.02


@pytest.mark.parametrize("words", [13, 50, 400, 3000, 60_000])
def test_another_text_is_not_known(words: int) -> None:
    found = sketch(numbers(20_000, seed=8))
    for seed in range(100, 160 if words < 10_000 else 105):
        leak = find_leak(found, [" ".join(numbers(words, seed=seed))])
        assert leak == Leak(0.0, 0.0)
    sentence = " ".join(numbers(40, seed=9))
    assert find_leak(found, [sentence] * 1000) == Leak(0.0, 0.0), "repeated chance is still chance"


def test_a_long_text_is_sampled_and_the_shares_come_near(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    known, new = (" ".join(map(str, generator.integers(0, 10**6, 60_000))) for _ in range(2))
    half_known = known[: len(known) // 2]
    kept = sketch([known])
    assert kept.table.size == module.KEPT * 64
    write_fingerprint(tmp_path, kept)
    assert (tmp_path / module.CALIBRATION_NAME).stat().st_size <= 16 * 1024
    read = read_fingerprint(tmp_path)
    assert read is not None
    assert np.array_equal(read.table, kept.table)
    assert read.largest == kept.largest
    leak = find_leak(read, [new, half_known])
    assert leak.of_evaluation == pytest.approx(1 / 3, abs=0.05)  # 90,000 runs, one of 40 looked at
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
        ("{", "is not JSON"),
        ("[]", "not an object"),
        (json.dumps({"words": 13, "largest": 1}), "no entry 'table'"),
        (json.dumps({"words": 8, "largest": 1, "table": ""}), "runs of 8 words"),
        (json.dumps({"words": 13, "largest": 1, "table": "?"}), "cannot be read"),
        (json.dumps({"words": 13, "largest": 1, "table": 5}), "table: Expected `str`"),
        (json.dumps({"words": 13, "largest": 1, "table": ""}), "a table of 0 bits"),
        (json.dumps({"words": 13, "largest": 1, "table": "AAAA"}), "a table of 24 bits, 0 of them set"),
        (json.dumps({"words": 13, "largest": 1, "table": "////"}), "a table of 24 bits, 24 of them set"),
        (json.dumps({"words": 13, "largest": 1, "table": "AAAB" * 5000}), "a table of 120000 bits"),
        (json.dumps({"words": 13, "largest": -1, "table": "AAAB"}), "largest: Expected `int` >= 0"),
        (json.dumps({"words": 13, "largest": True, "table": "AAAB"}), "largest: Expected `int`"),
        # what 0.1.0 wrote
        (json.dumps({"words": 13, "hashes": "AQAAAAIAAAA="}), "has hashes from which the text can be gues"),
    ):
        (tmp_path / module.CALIBRATION_NAME).write_text(content)
        with pytest.raises(InputError, match=message) as raised:
            read_fingerprint(tmp_path)
        assert "the bundle again" in str(raised.value)


def test_what_0_1_wrote_is_not_read_and_evaluation_goes_on(tmp_path: Path) -> None:
    (tmp_path / module.CALIBRATION_NAME).write_text(json.dumps({"words": 13, "hashes": "AQAAAAIAAAA="}))
    warning = leak_warning(tmp_path, ["any text"])
    assert warning is not None
    assert warning.endswith("export the bundle again. Whether it holds this text is not known")
