"""``edgepress check``: where every node of a model would run on a target."""

import argparse
from pathlib import Path

from edgepress.terminal.stdio import say

NAME = "check"
HELP = "say for every node of a bundle or ONNX file where it would run on a target, and why not on the accelerator"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("path", type=Path, help="a bundle directory or an .onnx file, of edgepress or not")
    parser.add_argument("--target", required=True, help="the device class, such as android-nnapi or qnn-htp")
    parser.add_argument("--soc", default="", help="one of the target's chips, such as sm8650")
    parser.add_argument(
        "--require", choices=["full"], help="full: exit 1 unless every node is on the target's provider"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the report as text or JSON; exit 1 when what is required does not hold."""
    import json

    from edgepress.exporter.graph.passes import find_pass, pass_for
    from edgepress.targets import find_target
    from edgepress.targets.legality.check import check
    from edgepress.targets.legality.report import Placement, format_report

    def fixed_by(placement: Placement) -> str:
        if placement.cause == "dynamic shape":
            return find_pass("bind-shapes").name
        return pass_for(placement.domain, placement.op) if placement.cause == "op" else ""

    target = find_target(arguments.target)
    own = target.form not in (None, "ort-format")
    if own and (made_for := _made_for(arguments.path)) and target.name not in made_for:
        say(
            f"{arguments.path} was made for {', '.join(made_for)}, and {target.name} needs a graph of its own: "
            f"`edgepress export … --target {target.name}` writes it; this is of the bundle's other graph"
        )
    reports = check(arguments.path, target, arguments.soc, fixed_by)
    full = all(report.full for report in reports)
    if arguments.json:
        print(json.dumps({"full": full, "models": [report.to_json() for report in reports]}, indent=2))
    else:
        print("\n\n".join(map(format_report, reports)))
    return 1 if arguments.require == "full" and not full else 0


def _made_for(path: Path) -> tuple[str, ...]:
    """The targets of a bundle that is no language model; none where ``path`` is anything else."""
    from edgepress.bundle.manifest import MANIFEST_NAME, read_manifest

    manifest = read_manifest(path) if (path / MANIFEST_NAME).is_file() else None
    return () if manifest is None or manifest.task is None else tuple(manifest.targets)
