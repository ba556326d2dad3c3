"""``edgepress verify``: recompute a bundle's hashes."""

import argparse
from pathlib import Path

from edgepress.stdio import say

NAME = "verify"
HELP = "recompute every hash of a bundle and name what differs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")


def run(arguments: argparse.Namespace) -> int:
    """Exit 0 when the bundle is sound; else name each file that is not, and exit 1."""
    from edgepress.manifest import find_problems, read_manifest

    if not arguments.bundle.is_dir():
        read_manifest(arguments.bundle)  # raises the InputError that says what is wrong
    problems = find_problems(arguments.bundle)
    for problem in problems:
        say(f"{arguments.bundle}: {problem}")
    if not problems:
        manifest = read_manifest(arguments.bundle)
        size = sum(entry.size for entry in manifest.files.values())
        print(f"{arguments.bundle}: {len(manifest.files) + 1} files, {size / 1e6:,.1f} MB, all as written")
    return 1 if problems else 0
