"""``edgepress compare``: profiles held against the first one."""

import argparse
from pathlib import Path

NAME = "compare"
HELP = (
    "compare profiles: ratios with intervals, what changed in bundle, device and versions; what is not alike is "
    "refused. Or two bundles, measured here in turn"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument(
        "profiles",
        nargs="+",
        metavar="FILE",
        help="files of `edgepress profile`, or two bundles; the first is the base",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="of two bundles: how long they are measured, a fraction of a second each in turn",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="of two bundles: compute threads")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare each profile with the first, or two bundles."""
    import json
    from dataclasses import asdict

    from edgepress.errors import InputError
    from edgepress.runtime.profile.compare import compare, format_comparison
    from edgepress.runtime.profile.records import read_profile

    if len(arguments.profiles) < 2:
        raise InputError("there is one profile; give at least two")
    if any(Path(path).is_dir() for path in arguments.profiles):
        return _in_turn(arguments)
    base, *others = (read_profile(Path(path)) for path in arguments.profiles)
    found = {path: compare(base, other) for path, other in zip(arguments.profiles[1:], others, strict=True)}
    if arguments.json:
        print(json.dumps({path: asdict(comparison) for path, comparison in found.items()}, indent=2))
    else:
        print(
            "\n\n".join(f"{path} against {arguments.profiles[0]}\n{format_comparison(c)}" for path, c in found.items())
        )
    return 0


def _in_turn(arguments: argparse.Namespace) -> int:
    """Compare two bundles."""
    import json

    from edgepress.errors import InputError
    from edgepress.runtime.profile.in_turn import compare_in_turn

    if len(arguments.profiles) != 2 or not all(Path(path).is_dir() for path in arguments.profiles):
        raise InputError("bundles are compared two at a time, and with bundles; give two folders, or files of profiles")
    base, other = map(Path, arguments.profiles)
    found = compare_in_turn(base, other, seconds=arguments.seconds, threads=arguments.threads)
    if arguments.json:
        ratio = {"ratio": found.ratio.value, "low": found.ratio.low, "high": found.ratio.high}
        print(json.dumps({"quantity": found.quantity, **ratio, "pairs": found.pairs}))
    else:
        print(f"{other} against {base}\n{found}")
    return 0
