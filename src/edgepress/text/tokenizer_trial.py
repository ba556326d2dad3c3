"""Regular expressions of a tokenizer, tried in a process with limits: some take exponential time on a few words."""

import math
import os
import re
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

from edgepress.errors import InputError
from edgepress.schema import read_bytes
from edgepress.text.tokenizer import is_panic, read_tokenizer
from edgepress.text.tokenizer_limits import LARGEST, TAKE_ANOTHER

_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")  # "Regex" may be written with escapes
_READ_SECONDS, _TEXT_SECONDS = 60, 5  # of a processor: to read a tokenizer, and then for all of TEXTS
_WALL_SECONDS = 600  # where processor time has no limit (Windows), or the machine is busy
_MEMORY = 4 << 30  # bytes of addresses: the largest tokenizers take one of them
_TRIAL = f"import sys; from {__name__} import trial; raise SystemExit(trial(sys.argv[1]))"
_FAILED = 3  # exit code of a trial that says why
# Runs that expressions which backtrack are known to get lost in. What they look for comes after a sign that ends the
# run: an expression does not begin where it is nowhere in the text. At last, text of several scripts.
_RUNS = ("a", " ", "\n", "0", "aA", "a ", "x.", "'s", "\t ", "-_", "é", "の", "\U0001f600")
_ENDS = ("", "\n", f"!{string.printable}", f"\0{string.printable}")
TEXTS = (*(run * (2000 // len(run)) + end for run in _RUNS for end in _ENDS), "".join(map(chr, range(32, 1024))))


def try_tokenizer(folder: Path) -> None:
    """Read a folder's tokenizer and encode and decode ``TEXTS``, in a process with limits of time and memory.

    One without regular expressions is not tried: nothing else in it goes on for ever.

    Raises:
        InputError: it does not finish in time, takes more memory than there is, or the library gives up.

    """
    path = folder / "tokenizer.json"
    content = read_bytes(path, TAKE_ANOTHER, largest=LARGEST)
    if b"Regex" not in content and not _ESCAPED_LETTER.search(content):
        return
    command = [sys.executable, "-P", "-c", _TRIAL, str(folder.absolute())]  # -P: no module out of where we are
    search = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": search, "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                              timeout=_WALL_SECONDS)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: its rules take more than {_WALL_SECONDS} s for a text; {TAKE_ANOTHER}") from error
    if done.returncode == _FAILED:
        raise InputError(done.stdout.decode("utf-8", "replace").strip())
    if done.returncode:
        raise InputError(
            f"{path}: a trial with {len(TEXTS)} texts of 2,000 characters took more than {_TEXT_SECONDS} s of a "
            f"processor or {_MEMORY >> 30} GiB ({_ended(done.returncode)}): a rule in it does not finish; "
            f"{TAKE_ANOTHER}"
        )


def _ended(code: int) -> str:
    return f"it was stopped by {signal.Signals(-code).name}" if code < 0 else f"it ended with exit code {code}"


def trial(name: str) -> int:
    """What the process of a trial does with the folder ``name``: returns 0, or ``_FAILED`` after saying why."""
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
                print(f"{folder / 'tokenizer.json'}: {said}; {TAKE_ANOTHER}")
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
