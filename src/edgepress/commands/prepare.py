"""``edgepress prepare``: write the memory-mapped form of a bundle into the cache."""

import argparse
from pathlib import Path

from edgepress.stdio import say

NAME = "prepare"
HELP = "write the memory-mapped form of a bundle into the cache, as the first load would"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where to keep it (default: $EDGEPRESS_CACHE or the user's cache)"
    )
    parser.add_argument(
        "--check", action="store_true", help="recompute every hash of the prepared form; exit 1 if one differs"
    )
    parser.add_argument("--force", action="store_true", help="write it anew even if it is there")


def prepare_first(bundle: Path, wanted: bool) -> None:
    """Make the prepared form with a bar before a verb loads ``bundle``; what keeps it from it, the load itself says."""
    from contextlib import suppress

    from edgepress.errors import InputError
    from edgepress.progress import progress
    from edgepress.runtime.prepared import prepare

    if wanted:
        with suppress(InputError):
            prepare(bundle, progress=progress)


def run(arguments: argparse.Namespace) -> int:
    """Prepare, or check what is prepared; say where it is and what it takes on the disk."""
    from edgepress.progress import progress
    from edgepress.runtime.prepared import check, prepare

    directory = prepare(arguments.bundle, cache=arguments.cache, force=arguments.force, progress=progress)
    problems = check(directory) if arguments.check else []
    for problem in problems:
        say(problem)
    if not problems:
        blocks = sum(path.stat().st_blocks for path in directory.iterdir() if path.is_file())
        print(f"{directory}: {blocks * 512 / 1e6:,.1f} MB on disk{', all as written' if arguments.check else ''}")
    return 1 if problems else 0
