"""``edgepress verify``: recompute a bundle's hashes."""

import argparse
import re
from pathlib import Path

from edgepress.stdio import say

NAME = "verify"
HELP = "recompute every hash of a bundle and name what differs"

_HASH = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument(
        "--expect",
        metavar="HASH",
        help="the bundle's hash, noted elsewhere: what `export` and `verify` print. A bundle that was changed together "
        "with its manifest has another; exit 1 if it is",
    )
    parser.add_argument(
        "--adapter", type=Path, metavar="FILE", help="also check that an adapter file is whole and fits the bundle"
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit 0 when the bundle is sound and the one that is expected; else name what is not, and exit 1."""
    from edgepress.exchange import read_steady
    from edgepress.manifest import bundle_hash, find_problems, read_manifest
    from edgepress.progress import progress

    bundle: Path = arguments.bundle
    expected = None if arguments.expect is None else _hash(arguments.expect)
    if not bundle.is_dir():
        read_manifest(bundle)  # raises the InputError that says what is wrong
    problems = read_steady(bundle, lambda: find_problems(bundle, progress))
    if not problems and expected not in {None, found := bundle_hash(bundle)}:
        problems = [f"its hash is {found}, not {expected}: it is another bundle, though its files fit its manifest"]
    if not problems and arguments.adapter is not None:
        problems = _adapter_problems(bundle, arguments.adapter)
    for problem in problems:
        say(f"{bundle}: {problem}")
    if not problems:
        manifest = read_manifest(bundle)
        size = sum(entry.size for entry in manifest.files.values())
        print(f"{bundle}: {len(manifest.files) + 1} files, {size / 1e6:,.1f} MB, all as written")
        print(f"  hash {bundle_hash(bundle)}")
        if arguments.adapter is not None:
            print(f"{arguments.adapter}: as written, and fits the bundle")
    return 1 if problems else 0


def _adapter_problems(bundle: Path, adapter: Path) -> list[str]:
    from edgepress.adapter_file import adapter_for
    from edgepress.errors import InputError

    try:
        adapter_for(bundle, adapter)
    except InputError as error:
        return [str(error)]
    return []


def _hash(text: str) -> str:
    from edgepress.errors import InputError

    found = _HASH.fullmatch(text.strip().lower())
    if found is None:
        raise InputError(f"--expect is {text!r}; give the 64 hexadecimal digits that `edgepress verify` prints")
    return found[1]
