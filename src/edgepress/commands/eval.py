"""``edgepress eval``: how well a bundle predicts text."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgepress.commands.export import add_revision_argument
from edgepress.commands.run import add_adapter_argument, add_loading_arguments, add_place_arguments
from edgepress.stdio import say

if TYPE_CHECKING:
    from edgepress.runtime.evaluate import LogitsSource

NAME = "eval"
HELP = "score a bundle on text: bits per byte, perplexity, distance from its reference model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this verb's arguments."""
    add_loading_arguments(parser)
    add_place_arguments(parser)
    add_adapter_argument(parser)
    parser.add_argument(
        "--text",
        type=Path,
        required=True,
        metavar="FILE",
        help="one document, or .jsonl: a `text` on each line, or .json: a list",
    )
    parser.add_argument("--reference", metavar="MODEL", help="the checkpoint, to compare with (needs torch)")
    add_revision_argument(parser)
    parser.add_argument("--context", type=int, default=256, metavar="N", help="tokens of each window")
    parser.add_argument("--stride", type=int, default=128, metavar="N", help="new tokens of each window but the first")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Score, then print the result."""
    import json

    from edgepress.commands.prepare import prepare_first
    from edgepress.cores import usable_cores
    from edgepress.fingerprint import leak_warning
    from edgepress.progress import progress
    from edgepress.runtime.evaluate import evaluate, format_evaluation, read_documents

    documents = read_documents(arguments.text)
    prepare_first(arguments.bundle, not arguments.no_prepare and arguments.on in (None, "cpu"), arguments.graph)
    warning = leak_warning(arguments.bundle, documents)
    if warning is not None:
        say(f"warning: {warning}")
    with progress(sum(len(document.encode()) for document in documents), "scoring", "B") as advance:
        result = evaluate(
            arguments.bundle,
            documents,
            context=arguments.context,
            stride=arguments.stride,
            reference=None
            if arguments.reference is None
            else reference_for(
                arguments.bundle,
                arguments.reference,
                revision=arguments.revision,
                threads=usable_cores() if arguments.threads is None else arguments.threads,
            ),
            threads=arguments.threads,
            prepared=not arguments.no_prepare,
            on=arguments.on,
            soc=arguments.soc,
            graph=arguments.graph,
            adapter=arguments.adapter,
            progress=advance,
        )
    print(json.dumps(result.to_json(), indent=2) if arguments.json else format_evaluation(result))
    return 0


def reference_for(bundle: Path, model: str, *, threads: int, revision: str | None = None) -> "LogitsSource":
    """Open the checkpoint that a bundle is compared with, on half of ``threads``.

    Raises:
        InputError: what reads checkpoints is not installed, or the two have other tokens.

    """
    from edgepress.errors import InputError

    try:
        from edgepress.exporter.model.reference import Reference
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgepress"):
            raise
        raise InputError(f"--reference needs {error.name}; pip install 'edgepress[export]'") from error
    own = max(1, threads - threads // 2)  # the bundle has the others
    reference = Reference(model, revision=revision, threads=own)
    _refuse_pruned_vocabulary(bundle, model, reference.vocab_size)
    return reference


def _refuse_pruned_vocabulary(bundle: Path, model: str, tokens: int) -> None:
    """Raise InputError when the bundle's tokens were renumbered, and ``model`` has others, ``tokens`` in all."""
    from edgepress.errors import InputError
    from edgepress.manifest import read_manifest
    from edgepress.runtime.config import read_config

    left = read_config(bundle).vocab_size
    if left != tokens and any("vocabulary" in step for step in read_manifest(bundle).steps):
        raise InputError(
            f"{bundle} has {left} tokens since its vocabulary was pruned, and {model} has {tokens}: they are not the "
            "same tokens, so that no distribution over them can be compared. Leave --reference out and compare bits "
            f"per byte: `edgepress inspect {bundle}` has the original's on the same text as the bundle's"
        )
