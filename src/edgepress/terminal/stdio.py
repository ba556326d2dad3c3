"""Standard streams that are closed, in an encoding that lacks characters, or whose reader is gone.

A report never ends the work that it reports on: characters that the encoding lacks are replaced, and what a closed
pipe cannot take is dropped.
"""

import codecs
import io
import os
import select
import sys
from contextlib import suppress

_HANDLER = "edgepress.written_plainly"
_STRICT = {"strict", "surrogateescape", "backslashreplace"}  # what Python chooses; all else somebody asked for
_PLAIN = {"→": "->", "…": "...", "−": "-", "–": "-", "×": "x"}  # what reports have beyond ASCII
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in {9, 10}}


def set_up() -> None:
    """Open what is closed, and let no character that the encoding of a stream lacks end the process.

    A closed descriptor would be given to the next file that is opened, and what a library says on stderr would then be
    written into it. How to write what an encoding lacks can be chosen with PYTHONIOENCODING.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(opened, True)
    codecs.register_error(_HANDLER, _written_plainly)
    for number, name in enumerate(("stdout", "stderr"), start=1):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
        elif isinstance(stream, io.TextIOWrapper) and stream.errors in _STRICT:
            stream.reconfigure(errors=_HANDLER)


def _written_plainly(error: UnicodeError) -> tuple[str, int]:
    """Letters that say the same for our own signs, escapes for all else."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in text), error.end


def say(line: str) -> None:
    """Print a line on stderr; control characters, which a file name may have, as escapes.

    When nobody can read it the work goes on.
    """
    with suppress(OSError):
        print(line.translate(_CONTROLS), file=sys.stderr, flush=True)


def is_broken() -> bool:
    """Whether the reader of stdout is gone, as far as this system can tell."""
    if not hasattr(select, "poll"):  # Windows
        return True
    watched = select.poll()
    watched.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))


def let_go() -> None:
    """Drop what stdout and stderr can no longer take: the interpreter would try again and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
