"""Which tokens calibration sees: nothing lost or moved when packed, spread over the text, errors that name the file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import save
from tokenizers import ByteLevelBPETokenizer
from tokenizers import Tokenizer as Library

from edgepress.errors import InputError
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.exporter.streams import text as text_module
from edgepress.exporter.streams.text import (
    CalibrationTokens,
    choose,
    distinct_runs,
    language_fit,
    pack,
    read_calibration,
)
from edgepress.text.tokenizer import Tokenizer, read_tokenizer

BOS = 1
DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).resolve().parents[3].parent / "shared" / "data"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return read_tokenizer(save("llama", tmp_path_factory.mktemp("model") / "checkpoint"))


def read(
    tokenizer: Tokenizer,
    *files: Path,
    tokens: int = 64,
    length: int = 16,
    seed: int = 0,
    bos: int | None = BOS,
    vocab_size: int = 320,
    context_length: int = 128,
) -> CalibrationTokens:
    return read_calibration(
        files,
        tokenizer=tokenizer,
        bos=bos,
        settings=CalibrationText(tokens=tokens, length=length, seed=seed),
        vocab_size=vocab_size,
        context_length=context_length,
    )


@given(documents=st.lists(st.text(max_size=20), max_size=8), with_bos=st.booleans())
def test_packing_loses_no_token_and_puts_bos_before_each_document(
    tokenizer: Tokenizer, documents: list[str], with_bos: bool
) -> None:
    stream = pack(documents, tokenizer, BOS if with_bos else None).tolist()
    expected: list[int] = []
    for document in documents:
        ids = tokenizer.library.encode(document, add_special_tokens=False).ids
        expected += ([BOS] if with_bos and ids else []) + ids
    assert stream == expected


@given(
    total=st.integers(2, 400),
    tokens=st.integers(1, 300),
    length=st.integers(2, 64),
    seed=st.integers(0, 5),
)
def test_sequences_are_runs_of_the_stream_in_order_and_spread_over_it(
    total: int, tokens: int, length: int, seed: int
) -> None:
    asked = CalibrationText(tokens=tokens, length=length, seed=seed)
    chosen = choose(np.arange(total), asked, np.random.default_rng(seed))
    again = choose(np.arange(total), asked, np.random.default_rng(seed))
    assert np.array_equal(chosen, again)
    count, width = chosen.shape
    assert width == min(length, total)
    assert count == min(-(-tokens // length), total // width)
    assert all(np.array_equal(row, np.arange(row[0], row[0] + width)) for row in chosen)
    starts = chosen[:, 0]
    assert (starts % width == 0).all()
    assert (np.diff(starts) >= width).all()
    if count == total // width:
        assert starts[0] == 0
    part = total // width / count  # sequences that each of the chosen ones stands for
    assert (np.abs(starts / width - (np.arange(count) + 0.5) * part) <= part + 1).all()


def test_other_seeds_choose_other_sequences(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"word{index}" for index in range(3000)))
    assert np.array_equal(read(tokenizer, path).tokens, read(tokenizer, path).tokens)
    assert not np.array_equal(read(tokenizer, path).tokens, read(tokenizer, path, seed=1).tokens)


def test_all_forms_of_a_file_give_the_same_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = ["To be, or not to be.", "Whether 'tis nobler\nin the mind", "é🙂 \u2028 end"]
    contents = {
        "lines.jsonl": "\n".join(json.dumps({"text": text, "id": 1}) for text in texts) + "\n\n",
        "texts.json": json.dumps(texts),
        "objects.json": json.dumps([{"text": text} for text in texts], ensure_ascii=False),
    }
    plain = [tmp_path / f"{index}.txt" for index in range(3)]
    for path, text in zip(plain, texts, strict=True):
        path.write_bytes(text.encode())
    expected = read(tokenizer, *plain, tokens=32, length=4).tokens
    assert expected.shape == (8, 4)
    assert expected[0, 0] == BOS
    for name, content in contents.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        assert np.array_equal(read(tokenizer, tmp_path / name, tokens=32, length=4).tokens, expected), name


def test_text_shorter_than_a_sequence_gives_one_shorter_sequence_and_says_so(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("To be")
    found = read(tokenizer, path)
    assert found.tokens.tolist() == [[BOS, *tokenizer.encode_plain("To be")]]
    assert "64 were asked for" in found.warnings[0]
    assert f"{found.tokens.size} tokens in 1 sequences" in found.warnings[0]


@pytest.mark.parametrize("break_every", [0, 100, 2000])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl"])
def test_large_files_are_read_in_places_spread_over_them(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, break_every: int
) -> None:
    monkeypatch.setattr(text_module, "_LEAST_READ", 16 << 10)
    monkeypatch.setattr(text_module, "_PIECE", 2 << 10)
    path = tmp_path / f"large{suffix}"
    write_large(path, break_every)
    for seed in range(3):
        found = read(tokenizer, path, tokens=64, length=16, seed=seed).tokens
        assert found.shape == (4, 16)
        for quarter, row in enumerate(found):
            decoded = tokenizer.decode([token for token in row.tolist() if token != BOS])
            places = [ord(letter) - FIRST for letter in decoded if FIRST <= ord(letter) < FIRST + 1000]
            assert places
            # a place read is at most one stretch (an eighth) away from where its part of the stream begins
            assert all(quarter * 250 - 125 <= place <= (quarter + 1) * 250 + 125 for place in places)


FIRST = 0x4E00


def write_large(path: Path, break_every: int) -> None:
    """210 KB in which a letter tells the place: U+4E00 + n stands in the n-th thousandth of it."""
    text = "".join(chr(FIRST + index // 70) for index in range(70_000))
    step = break_every or (1000 if path.suffix == ".jsonl" else len(text))
    lines = [text[at : at + step] for at in range(0, len(text), step)]
    if path.suffix == ".jsonl":
        lines = [json.dumps({"text": line}, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_errors_name_the_file_and_the_remedy(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def written(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    cases = [
        (tmp_path / "absent.txt", "absent.txt cannot be read: No such file"),
        (tmp_path, "is a directory; name the files in it"),
        (written("empty.txt", b""), "empty.txt is empty"),
        (written("blank.txt", b" \n\t\n"), "blank.txt is empty"),
        (written("latin.txt", "caf\xe9 au lait".encode("latin-1")), "not UTF-8: byte 3 is 0xe9"),
        (written("large.txt", b"x" * (2 << 20) + b"\xff" * (2 << 20)), "not UTF-8: byte "),
        (written("lines.jsonl", b'{"text": "a"}\n{"texts": 1}\n'), "line 2 has no text"),
        (written("lines2.jsonl", b'{"text": "a"}\n{"text": \n'), "line 2 is not valid JSON"),
        (written("object.json", b'{"text": "a"}'), "must hold a list of texts"),
        (written("none.json", b"[]"), "must hold a list of texts"),
        (written("number.json", b'["a", 1]'), "entry 1 has no text"),
        (written("broken.json", b'["a", '), "is not valid JSON"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match="(?s).*" + message) as raised:
            read(tokenizer, path)
        assert "\n" not in str(raised.value)


def test_a_length_above_the_context_and_tokens_outside_the_vocabulary_are_refused(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be")
    with pytest.raises(InputError, match="length is 129, the model's context 128; set length to 128"):
        read(tokenizer, path, length=129)
    with pytest.raises(InputError, match=r"the model's vocabulary has 20; tokenizer\.json belongs"):
        read(tokenizer, path, vocab_size=20)
    path.write_text("T")
    with pytest.raises(InputError, match="the text gives 1 tokens"):
        read(tokenizer, path, bos=None)


GREEK = "Η βαθμονόμηση χρειάζεται κείμενο που μοιάζει με αυτό που θα δει το μοντέλο. Σήμερα ο καιρός είναι καλός."  # noqa: RUF001 - Greek is meant
CHINESE = (
    "校准文本应该与分词器的语言一致。今天天气很好。孩子们在公园里玩耍。他们非常高兴。经济学家认为明年的增长会放缓。"
)
LATIN = bytes(np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8)).decode("latin-1")


def shared_tokenizer(name: str) -> Tokenizer:
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not there")
    if name == "gpt2":
        folder = DATA / "tokenizers" / "gpt2"
        library = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
        return Tokenizer(Library.from_str(library.to_str()))
    return read_tokenizer(DATA / name)


@pytest.mark.parametrize("name", ["gpt2", "tokenizers/phi-3-mini", "models/stories260k"])
def test_a_language_that_the_tokenizer_does_not_know_is_told_from_one_that_it_knows(name: str) -> None:
    tokenizer = shared_tokenizer(name)
    known = [
        (DATA / "text" / "tinystories" / "tinystories_valid_head_256KiB.txt").read_text(encoding="utf-8")[:20_000],
        (DATA / "text" / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")[:20_000],
        (DATA / "text" / "wikitext2" / "valid.txt").read_text(encoding="utf-8")[:20_000],
    ]
    for text, is_known in [(text, True) for text in known] + [(text, False) for text in (GREEK, CHINESE, LATIN)]:
        fit = language_fit(np.array([tokenizer.encode_plain(text)]), tokenizer)
        assert (fit.saved >= 0.42 and fit.broken <= 0.25) == is_known, (text[:20], fit)


def test_a_repeated_sentence_is_warned_of(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be. " * 200)
    assert any("repeats itself" in warning for warning in read(tokenizer, path).warnings)
    assert distinct_runs(np.arange(64).reshape(2, 32)) == 1.0
    assert distinct_runs(np.zeros((2, 32), np.int64)) == 1 / 50
