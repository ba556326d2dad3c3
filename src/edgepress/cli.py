"""The command line: it parses, calls one function of the library and prints; nothing is computed here.

Exit codes: 0 good, 1 a check failed, 2 wrong usage or input.
"""

import argparse
import errno
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from edgepress import __version__, commands
from edgepress.errors import EdgepressError

_ORDER = ("export", "plan", "inspect", "check", "blame", "verify", "prepare", "run", "bench", "eval", "emulator")


class Command(Protocol):
    """What a file under ``commands/`` has: one verb."""

    NAME: str
    HELP: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def _commands() -> list[Command]:
    names = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    found = [cast("Command", importlib.import_module(f"{commands.__name__}.{name}")) for name in names]
    return sorted(found, key=lambda command: _ORDER.index(command.NAME) if command.NAME in _ORDER else len(_ORDER))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgepress",
        description="From a checkpoint to a measured bundle: quantize, export, verify, run and measure a model.",
        epilog="Exit codes: 0 good, 1 a check failed, 2 wrong usage or input.",
    )
    parser.add_argument("--version", action="version", version=f"edgepress {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for command in _commands():
        verb = verbs.add_parser(
            command.NAME,
            help=command.HELP,
            description=command.HELP,
            parents=[common],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_arguments(verb)
        verb.set_defaults(command=command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parsed = _parser().parse_args(arguments)
    # A build server stops a job by SIGTERM: let it unwind, so that nothing half-written is left.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        code: int = parsed.command.run(parsed)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `edgepress … | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except EdgepressError as error:
        if parsed.debug:
            raise
        print(f"edgepress: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if parsed.debug or (error.name or "").startswith("edgepress"):
            raise
        print(f"edgepress: {error.name} is not installed; pip install 'edgepress[export]'", file=sys.stderr)
        return 2
    except OSError as error:
        if parsed.debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free some, or choose another output" if error.errno == errno.ENOSPC else "--debug shows where"
        print(f"edgepress: {where}{error.strerror or error}; {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("edgepress: interrupted; nothing half-written is left", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
