"""Every way in which a file is no plain UTF-8 text ends in the text without its mark, or in one error that names it."""

import gzip
import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.text.documents import (
    Skipped,
    check_unicode,
    decode,
    documents_of,
    parse_json,
    read_standard_input,
    read_text,
)

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\xff", "is not UTF-8: byte 2 is 0xff"),
        ("caf\xe9".encode("latin-1"), "is not UTF-8: byte 3 is 0xe9; convert it"),
        (b"cut \xe2\x82", "is not UTF-8: byte 4 is 0xe2"),
        (b"half \xed\xa0\xbd an emoji", "is not UTF-8: byte 5 is 0xed"),
        ("text".encode("utf-16"), "is UTF-16, not text in UTF-8; convert it"),
        ("text".encode("utf-32"), "is UTF-32, not text in UTF-8; convert it"),
        (b"\xfe\xff\0t\0e", "is UTF-16"),
        (b"\0\0\xfe\xff\0\0\0t", "is UTF-32"),
        ("text".encode("utf-16-le"), "is not text: byte 1 is 0x00, as in a binary file or in UTF-16"),
        (b"GGUF\x03\0\0\0", "is not text: byte 5 is 0x00"),
        (b"\x7fELF\xff\0", "is not text: byte 4 is 0xff"),
        (gzip.compress(b"text", mtime=0), "is a gzip file, not text in UTF-8; unpack it first"),
        (b"PK\x03\x04\x14\0", "is a zip file"),
        (b"PAR1\x15\0", "is a Parquet file, not text in UTF-8; write its texts as .jsonl"),
        (b"%PDF-1.7 %\xe2\xe3\xcf\xd3", "is a PDF file"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
def test_what_is_no_utf8_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}.*{message}") as raised:
        documents_of(path, Skipped())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["PAR1 is a word here", "BZh, too", "PK", "%PDF-1.7 is how such a file begins"])
def test_text_that_begins_like_another_kind_of_file_is_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read_text(tmp_path / "a.txt") == text


def test_a_byte_order_mark_is_no_part_of_any_document(tmp_path: Path) -> None:
    def documents(name: str, content: bytes) -> list[str]:
        (tmp_path / name).write_bytes(content)
        return documents_of(tmp_path / name, Skipped())

    assert documents("a.txt", MARK + b"one\r\ntwo") == ["one\r\ntwo"]
    # files that were joined: a mark at the start of any line
    assert documents("a.jsonl", MARK + b'{"text": "one"}\r\n' + MARK + b'{"text": "two"}\n' + MARK) == ["one", "two"]
    assert documents("b.jsonl", '{"text": "\ufeffone"}\n{"text": "\\ufefftwo"}'.encode()) == ["one", "two"]
    assert documents("a.json", MARK + b'["one", "\\ufefftwo"]') == ["one", "two"]
    assert documents("A.JSONL", MARK + b'{"text": "one"}') == ["one"]
    # in the middle it is a character like others
    assert documents("b.txt", "one \ufefftwo".encode()) == ["one \ufefftwo"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json"])
@pytest.mark.parametrize("content", [b"", MARK, b" \n", MARK + b"\r\n"])
def test_a_file_with_a_mark_and_nothing_else_is_empty(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name} is empty"):
        documents_of(tmp_path / name, Skipped())


def test_half_an_emoji_is_passed_over_counted_and_named(tmp_path: Path) -> None:
    lines = ["one", "half \ud83d", "whole \U0001f600", "\ude00", "two"]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps({"text": text}) for text in lines))
    (tmp_path / "a.json").write_text(json.dumps([lines[0], *({"text": text} for text in lines[1:])]))
    for name, first in (("a.jsonl", "line 3"), ("a.json", "entry 1")):
        skipped = Skipped()
        assert documents_of(tmp_path / name, skipped) == ["one", "whole \U0001f600", "two"]
        assert skipped.count == 2
        assert skipped.warning() is not None
        assert str(skipped.warning()).startswith("2 texts hold a lone surrogate")
        assert skipped.first.endswith(f"{name}, {first}")
    # in a part of the line that nobody reads it does no harm
    (tmp_path / "b.jsonl").write_text('{"text": "one", "title": "\\ud83d"}')
    skipped = Skipped()
    assert documents_of(tmp_path / "b.jsonl", skipped) == ["one"]
    assert skipped.warning() is None


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_file_with_nothing_but_halves_is_an_error_that_says_so(name: str, tmp_path: Path) -> None:
    text = '{"text": "\\ud83d"}'
    (tmp_path / name).write_text(text if name == "a.jsonl" else f"[{text}]")
    with pytest.raises(InputError, match=f"{name} has no text that can be used: one text holds a lone surrogate"):
        documents_of(tmp_path / name, Skipped())


@given(st.text(), st.integers(0, 60))
def test_a_cut_text_decodes_to_whole_characters(text: str, cut: int) -> None:
    text = text.replace("\0", "")
    whole = decode(text.encode()[:cut], "it", final=False)
    assert text.removeprefix("\ufeff").startswith(whole)
    assert len(text.encode()[:cut]) - len(whole.encode()) <= 3 + 3  # a cut character and the mark


def test_an_offset_counts_from_the_start_of_the_file() -> None:
    with pytest.raises(InputError, match="big is not UTF-8: byte 1002 is 0xff"):
        decode(b"ab\xff", "big", start=1000)
    assert decode(MARK + b"a", "big", start=1000) == "\ufeffa"


def test_a_text_has_one_error_for_each_way_to_be_wrong(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, message in [
        (b"{", "is not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b"\xff", "not UTF-8"),
    ]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"a.json .*{message}"):
            parse_json(read_text(path), path)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_text(tmp_path / "gone.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_standard_input_is_read_as_a_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(MARK + b"one\r\ntwo\n"), encoding="ascii"))
    assert read_standard_input() == "one\ntwo\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff")))
    with pytest.raises(InputError, match="standard input is not UTF-8: byte 2 is 0xff"):
        read_standard_input()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        read_standard_input()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ab\udcff", "--prompt has the byte 0xff, which is no UTF-8, at character 2; give it in UTF-8"),
        ("\ud83d", "--prompt has a lone surrogate, at character 0"),
    ],
)
def test_text_that_is_no_unicode_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_unicode(text, "--prompt")
    assert check_unicode("é\U0001f600", "--prompt") == "é\U0001f600"
