"""``edgepress blame``: which tensors cost how much quality, and how many bytes."""

import argparse
from pathlib import Path

from edgepress.commands.export import add_revision_argument

NAME = "blame"
HELP = "print which tensors of a bundle cost how much quality, found by putting them back in full precision"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("--model", required=True, help="the checkpoint that the bundle was made from (needs torch)")
    add_revision_argument(parser)
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="what the model reads, .jsonl with a `text` on each line or plain; may be given several times "
        "(default: the model's own generations)",
    )
    parser.add_argument(
        "--group",
        choices=("tensor", "layer"),
        help="put back each projection by itself or a layer's together (default: tensor, unless a transform of the "
        "bundle that came from calibration, such as awq, forbids it)",
    )
    parser.add_argument("--tokens", type=int, default=2048, metavar="N", help="tokens of the text that are read")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that compute (default: all cores)")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the table or JSON."""
    import json

    from edgepress.exporter.learn.loss_by_tensor import format_loss_by_tensor, measure_loss_by_tensor
    from edgepress.terminal.progress import progress

    found = measure_loss_by_tensor(
        arguments.bundle,
        arguments.model,
        revision=arguments.revision,
        text=arguments.text,
        group=arguments.group,
        tokens=arguments.tokens,
        threads=arguments.threads,
        progress=progress,
    )
    print(json.dumps(found.to_json(), indent=2) if arguments.json else format_loss_by_tensor(found))
    return 0
