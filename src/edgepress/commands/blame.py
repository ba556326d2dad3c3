"""``edgepress blame``: which tensors cost how much quality, and how many bytes."""

import argparse
from pathlib import Path

from edgepress.commands.export import add_revision_argument

NAME = "blame"
HELP = "print which tensors of a bundle cost how much quality, found by putting them back in full precision"
_OF_LANGUAGE_MODELS = ("text", "group", "tokens")
_OF_TASKS = ("task", "data", "samples")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("--model", required=True, help="what the bundle was made from (needs torch)")
    add_revision_argument(parser)
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="FILE",
        help="what a language model reads, .jsonl with a `text` on each line or plain; may be given several times "
        "(default: the model's own generations)",
    )
    parser.add_argument(
        "--group",
        choices=("tensor", "layer"),
        help="of a language model, put back each projection by itself or a layer's together (default: tensor, unless a "
        "transform of the bundle that came from calibration, such as awq, forbids it)",
    )
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of the text that are read (default: 2,048)")
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="SOURCE",
        help="what another model is given: a folder or file, as for export's --calibration; may be given several times "
        "(default: made-up inputs)",
    )
    parser.add_argument("--samples", type=int, metavar="N", help="samples of the data that are used (default: 16)")
    parser.add_argument("--task", help="what another model is for (default: what the bundle is for)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that compute (default: all cores)")
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the table or JSON."""
    import json

    from edgepress.errors import InputError
    from edgepress.runtime.loading import find_task_of
    from edgepress.terminal.progress import progress

    task = find_task_of(arguments.bundle)
    wrong = _OF_TASKS if task is None else _OF_LANGUAGE_MODELS
    if given := [f"--{name}" for name in wrong if getattr(arguments, name)]:
        what = "a language model" if task is None else f"for {task.name}"
        right = ", ".join(f"--{name}" for name in (_OF_LANGUAGE_MODELS if task is None else _OF_TASKS))
        raise InputError(f"{arguments.bundle} is {what}, so there is nothing for {given[0]}; it takes {right}")
    if task is not None and task.sequences is not None:
        raise InputError(
            f"{arguments.bundle} is for {task.name}, by an encoder and a decoder, and blame takes bundles of one "
            "graph; `edgepress eval` measures the whole"
        )
    if task is not None:
        from edgepress.exporter.learn.graphs.loss_by_part import format_loss_by_part, measure_loss_by_part

        parts = measure_loss_by_part(
            arguments.bundle,
            arguments.model,
            task=arguments.task,
            revision=arguments.revision,
            data=arguments.data,
            samples=16 if arguments.samples is None else arguments.samples,
            threads=arguments.threads,
            progress=progress,
        )
        print(json.dumps(parts.to_json(), indent=2) if arguments.json else format_loss_by_part(parts))
        return 0
    from edgepress.exporter.learn.loss_by_tensor import format_loss_by_tensor, measure_loss_by_tensor

    found = measure_loss_by_tensor(
        arguments.bundle,
        arguments.model,
        revision=arguments.revision,
        text=arguments.text,
        group=arguments.group,
        tokens=2048 if arguments.tokens is None else arguments.tokens,
        threads=arguments.threads,
        progress=progress,
    )
    print(json.dumps(found.to_json(), indent=2) if arguments.json else format_loss_by_tensor(found))
    return 0
