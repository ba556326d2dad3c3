"""What a tokenizer may ask for: text that grows no more than so much, and a trial in a process that may be killed.

A tokenizer.json is a small program. Rules that replace text can make it a thousand times longer, each; a regular
expression can take forever on the right text; and the library, when it runs out of memory, ends the process. What can
be counted is counted each time that one is read (:func:`check_growth`, microseconds). What cannot is tried once, when
a bundle is made and when it is first verified, in a process of its own (:func:`try_tokenizer`).
"""

import base64
import json
import math
import os
import re
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Library

from edgepress.errors import InputError
from edgepress.schema import read_bytes

LARGEST = 256 << 20  # bytes of a tokenizer's file: the largest vocabularies take 40 MB
MOST_GROWTH = 1000  # characters that one may become
MOST_ADDED = 1000  # tokens put around a text
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")  # "Regex" may be written with escapes
_CHILDREN = ("normalizers", "pretokenizers", "processors", "decoders")
_UNICODE_GROWTH = 18  # U+FDFA in NFKC
_READ_SECONDS, _TEXT_SECONDS = 60, 5  # of a processor: to read a tokenizer, and then for all of TEXTS
_WALL_SECONDS = 600  # where processor time has no limit (Windows), or the machine is busy
_MEMORY = 4 << 30  # bytes of addresses: the largest tokenizers take one of them
_TAKE_ANOTHER = "take the tokenizer from where the model came from"
_TRIAL = f"import sys; from {__name__} import trial; raise SystemExit(trial(sys.argv[1]))"
_FAILED = 3  # exit code of a trial that says why
# Runs that expressions which backtrack are known to get lost in. What they look for comes after a sign that ends the
# run: an expression does not begin where it is nowhere in the text. At last, text of several scripts.
_RUNS = ("a", " ", "\n", "0", "aA", "a ", "x.", "'s", "\t ", "-_", "é", "の", "\U0001f600")
_ENDS = ("", "\n", f"!{string.printable}", f"\0{string.printable}")
TEXTS = (*(run * (2000 // len(run)) + end for run in _RUNS for end in _ENDS), "".join(map(chr, range(32, 1024))))


def check_growth(library: Library, where: str | Path, remedy: str) -> None:
    """Hold that no character becomes more than ``MOST_GROWTH``, and that few tokens are put around a text.

    Raises:
        InputError: one may. It names ``where``, the part and the number.

    """
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        growth = _growth(_described(getattr(library, part)))
        if growth > MOST_GROWTH:
            raise InputError(
                f"{where}: its {part} may make one character {min(growth, 10**9):,} long or longer, and "
                f"{MOST_GROWTH:,} is the most that is taken; {remedy}"
            )
    added = _added(_described(library.post_processor))
    if added > MOST_ADDED:
        raise InputError(
            f"{where}: its post_processor puts {added:,} tokens around a text, and {MOST_ADDED:,} is the most that is "
            f"taken; {remedy}"
        )


def _described(part: Any) -> Mapping[str, Any]:
    """A part of the tokenizer as JSON has it, empty where there is none."""
    found: Mapping[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return found


def _children(part: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    return next((part[key] for key in _CHILDREN if key in part), ())


def _growth(part: Mapping[str, Any]) -> int:
    """The most characters that a part makes of one."""
    kind = part.get("type")
    if kind == "Sequence":
        return math.prod(map(_growth, _children(part)))
    if kind in ("Replace", "Prepend"):
        return max(1, len(part.get("content", part.get("prepend", ""))))
    if kind in ("NFKC", "NFKD", "NFD"):
        return _UNICODE_GROWTH
    if kind == "Precompiled":
        return _longest(base64.b64decode(part.get("precompiled_charsmap") or ""))
    return 2 if kind == "ByteLevel" and "pretokenizers" not in part else 1


def _longest(charsmap: bytes) -> int:
    """The longest text in a SentencePiece map: a size in four bytes, a trie of that size, texts that end in 0."""
    texts = charsmap[4 + int.from_bytes(charsmap[:4], "little") :]
    return max(1, *(len(text) for text in texts.split(b"\0")))


def _added(part: Mapping[str, Any]) -> int:
    """How many tokens a post-processor puts around one text, or around two."""
    if part.get("type") == "Sequence":
        return sum(map(_added, _children(part)))
    ids = {name: len(token["ids"]) for name, token in part.get("special_tokens", {}).items()}
    names = [[piece["SpecialToken"]["id"] for piece in part.get(key, ()) if "SpecialToken" in piece]
             for key in ("single", "pair")]  # fmt: skip
    return max((sum(ids.get(name, 1) for name in pieces) for pieces in names), default=0)


def try_tokenizer(folder: Path) -> None:
    """Read a folder's tokenizer and encode and decode ``TEXTS``, in a process with limits of time and memory.

    One without regular expressions is not tried: nothing else in it goes on for ever.

    Raises:
        InputError: it does not come to an end, takes more memory than there is, or the library gives up.

    """
    path = folder / "tokenizer.json"
    content = read_bytes(path, _TAKE_ANOTHER, largest=LARGEST)
    if b"Regex" not in content and not _ESCAPED_LETTER.search(content):
        return
    command = [sys.executable, "-P", "-c", _TRIAL, str(folder.absolute())]  # -P: no module out of where we are
    search = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": search, "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=_WALL_SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: its rules take more than {_WALL_SECONDS} s for a text; {_TAKE_ANOTHER}") from error
    if done.returncode == _FAILED:
        raise InputError(done.stdout.decode("utf-8", "replace").strip())
    if done.returncode:
        raise InputError(
            f"{path}: a trial with {len(TEXTS)} texts of 2,000 characters took more than {_TEXT_SECONDS} s of a "
            f"processor or {_MEMORY >> 30} GiB ({_ended(done.returncode)}): a rule in it does not come to an "
            f"end; {_TAKE_ANOTHER}"
        )


def _ended(code: int) -> str:
    return f"it was stopped by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def trial(name: str) -> int:
    """What the process of a trial does with the folder ``name``: returns 0, or ``_FAILED`` after saying why."""
    from edgepress.runtime.tokenizer import is_panic, read_tokenizer

    folder = Path(name)
    _limit("RLIMIT_AS", _MEMORY)
    _limit("RLIMIT_CPU", _READ_SECONDS)
    try:
        library = read_tokenizer(folder).library
    except InputError as error:
        print(error)
        return _FAILED
    _limit("RLIMIT_CPU", math.ceil(time.process_time()) + _TEXT_SECONDS)
    for text in TEXTS:
        try:
            library.decode(library.encode(text).ids)
        except BaseException as error:
            if is_panic(error):
                said = f"it gives up on a text that begins with {text[:2]!r} ({str(error)[:200]})"
                print(f"{folder / 'tokenizer.json'}: {said}; {_TAKE_ANOTHER}")
                return _FAILED
            if not isinstance(error, Exception):
                raise
            # A text with tokens that it does not have: so it may say, and who encodes such a text is told.
    return 0


def _limit(name: str, most: int) -> None:
    """Set a limit of this process; Windows has none."""
    if sys.platform != "win32":
        import resource

        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        resource.setrlimit(number, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
