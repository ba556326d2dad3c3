"""Which tokens calibration uses: documents read, tokenized, packed into sequences, and some of them chosen.

Every document starts with the model's bos token (if it has one), as the runtime and ``edgepress eval`` start theirs.
Documents follow one another without padding; that stream is cut into sequences of ``length`` tokens. Of these, as many
as ``tokens`` needs are taken: the stream is divided into that many equal parts and ``seed`` draws one sequence from
each, so that they are spread over all of the text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.text.documents import Skipped, decode, documents_of, is_lines, is_list, line_text, read_json_list
from edgepress.text.tokenizer import Tokenizer

Tokens = NDArray[np.int64]

_PIECE = 16 << 10  # bytes of a large file that are read in one place
_LEAST_READ = 1 << 20  # bytes of text that are always looked at, if there are so many
_READ_PER_TOKEN = 64  # bytes read for each token asked for: several times what a token holds, so that there is a choice
_LONGEST_LINE = 64 << 20  # bytes of one .jsonl document
_RUN = 8  # tokens of a run that text seldom repeats
_LEAST_DISTINCT = 0.5
# Measured with the vocabularies of gpt2, phi-3-mini and stories260k. A text saves 0.88 and more of what is expected in
# a language that the first two know, 0.48 and more in English that is new to the last (a play, an encyclopedia); Greek
# saves at most 0.36. Chinese in phi-3-mini saves 0.52, and 39 % of its tokens are parts of characters.
_LEAST_SAVED = 0.42
_MOST_BROKEN = 0.25


@dataclass(frozen=True)
class CalibrationTokens:
    """``tokens`` int64 (sequences, length), and what the user should know about them, one line each."""

    tokens: Tokens
    warnings: tuple[str, ...] = ()


def read_calibration(
    files: Sequence[Path | str],
    *,
    tokenizer: Tokenizer,
    bos: int | None,
    settings: CalibrationText,
    vocab_size: int,
    context_length: int,
) -> CalibrationTokens:
    """Read ``files`` and choose sequences from them; the same input gives the same tokens.

    A ``.jsonl`` file has an object with ``text`` on each line, a ``.json`` file a list of texts or of such objects, any
    other file is one document. ``settings.text`` is not looked at: ``files`` stands for it.

    Text of more than max(1 MiB, 64 bytes a token asked for) is not read whole: each file gives its share of that
    budget in pieces of 16 KiB, one from each of as many equal stretches of the file, at a place drawn by the seed and
    moved to the next start of a line. A piece of a plain text then counts as a document; of a ``.jsonl`` file whole
    lines are taken, at least one. A ``.json`` list is read whole (up to 256 MiB), and its texts chosen evenly.

    A text of JSON with a lone surrogate in it is passed over; the warnings say so.

    Fewer tokens than asked for in the text mean fewer sequences, or one shorter one, never repeated text; there is a
    warning then.

    Raises:
        InputError: ``length`` is above the context; a file is missing, empty, a directory, not UTF-8 or not such JSON;
            there are fewer than two tokens; a token is not in the vocabulary.

    """
    check_length(settings, context_length)
    if not files:
        raise InputError("no calibration files; name one with --calibration or [calibration] text")
    paths = [Path(file) for file in files]
    generator = np.random.default_rng(settings.seed)
    skipped = Skipped()
    documents = _read(paths, max(_LEAST_READ, _READ_PER_TOKEN * settings.tokens), generator, skipped)
    names = ", ".join(map(str, paths))
    stream = pack(documents, tokenizer, bos)
    if stream.size < 2:
        raise InputError(f"{names}: the text gives {stream.size} tokens; give a text of a few thousand words")
    if int(stream.max()) >= vocab_size:
        raise InputError(
            f"{names}: the tokenizer gives token {int(stream.max())}, the model's vocabulary has {vocab_size}; "
            "tokenizer.json belongs to another checkpoint"
        )
    tokens = choose(stream, settings, generator)
    passed_over = skipped.warning()
    warnings = [] if passed_over is None else [passed_over]
    return CalibrationTokens(tokens, (*warnings, *_warnings(tokens, settings, tokenizer)))


def check_length(settings: CalibrationText, context_length: int) -> None:
    """Raise InputError when sequences are longer than the model's context."""
    if settings.length > context_length:
        raise InputError(
            f"[calibration] length is {settings.length}, the model's context {context_length}; "
            f"set length to {context_length} or less"
        )


def sequences_asked(settings: CalibrationText) -> int:
    """How many sequences ``settings.tokens`` needs: whole ones, so the last may bring more tokens than asked for."""
    return -(-settings.tokens // settings.length)


def pack(documents: Iterable[str], tokenizer: Tokenizer, bos: int | None) -> Tokens:
    """Tokens of all documents one after the other, (total,), each document after ``bos``; documents without any go."""
    start = [] if bos is None else [bos]
    stream: list[int] = []
    for document in documents:
        tokens = tokenizer.encode_plain(tokenizer.document(document, bos))
        if tokens:
            stream += start
            stream += tokens
    return np.array(stream, np.int64)


def choose(stream: Tokens, settings: CalibrationText, generator: np.random.Generator) -> Tokens:
    """Cut ``stream`` (total,) into sequences and take some: (sequences, length), in the order of the text."""
    length = min(settings.length, stream.size)
    available = stream.size // length
    cut = stream[: available * length].reshape(available, length)
    count = min(sequences_asked(settings), available)
    bounds = np.arange(count + 1) * available // count  # part i: bounds[i] to bounds[i + 1]
    return cut[generator.integers(bounds[:-1], bounds[1:])]


def _warnings(tokens: Tokens, settings: CalibrationText, tokenizer: Tokenizer) -> list[str]:
    found = []
    if tokens.size < settings.tokens:
        found.append(
            f"calibration text is short: {tokens.size} tokens in {len(tokens)} sequences of {tokens.shape[1]}, "
            f"{settings.tokens} were asked for; give more text"
        )
    different = distinct_runs(tokens)
    if different < _LEAST_DISTINCT:
        found.append(
            f"calibration text repeats itself: only {different:.0%} of its runs of {_RUN} tokens are different; "
            "give more varied text"
        )
    fit = language_fit(tokens, tokenizer)
    if fit.broken > _MOST_BROKEN or fit.saved < _LEAST_SAVED:
        found.append(
            f"calibration text is in a language that the tokenizer hardly knows: {fit.bytes_per_token:.2f} bytes a "
            f"token, {fit.expected:.2f} expected of its vocabulary, {fit.broken:.0%} of the tokens are parts of "
            "characters; give text such as the model was trained on"
        )
    return found


def distinct_runs(tokens: Tokens) -> float:
    """Share of different ones among the runs of 8 tokens within the sequences; 1 when sequences are shorter."""
    if tokens.shape[1] < _RUN:
        return 1.0
    runs = np.lib.stride_tricks.sliding_window_view(tokens, _RUN, axis=1).reshape(-1, _RUN)
    return len(np.unique(runs, axis=0)) / len(runs)


@dataclass(frozen=True)
class LanguageFit:
    """How well a tokenizer's vocabulary fits a text.

    - ``bytes_per_token`` of the text, special tokens left out
    - ``expected``: mean UTF-8 length of the vocabulary's tokens when the one of rank r occurs 1/r times (Zipf's law;
      byte-pair vocabularies are in the order of frequency)
    - ``broken``: share of tokens that are no whole characters
    """

    bytes_per_token: float
    expected: float
    broken: float

    @property
    def saved(self) -> float:
        """Bytes that a token saves over single bytes, as a share of those expected."""
        return (self.bytes_per_token - 1) / (self.expected - 1)


def language_fit(tokens: Tokens, tokenizer: Tokenizer) -> LanguageFit:
    """Measure how well the vocabulary fits the text of ``tokens``."""
    added = set(tokenizer.library.get_added_tokens_decoder())
    known = sorted(set(tokenizer.library.get_vocab(with_added_tokens=True).values()) - added - tokenizer.bytes.keys())
    pieces = [
        str(tokenizer.library.id_to_token(token)).replace("\u2581", " ") for token in known
    ]  # SentencePiece's space
    byte_level = _is_byte_level(tokenizer)
    lengths = np.array([len(piece) if byte_level else len(piece.encode()) for piece in pieces], np.float64)
    weights = 1 / np.arange(1, len(known) + 1)
    expected = max(float((lengths * weights).sum() / weights.sum()), 1.01)
    text = [token for token in tokens.ravel().tolist() if token not in tokenizer.special]
    size = sum(len(tokenizer.decode(row).encode()) for row in tokens.tolist())
    broken = {token for token in set(text) if "\N{REPLACEMENT CHARACTER}" in tokenizer.decode([token])}
    return LanguageFit(size / max(len(text), 1), expected, sum(token in broken for token in text) / max(len(text), 1))


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary writes each byte as one character: then é, two bytes, has no character of its own."""
    return tokenizer.library.token_to_id("\u0120") is not None  # how such vocabularies write the space


def _read(paths: Sequence[Path], budget: int, generator: np.random.Generator, skipped: Skipped) -> list[str]:
    """Documents of all files, or about ``budget`` bytes of them, each file its share."""
    sizes = [_size(path) for path in paths]
    total = sum(sizes)
    documents = []
    for path, size in zip(paths, sizes, strict=True):
        if total <= budget:
            documents += documents_of(path, skipped)
        elif is_list(path):
            documents += _spread(read_json_list(path, skipped), max(1, budget * size // total))
        else:
            pieces = max(1, budget * size // total // _PIECE)
            documents += _sample(path, size, pieces, generator, skipped)
    return documents


def check_files(names: Sequence[str]) -> None:
    """Raise InputError when one is missing, empty, a directory, or by its first 16 KiB no text."""
    for path in map(Path, names):
        size = _size(path)
        with path.open("rb") as file:
            decode(file.read(_PIECE), path, final=size <= _PIECE)


def _size(path: Path) -> int:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"calibration text {path} cannot be read: {error.strerror}; name a text file") from error
    if path.is_dir():
        raise InputError(f"calibration text {path} is a directory; name the files in it")
    if not size:
        raise InputError(f"calibration text {path} is empty; give a file with text in it")
    return size


def _spread(texts: list[str], budget: int) -> list[str]:
    """Texts of a list, evenly chosen where they have more than ``budget`` bytes."""
    return texts[:: max(1, sum(len(text.encode()) for text in texts) // budget)]


def _sample(path: Path, size: int, pieces: int, generator: np.random.Generator, skipped: Skipped) -> list[str]:
    """``pieces`` pieces of a large file, one from each of as many equal stretches of it."""
    bounds = np.arange(pieces + 1) * size // pieces
    latest = np.maximum(bounds[1:] - _PIECE, bounds[:-1])
    starts = generator.integers(bounds[:-1], latest + 1)
    documents: list[str] = []
    with path.open("rb") as file:
        decode(file.read(_PIECE), path, final=False)  # what is no text says so at its start
        file.seek(0)
        for start in starts.tolist():
            file.seek(max(start, file.tell()))  # a line of the piece before may have reached further
            documents += _lines(path, file, skipped) if is_lines(path) else _passage(path, file)
    if not documents:
        raise InputError(f"{path}: no text was found at {pieces} places of its {size:,} bytes; give another file")
    return documents


def _lines(path: Path, file: BinaryIO, skipped: Skipped) -> list[str]:
    """Documents of the ``.jsonl`` lines from the next one on, a piece's bytes of them but at least one."""
    _skip_to_line(path, file)
    stop = file.tell() + _PIECE
    found = []
    while file.tell() < stop and (line := _whole_line(path, file)):
        if line.strip():
            start = file.tell() - len(line)
            text = line_text(decode(line, path, start=start), f"{path}, at byte {start}", skipped)
            found += [] if text is None else [text]
    return found


def _skip_to_line(path: Path, file: BinaryIO) -> None:
    """Go to where a line begins: here, if it does, else behind the next line break."""
    if file.tell():
        file.seek(file.tell() - 1)
        _whole_line(path, file)


def _whole_line(path: Path, file: BinaryIO) -> bytes:
    start = file.tell()
    line = file.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
        raise InputError(f"{path}: the line at byte {start} is longer than {_LONGEST_LINE:,} bytes; a line is one text")
    return line


def _passage(path: Path, file: BinaryIO) -> list[str]:
    """The piece of a plain text that starts here, from its first line on; whole characters only."""
    start = file.tell()
    piece = file.read(_PIECE)
    if start:
        first = piece.find(b"\n") + 1
        if not first:  # no line begins here: skip the rest of the character that the piece may start in
            first = next((at for at, byte in enumerate(piece[:4]) if byte & 0xC0 != 0x80), 0)
        start, piece = start + first, piece[first:]
    text = decode(piece, path, start=start, final=False)
    return [text] if text.strip() else []
