"""``edgepress pack``: several bundles in one folder, as an app ships them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgepress.bundle.packs import Index

NAME = "pack"
HELP = "put several bundles into one folder with one index: names, bytes, memory added up"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "bundles", nargs="+", metavar="NAME=BUNDLE", help="a bundle directory and the name that it has in the pack"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--no-measure", action="store_true", help="do not open the bundles for their memory on this machine"
    )
    parser.add_argument("--json", action="store_true", help="print the index as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Make the pack, then say what it holds."""
    from edgepress.runtime.packing.make import pack
    from edgepress.terminal.progress import progress

    index = pack(_named(arguments.bundles), arguments.out, measure=not arguments.no_measure, progress=progress)
    print(index.serialize() if arguments.json else describe_pack(arguments.out, index))
    return 0


def _named(words: list[str]) -> dict[str, Path]:
    """Bundles by name; InputError where a word is no pair or a name is there twice."""
    from edgepress.errors import InputError

    found: dict[str, Path] = {}
    for word in words:
        name, separator, bundle = word.partition("=")
        if not separator or not bundle:
            raise InputError(f"{word} is no NAME=BUNDLE, such as embedder=build/minilm")
        if name in found:
            raise InputError(f"two bundles are called {name}: {found[name]} and {bundle}; a name is of one")
        found[name] = Path(bundle)
    return found


def describe_pack(folder: Path, index: "Index") -> str:
    """What a pack holds, as lines for a terminal."""
    from edgepress.terminal.tables import format_table

    def megabytes(size: int | None) -> str:
        return "" if size is None else f"{size / 1e6:,.1f}"

    rows = [
        (
            name,
            packed.task,
            megabytes(packed.bytes),
            megabytes(None if packed.memory is None else packed.memory.adds),
            megabytes(None if packed.memory is None else packed.memory.peak),
        )
        for name, packed in index.bundles.items()
    ]
    lines = [
        f"{folder}: {len(rows)} bundles, {index.bytes / 1e6:,.1f} MB",
        format_table(("name", "task", "MB", "adds, MB of memory", "alone, MB"), rows, right=(2, 3, 4)),
    ]
    if index.together is None:
        return "\n".join([*lines, "memory was not measured"])
    return "\n".join(
        [
            *lines,
            f"all open: {megabytes(index.together.peak)} MB at most, measured in one process; "
            f"{megabytes(index.added_up)} by adding up",
            f"one at a time: {megabytes(index.one_at_a_time)} MB, that of the largest",
            f"resident memory, measured on {index.measured_on}",
        ]
    )
