"""``edgepress prepare``: write the memory-mapped form of a bundle into the cache, and measure how it is best opened."""

import argparse
from pathlib import Path

from edgepress.terminal.stdio import say

NAME = "prepare"
HELP = "write the memory-mapped form of a bundle into the cache, and measure which threads and pieces suit this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where to keep it (default: $EDGEPRESS_CACHE or the user's cache)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="make the form once more from the bundle and compare it with the one that is there; exit 1 if it differs",
    )
    parser.add_argument("--force", action="store_true", help="write it anew even if it is there")
    parser.add_argument(
        "--no-tune",
        action="store_true",
        help="do not measure how many threads, kept to which cores, spinning or not, and which pieces of a prompt are "
        "fastest here; what was measured before stays (it is kept in the default place alone)",
    )


def prepare_first(bundle: Path, wanted: bool, graph: str | None = None) -> None:
    """Verify ``bundle`` and make the prepared form of the graph that runs, with bars, before a verb loads it.

    What keeps it from being prepared, the load itself says.
    """
    from contextlib import suppress

    from edgepress.errors import InputError
    from edgepress.runtime.config import read_config
    from edgepress.runtime.graph_file.first_use import verify_first
    from edgepress.runtime.prepared import prepare
    from edgepress.terminal.progress import progress

    verify_first(bundle, progress)
    if wanted:
        with suppress(InputError):
            prepare(bundle, model=read_config(bundle, graph).model, progress=progress)


def run(arguments: argparse.Namespace) -> int:
    """Prepare, or check what is prepared; say where it is and what it takes on the disk."""
    from edgepress.runtime.prepared import check, find_form, prepare
    from edgepress.terminal.progress import progress

    bundle, cache = arguments.bundle, arguments.cache
    directory = None if arguments.force or not arguments.check else find_form(bundle, cache)
    if directory is None:
        directory = prepare(bundle, cache=cache, force=arguments.force, progress=progress)
    problems = check(bundle, cache=cache, progress=progress) if arguments.check else []
    for problem in problems:
        say(f"{problem}; `edgepress prepare {bundle} --force` writes it anew")
    if not problems:
        blocks = sum(path.stat().st_blocks for path in directory.iterdir() if path.is_file())
        checked = ", byte for byte what the bundle gives" if arguments.check else ""
        print(f"{directory}: {blocks * 512 / 1e6:,.1f} MB on disk{checked}")
    if cache is None and not arguments.check and not arguments.no_tune:
        _tune(bundle, directory)
    return 1 if problems else 0


def _tune(bundle: Path, directory: Path) -> None:
    """Measure how a language model is best opened here, keep it with its form, and say what it was."""
    from edgepress.runtime.loading import find_task_of
    from edgepress.runtime.tuning.measure import describe, tune
    from edgepress.runtime.tuning.record import write_tuning
    from edgepress.terminal.progress import progress

    if find_task_of(bundle) is not None:
        return
    tuning = tune(bundle, progress=progress)
    write_tuning(directory, tuning)
    for line in describe(tuning):
        print(line)
