"""``edgepress profile``: measure a bundle on a device, pass by pass, into a file that can be continued."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgepress.runtime.profile.records import Profile

NAME = "profile"
HELP = "measure a bundle on a device: speed with intervals, memory by phase, energy, heat over time, operators"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments; None is what :class:`~edgepress.runtime.profile.settings.Settings` has by default."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a directory that an export wrote")
    parser.add_argument(
        "--device", default="local", metavar="NAME", help="as `edgepress devices` lists it (default: local)"
    )
    parser.add_argument("--out", metavar="FILE", help="JSON lines to write or continue (default: BUNDLE-DEVICE.jsonl)")
    parser.add_argument(
        "--html", metavar="FILE", help="write a page with pictures, too: one file that needs no network"
    )
    parser.add_argument("--passes", nargs="+", metavar="PASS", help="what to measure (default: everything)")
    parser.add_argument(
        "--prompt-lengths",
        type=int,
        nargs="+",
        metavar="N",
        help="tokens to prefill (default: 64 256); of an encoder and a decoder the source's tokens, frames or samples",
    )
    parser.add_argument(
        "--rows", type=int, nargs="+", metavar="N", help="examples of a run, of a bundle with one graph (default: 1)"
    )
    parser.add_argument(
        "--length", type=int, metavar="N", help="of such a bundle: tokens of a text, or size of other free axes"
    )
    parser.add_argument(
        "--inputs",
        metavar="FILE",
        help="of such a bundle: an .npz file, an array for each input (default: made up)",
    )
    parser.add_argument("--decode-tokens", type=int, metavar="N", help="tokens to decode in each turn (default: 64)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="compute threads (default: the number that is fastest)"
    )
    parser.add_argument("--context", type=int, metavar="N", help="tokens that the caches hold")
    parser.add_argument("--graph", metavar="FILE", help="which of the bundle's graphs runs")
    parser.add_argument("--no-prepare", action="store_true", help="load the bundle itself, not its prepared form")
    parser.add_argument(
        "--precision", type=float, metavar="SHARE", help="how narrow 95 %% intervals have to be (default: 0.02)"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="how long a pass may go on for it (default: 60)")
    parser.add_argument("--rounds", type=int, metavar="N", help="fewest rounds of a pass (default: 5)")
    parser.add_argument("--sustained-seconds", type=float, metavar="S", help="work without a pause (default: 60)")
    parser.add_argument(
        "--memory-limit", type=float, metavar="MB",
        help="say whether it answers with so much memory (pass `limit`, which without this finds the least)",
    )  # fmt: skip
    parser.add_argument("--idle-seconds", type=float, metavar="S", help="measuring idle power (default: 10)")
    parser.add_argument("--cool-below", type=float, metavar="CELSIUS", help="begin each round when no zone is hotter")
    parser.add_argument(
        "--meter",
        metavar="FILE",
        help="add an external meter's CSV log to a profile that was taken with --energy external",
    )
    parser.add_argument(
        "--fit",
        metavar="NAME",
        help="write NAME.toml, a roofline of the device for `edgepress plan --device NAME.toml`, with its own error",
    )
    parser.add_argument(
        "--native",
        metavar="FILE",
        help="measure by this native runner (runtime/native/), without an interpreter: pass `native`",
    )
    parser.add_argument("--energy", nargs="+", metavar="SOURCE", help="energy counters (default: all that are there)")


def run(arguments: argparse.Namespace) -> int:
    """Measure, then print what was found."""
    import sys

    from edgepress.runtime.profile.page.page import write_page
    from edgepress.runtime.profile.profiling import profile
    from edgepress.runtime.profile.roofline.fitting import NEEDED
    from edgepress.runtime.profile.settings import Settings
    from edgepress.runtime.profile.summary import format_summary

    asked: dict[str, Any] = {
        "prompt_lengths": arguments.prompt_lengths and tuple(arguments.prompt_lengths),
        "rows": arguments.rows and tuple(arguments.rows),
        "length": arguments.length,
        "inputs": arguments.inputs,
        "decode_tokens": arguments.decode_tokens,
        "threads": arguments.threads,
        "context": arguments.context,
        "precision": arguments.precision,
        "least_rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "sustained_seconds": arguments.sustained_seconds,
        "idle_seconds": arguments.idle_seconds,
        "memory_limit_bytes": arguments.memory_limit and round(arguments.memory_limit * 1e6),
        "cool_celsius": arguments.cool_below,
        "energy": arguments.energy and tuple(arguments.energy),
        "graph": arguments.graph,
        "native": arguments.native,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    passes = arguments.passes
    if passes is None and (arguments.memory_limit or arguments.native):
        passes = ["limit"] * bool(arguments.memory_limit) + ["native"] * bool(arguments.native)
    name = f"{Path(arguments.bundle).resolve().name}-{arguments.device.replace(':', '-').replace('/', '-')}.jsonl"
    out = Path(arguments.out or name)
    if arguments.meter:
        return _add_log(out, arguments.meter)
    fitted = _place_of(arguments.fit, arguments.device)
    if fitted is not None:
        first = ["threads"] if arguments.threads is None else []
        passes = list(dict.fromkeys([*first, *NEEDED, *(passes or ())]))
    found = profile(
        arguments.bundle,
        out=out,
        device=arguments.device,
        settings=Settings(prepared=not arguments.no_prepare, **given),
        passes=passes,
        told=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(format_summary(found))
    if arguments.html:
        write_page(found, Path(arguments.html))
    print(f"  every sample is in {out}")
    if fitted is not None:
        _write_fit(found, fitted)
    return 0


def _place_of(fit: str | None, device: str) -> Path | None:
    """The file that ``--fit`` names; refused before anything is measured where something else lies there."""
    if fit is None:
        return None
    from edgepress.errors import InputError
    from edgepress.targets.devices import check_target

    if not Path(fit).name:
        raise InputError(f"--fit {fit!r} is no name of a device; give one such as my-board")
    if device.partition(":")[0] == "emulator":
        raise InputError(f"{device} is emulated: its times are not those of a device; --fit needs a real one")
    path = Path(fit if fit.endswith(".toml") else f"{fit}.toml")
    check_target(path)
    return path


def _write_fit(found: "Profile", path: Path) -> None:
    """Make figures of the device from what was measured, and say how far off they are."""
    from edgepress.runtime.profile.roofline.fitting import fit, lines_of
    from edgepress.targets.devices import write_roofline

    roofline = fit(found, path.stem)
    write_roofline(path, roofline)
    print("\n".join([f"{path}: figures for `edgepress plan --device {path}`", *lines_of(roofline)]))


def _add_log(out: Path, log: str) -> int:
    """Add a meter's log to a profile that is there."""
    from edgepress.runtime.profile.energies import add_log
    from edgepress.runtime.profile.records import Writer, read_profile
    from edgepress.runtime.profile.summary import format_summary

    writer = Writer(out, read_profile(out), new=False)
    try:
        add_log(writer, Path(log))
    finally:
        writer.close()
    print(format_summary(writer.profile))
    return 0
