"""``edgepress compare``: profiles held against the first one."""

import argparse
from pathlib import Path

NAME = "compare"
HELP = (
    "compare profiles: ratios with intervals, what changed in bundle, device and versions; what is not alike is refused"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "profiles", nargs="+", metavar="FILE", help="files of `edgepress profile`; the first is the base"
    )
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare each profile with the first."""
    import json
    from dataclasses import asdict

    from edgepress.errors import InputError
    from edgepress.runtime.profile.compare import compare, format_comparison
    from edgepress.runtime.profile.records import read_profile

    if len(arguments.profiles) < 2:
        raise InputError("there is one profile; give at least two")
    base, *others = (read_profile(Path(path)) for path in arguments.profiles)
    found = {path: compare(base, other) for path, other in zip(arguments.profiles[1:], others, strict=True)}
    if arguments.json:
        print(json.dumps({path: asdict(comparison) for path, comparison in found.items()}, indent=2))
    else:
        print(
            "\n\n".join(f"{path} against {arguments.profiles[0]}\n{format_comparison(c)}" for path, c in found.items())
        )
    return 0
