"""The text of a pruning recipe: the last of it held out to score every step, the rest for the steps and calibration.

One twentieth of the text, by bytes, at least 2 KiB and at most 64 KiB, is taken from the end of every file in
proportion to its size, before anything looks at the text. For models of more than 122 million weights the most is less,
in proportion: every step is scored on all of it, and that is to take about as long for every model.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepress.disk.files import sha256_file
from edgepress.errors import InputError
from edgepress.text.documents import Skipped, decode, is_lines, is_list, line_text, read_json_lines, read_json_list

SHARE = 20  # one part in so many is held out
LEAST, MOST = 2 << 10, 64 << 10  # bytes that are held out
_SCORING = 8 * 10**12  # weights · bytes of text that are scored at most
_FEWEST = 4 * LEAST  # bytes of text below which too little would be left
_COPIED = 1 << 20  # bytes copied at a time
_HEAD = 16 << 10  # bytes of a plain text that are looked at before it is copied
_DOCUMENT = 1 << 20  # bytes of a plain text that count as one document of a corpus

_log = logging.getLogger("edgepress.pruning")


@dataclass(frozen=True)
class Documents:
    """The documents of files of text, read anew each time that it is iterated over.

    A ``.jsonl`` file has one on each line, a ``.json`` file is a list of them; any other file is cut into documents of
    about 1 MiB at the starts of lines.
    """

    files: tuple[Path, ...]

    def __iter__(self) -> Iterator[str]:
        skipped = Skipped()  # which hold_out has told of
        for path in self.files:
            if is_lines(path):
                yield from read_json_lines(path, skipped)
            elif is_list(path):
                yield from read_json_list(path, skipped)
            else:
                yield from _plain(path)


def most_held_out(weights: int) -> int:
    """How many bytes are held out at most for a model of so many weights: 64 KiB, 16 KB at half a billion."""
    return max(LEAST, min(MOST, _SCORING // weights))


def text_key(files: Sequence[str], most: int) -> dict[str, object]:
    """What decides how text is held out, for the key of a stage.

    Raises:
        InputError: a file cannot be read.

    """
    return {
        "files": [[Path(name).name, sha256_file(_readable(Path(name)))] for name in files],
        "share": [SHARE, LEAST, most],
    }


def hold_out(files: Sequence[str | Path], folder: Path, *, most: int = MOST, own: bool = False) -> None:
    """Write what is left of each file to ``folder``/N/name, and what was held out to ``folder``/held_out.json.

    ``most`` is how many bytes are held out at most. Texts of JSON with a lone surrogate in them are passed over, by
    :class:`Documents` too; a warning is logged. With ``own`` the model wrote the text, and an error says so.

    Raises:
        InputError: a file cannot be read as text, or there are fewer than 8 KiB of it.

    """
    paths = [_readable(Path(file)) for file in files]
    sizes = [path.stat().st_size for path in paths]
    total = sum(sizes)
    if total < _FEWEST:
        names = "the text that the model wrote, as it was given none" if own else ", ".join(map(str, paths))
        remedy = "give some with --calibration FILE, or ask for more [calibration] tokens" if own else "give more text"
        raise InputError(
            f"{names}: {total:,} bytes of text, and pruning needs {_FEWEST:,}: {LEAST:,} of them are held out to "
            f"score its steps; {remedy}"
        )
    share = min(max(total // SHARE, LEAST), most)
    held: list[str] = []
    skipped = Skipped()
    for index, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        out = folder / str(index) / path.name
        out.parent.mkdir(parents=True)
        held += _split(path, out, share * size // total, skipped)
    if warning := skipped.warning():
        _log.warning("%s", warning)
    (folder / "held_out.json").write_text(json.dumps(held, ensure_ascii=False), encoding="utf-8")


def training_files(folder: Path) -> tuple[Path, ...]:
    """What :func:`hold_out` left of each file, in their order."""
    numbered = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    return tuple(next(path.iterdir()) for path in numbered)


def held_out(folder: Path) -> tuple[str, ...]:
    """The documents that :func:`hold_out` held out."""
    return tuple(json.loads((folder / "held_out.json").read_text(encoding="utf-8")))


def _readable(path: Path) -> Path:
    if path.is_dir():
        raise InputError(f"text {path} is a directory; name the files in it")
    try:
        empty = not path.stat().st_size
    except OSError as error:
        raise InputError(f"text {path} cannot be read: {error.strerror}; name a text file") from error
    if empty:
        raise InputError(f"text {path} is empty; give a file with text in it")
    return path


def _split(path: Path, out: Path, share: int, skipped: Skipped) -> list[str]:
    """Write ``path`` without its last ``share`` bytes of text to ``out``; returns what was cut off."""
    if is_lines(path):
        return _split_lines(path, out, share, skipped)
    if is_list(path):
        kept, held = _split_texts(read_json_list(path, skipped), share)
        out.write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
        return held
    return _split_plain(path, out, share)


def _split_plain(path: Path, out: Path, share: int) -> list[str]:
    """Cut at the first line that begins in the share's first half, else between two characters."""
    size = path.stat().st_size
    with path.open("rb") as file:
        decode(file.read(_HEAD), path, final=False)  # what is no text says so at its start
        file.seek(size - share)
        tail = file.read()
    newline = tail.find(b"\n", 0, share // 2)
    start = newline + 1 if newline >= 0 else _character(tail)
    _copy(path, out, size - share + start)
    held = decode(tail[start:], path, start=size - share + start)
    return [held] if held.strip() else []


def _split_lines(path: Path, out: Path, share: int, skipped: Skipped) -> list[str]:
    """Take whole lines from the end, and the end of the text of the one before them."""
    for _ in read_json_lines(path, skipped):
        pass  # each line is read once, so that a wrong one is found, and a lone surrogate counted, before the work
    nbytes, size = share, path.stat().st_size
    while True:  # how much JSON there is around a text is not known before
        nbytes *= 2
        last = _last_lines(path, nbytes)
        read = [line_text(decode(line, path, start=at), f"{path}, at byte {at}", Skipped()) for at, line in last]
        texts = [text for text in read if text is not None]
        if nbytes >= size or sum(len(text.encode()) for text in texts) >= share:
            break
    kept, held = _split_texts(texts, share)
    _copy(path, out, last[0][0] if last else 0)
    with out.open("ab") as copy:
        for text in kept:
            copy.write(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n")
    return held


def _last_lines(path: Path, nbytes: int) -> list[tuple[int, bytes]]:
    """The last lines that have ``nbytes`` bytes together, or all, and where each begins; blank ones are passed over."""
    last: deque[tuple[int, bytes]] = deque()
    total = 0
    with path.open("rb") as file:
        while line := file.readline():
            if line.strip():
                last.append((file.tell() - len(line), line))
                total += len(line)
                while total - len(last[0][1]) >= nbytes:
                    total -= len(last.popleft()[1])
    return list(last)


def _split_texts(texts: list[str], share: int) -> tuple[list[str], list[str]]:
    """What is left of a list of texts, and the last ``share`` bytes of it; one text may be cut in two."""
    held: list[str] = []
    kept = list(texts)
    while kept and share > 0:
        text = kept.pop()
        raw = text.encode()
        if len(raw) > share:
            start = len(raw) - share
            start += _character(raw[start:])
            kept.append(raw[:start].decode())
            text = raw[start:].decode()
        if text.strip():
            held.insert(0, text)
        share -= len(raw)
    return [text for text in kept if text], held


def _character(raw: bytes) -> int:
    """Where the first whole character of UTF-8 begins, the end when there is none."""
    return next((at for at, byte in enumerate(raw[:4]) if byte & 0xC0 != 0x80), len(raw[:4]))


def _copy(path: Path, out: Path, nbytes: int) -> None:
    """Copy the first ``nbytes`` bytes of a file."""
    with path.open("rb") as source, out.open("wb") as target:
        shutil.copyfileobj(source, target, _COPIED)
        target.truncate(nbytes)


def _plain(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        while raw := file.read(_DOCUMENT):
            start = file.tell() - len(raw)
            yield decode(raw + file.readline(), path, start=start)
