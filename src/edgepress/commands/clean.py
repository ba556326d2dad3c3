"""``edgepress clean``: show what stopped exports and the caches have left, and remove it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from edgepress.terminal.stdio import say

NAME = "clean"
HELP = "show what stopped exports have left beside their output, or what the caches hold, and remove it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "place", type=Path, nargs="?", metavar="DIR", help="an output, or a directory with outputs (default: this one)"
    )
    parser.add_argument("--cache", action="store_true", help="the caches: prepared forms, verified bundles and others")
    parser.add_argument("--yes", action="store_true", help="remove without asking; else only a terminal is asked")


def run(arguments: argparse.Namespace) -> int:
    """Show, ask and remove; exit 1 when something that was to be removed is still there."""
    if arguments.cache:
        _clean_caches(arguments.yes)
    if arguments.cache and arguments.place is None:
        return 0
    return 0 if _clean_outputs(arguments.place or Path(), arguments.yes) else 1


def _clean_outputs(place: Path, is_sure: bool) -> bool:
    import time

    from edgepress.disk.leftovers import find_leftovers, format_age, format_bytes

    found, now = find_leftovers(place), time.time()
    if not found:
        print(f"{place}: nothing is left of an export")
        return True
    rows = [("what", "size", "last written", "output", "holds")]
    for each in found:
        holds = each.what + (f"; stays: {each.kept_because}" if each.kept_because else "")
        output = each.output.name + ("" if each.output.exists() else " (not there)")
        rows.append((each.path.name, format_bytes(each.size), format_age(now - each.changed), output, holds))
    _print_table(rows)
    removable = [each for each in found if not each.kept_because]
    if not _is_asked_for(len(removable), sum(each.size for each in removable), is_sure):
        return True
    left = [each.path for each in removable if not each.remove()]
    for path in left:
        say(f"edgepress: {path} is still there: it is in use by now, or cannot be removed")
    print(f"removed {len(removable) - len(left)} of {len(removable)}")
    return not left


def _clean_caches(is_sure: bool) -> None:
    import time

    from edgepress.disk.cache import CACHES, cache_entries, cache_folder
    from edgepress.disk.leftovers import empty_cache, format_age, format_bytes, measure

    now, rows, total = time.time(), [("cache", "entries", "size", "last written", "folder")], 0
    full = [name for name in CACHES if cache_entries(name)]
    for name in CACHES:
        entries = cache_entries(name)
        size, changed = measure(*entries)
        age = format_age(now - changed) if entries else ""
        rows.append((name, f"{len(entries)}", format_bytes(size), age, f"{cache_folder(name)}"))
        total += size
    _print_table(rows)
    if _is_asked_for(len(full), total, is_sure):
        for name in full:
            empty_cache(name)
        print(f"removed what was in {', '.join(full)}; it is made or fetched again when it is needed")


def _is_asked_for(count: int, size: int, is_sure: bool) -> bool:
    """Whether to remove it: --yes, or an answer at a terminal."""
    from edgepress.disk.leftovers import format_bytes

    if not count or is_sure:
        return bool(count)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        print(f"nothing is removed; --yes removes {count}, {format_bytes(size)}")
        return False
    try:
        return input(f"remove {count}, {format_bytes(size)}? [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    shown = [[cell if cell.isprintable() else ascii(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
