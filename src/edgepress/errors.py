"""The two kinds of errors with a message for the user; the command line turns them into exit codes.

Every message is one or two lines: it names the thing and the numbers, then the remedy.
"""

_LONGEST = 1500  # characters of a message


class EdgepressError(Exception):
    """An error with a message written for the user; never shown with a traceback unless ``--debug`` asks for it."""

    exit_code = 2

    def __str__(self) -> str:
        """The message, shortened in the middle where it quotes a long text from a file."""
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


class InputError(EdgepressError):
    """Wrong usage or input: the file, the config or the flag cannot be used as it is. Exit code 2."""


class CheckFailed(EdgepressError):  # noqa: N818 - it is a result, named as the exit code's documentation names it
    """The input was usable and a check on it failed (a hash differs, parity is lost). Exit code 1."""

    exit_code = 1
