"""The last of the text is held out, and nothing of it is lost or seen twice."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.streams.documents import (
    LEAST,
    MOST,
    Documents,
    held_out,
    hold_out,
    most_held_out,
    training_files,
)

TEXT = "".join(
    f"Line {number}: Ärger, 日本語, and more.\n" for number in range(4000)
)  # 160 KB, characters of 1 to 3 bytes
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\ufeff")  # no halves, no byte order mark


def split(folder: Path, *files: Path) -> tuple[list[str], list[str]]:
    """What is left and what is held out."""
    out = folder / "out"
    out.mkdir()
    hold_out(files, out)
    return list(Documents(training_files(out))), list(held_out(out))


def test_the_end_of_a_plain_text_is_held_out_from_a_line_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    left, held = split(tmp_path, tmp_path / "a.txt")
    assert "".join(left) + "".join(held) == TEXT
    assert held[0].startswith("Line ")
    assert 0.9 < len(held[0].encode()) / (len(TEXT.encode()) / 20) <= 1


@pytest.mark.parametrize("size", [8 << 10, 40 << 10, 4 << 20])
def test_the_share_is_within_its_bounds(size: int, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(("x" * 63 + "\n") * (size // 64))
    left, held = split(tmp_path, tmp_path / "a.txt")
    assert sum(map(len, left)) + sum(map(len, held)) == size
    share = min(max(size // 20, LEAST), MOST)
    assert share - 64 <= len(held[0]) <= share


def test_less_is_held_out_to_score_a_larger_model(tmp_path: Path) -> None:
    sizes = [most_held_out(weights) for weights in (1_000_000, 122_000_000, 244_000_000, 494_000_000, 70 * 10**9)]
    assert sizes == [MOST, MOST, pytest.approx(MOST / 2, rel=0.01), pytest.approx(16_194, rel=0.01), LEAST]
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    hold_out([tmp_path / "a.txt"], tmp_path, most=5000)
    assert 4900 < len("".join(held_out(tmp_path)).encode()) <= 5000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(CHARACTERS, min_size=1, max_size=600).filter(str.strip), min_size=60, max_size=90), st.booleans()
)
def test_documents_are_left_or_held_out(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], as_lines: bool
) -> None:
    texts = [text + "…" * 50 for text in texts]  # of at least 150 bytes
    folder = tmp_path_factory.mktemp("documents")
    if as_lines:
        path = folder / "a.jsonl"
        path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n\n" for text in texts), encoding="utf-8")
    else:
        path = folder / "a.json"
        path.write_text(json.dumps(texts), encoding="utf-8")
    left, held = split(folder, path)
    assert "".join(left) + "".join(held) == "".join(texts)  # the one that is cut in two, too
    assert texts[: len(left) - 1] == left[:-1]
    assert texts[len(texts) - len(held) + 1 :] == held[1:]
    size = path.stat().st_size
    share = min(max(size // 20, LEAST), MOST)
    assert share - 4 <= sum(len(text.encode()) for text in held) <= share


def test_each_file_gives_its_part(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.txt").write_text(TEXT[: len(TEXT) // 4], encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    hold_out([tmp_path / "a.txt", tmp_path / "b" / "a.txt"], out)
    assert [path.name for path in training_files(out)] == ["a.txt", "a.txt"]
    first, second = held_out(out)
    assert 3.5 < len(first) / len(second) < 4.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"too short", "9 bytes of text, and pruning needs 8,192"),
        (b"\xff" * 10_000, "not UTF-8"),
    ],
)
def test_bad_text_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        split(tmp_path, tmp_path / "a.txt")


def test_too_little_text_of_the_model_s_own_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"too short")
    with pytest.raises(InputError, match=r"^the text that the model wrote.*: 9 bytes of text.* --calibration FILE"):
        hold_out([tmp_path / "a.txt"], tmp_path, own=True)


def test_missing_text_and_wrong_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt cannot be read"):
        split(tmp_path, tmp_path / "gone.txt")
    (tmp_path / "a.jsonl").write_text('{"words": 1}\n' * 1000)
    with pytest.raises(InputError, match="has no text"):
        hold_out([tmp_path / "a.jsonl"], tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json"])
def test_a_byte_order_mark_is_neither_left_nor_held_out(suffix: str, tmp_path: Path) -> None:
    texts = [f"Line {number}: Ärger, 日本語, and more.\n" for number in range(400)]
    content = {
        ".txt": "".join(texts),
        ".jsonl": "\n".join(json.dumps({"text": text}) for text in texts),
        ".json": json.dumps(texts),
    }[suffix]
    (tmp_path / f"a{suffix}").write_bytes(b"\xef\xbb\xbf" + content.encode())
    left, held = split(tmp_path, tmp_path / f"a{suffix}")
    assert "".join(left) + "".join(held) == "".join(texts)


@pytest.mark.parametrize("place", [0, 200, 398, 399])
@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_half_a_character_is_passed_over_and_said(
    suffix: str, place: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [f"Line {number}: and more, so that there is enough of it.\n" for number in range(400)]
    marked = [*texts[:place], "half an emoji \ud83d", *texts[place:]]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in marked)
    path = tmp_path / f"a{suffix}"
    path.write_text(lines if suffix == ".jsonl" else json.dumps(marked), encoding="utf-8")
    left, held = split(tmp_path, path)
    assert "".join(left) + "".join(held) == "".join(texts)
    (said,) = [record.getMessage() for record in caplog.records]
    where = f"line {place + 1}" if suffix == ".jsonl" else f"entry {place}"
    assert said.startswith("one text holds a lone surrogate")
    assert said.endswith(f"{path}, {where}")


def test_a_wrong_line_far_from_the_end_is_found_before_the_work(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text number {number}"}) for number in range(20_000)]
    lines[100] = "no JSON"
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.jsonl, line 101 is not valid JSON"):
        split(tmp_path, tmp_path / "a.jsonl")
