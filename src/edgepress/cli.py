"""The command line: it parses, calls one function of the library and prints; nothing is computed here.

Exit codes: 0 good, 1 a check failed, 2 wrong usage or input.
"""

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol, cast

from edgepress import __version__, commands
from edgepress.errors import EdgepressError
from edgepress.modules import modules_in
from edgepress.terminal import stdio
from edgepress.text.documents import check_unicode

_MAKE, _LOOK = ("export", "plan", "adapter"), ("inspect", "check", "blame", "verify")
_FIRST = (*_MAKE, *_LOOK, "prepare", "run", "chat", "bench", "eval", "clean")


class Command(Protocol):
    """What a file under ``commands/`` has: one verb."""

    NAME: str
    HELP: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _commands() -> list[Command]:
    names = [module.name for module in modules_in(commands.__path__) if not module.ispkg]
    found = [cast("Command", importlib.import_module(f"{commands.__name__}.{name}")) for name in names]
    return sorted(found, key=lambda command: _FIRST.index(command.NAME) if command.NAME in _FIRST else len(_FIRST))


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Names a default where there is one that the text of the option does not tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        tells = "(default" in (action.help or "")
        return action.help if tells or action.default in (None, False, []) else super()._get_help_string(action)


@cache
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgepress",
        description="From a checkpoint to a measured bundle: quantize, export, verify, run and measure a model.",
        epilog="Exit codes: 0 good, 1 a check failed, 2 wrong usage or input.",
    )
    parser.add_argument("--version", action="version", version=f"edgepress {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for command in _commands():
        verb = verbs.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.HELP,
            parents=[common],
            formatter_class=_Help,
        )
        command.add_arguments(verb)
        verb.set_defaults(command=command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    stdio.set_up()
    # Read by OpenMP when torch is loaded: its threads sleep where they wait for each other. Spinning, as they do by
    # default, an export took six times the CPU time on a machine that had other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        parser = _parser()
        parsed, rest = parser.parse_known_args(arguments)
        _take_files(parser, parsed, rest)
        if parsed.verb is None:
            parser.print_help(sys.stderr)
            return 2
        # A build server stops a job by SIGTERM: let it unwind, so that nothing half-written is left.
        signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
        return _run(parsed)
    finally:
        stdio.let_go()


def _take_files(parser: argparse.ArgumentParser, parsed: argparse.Namespace, rest: list[str]) -> None:
    """Files may stand behind options: argparse takes those in front of them alone, and leaves the others over."""
    wrong = [word for word in rest if word.startswith("-")] if hasattr(parsed, "files") else rest
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        parsed.files += rest


def _run(parsed: argparse.Namespace) -> int:
    try:
        _check_unicode(parsed)
        code: int = parsed.command.run(parsed)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        stdio.say("edgepress: interrupted; nothing half-written is left")
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and stdio.is_broken():
            return 0  # `edgepress … | head`: the reader has what it wanted
        message = _message(error)
        if message is None or parsed.debug:
            raise
        stdio.say(f"edgepress: {message}")
        return error.exit_code if isinstance(error, EdgepressError) else 2


def _message(error: Exception) -> str | None:
    """What the user is told of an error; None of one that nobody foresaw, which is shown with its traceback."""
    if isinstance(error, EdgepressError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("edgepress"):
        return f"{error.name} is not installed; pip install 'edgepress[export]'"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free some, or choose another output" if error.errno == errno.ENOSPC else "--debug shows where"
        return f"{where}{error.strerror or error}; {remedy}"
    if isinstance(error, UnicodeEncodeError):  # such as the working directory's name
        return f"{error.object[:200]!a} is not Unicode, and libraries take names in UTF-8 only; rename it"
    return None


def _check_unicode(parsed: argparse.Namespace) -> None:
    """Refuse bytes that are no UTF-8: no tokenizer takes them, and of names neither does a manifest or onnxruntime."""
    for name, value in vars(parsed).items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str | Path):
                check_unicode(str(entry), f"{name.replace('_', '-')} {str(entry)[:80]!a}")


if __name__ == "__main__":
    raise SystemExit(main())
