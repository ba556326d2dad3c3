"""Checks before a bundle is first used: hashes of its files, size of its graph, a trial of its tokenizer."""

from pathlib import Path

from edgepress.bundle import verified
from edgepress.terminal.progress import Progress, silent


def verify_first(bundle: Path, progress: Progress = silent) -> None:
    """Verify ``bundle`` unless that was done (:mod:`edgepress.bundle.verified`), and check its parts then.

    Raises:
        InputError: it is not as it was written, its graph is too large once its functions are inlined, or its
            tokenizer does not finish within its limits.

    """
    verified.verify_first(bundle, progress, _try)


def _try(bundle: Path) -> None:
    # here, as a bundle is tried once and opened often
    from edgepress.runtime.graph_file.functions import check_functions
    from edgepress.text.tokenizer_trial import try_tokenizer

    for graph in sorted(path for path in bundle.rglob("*.onnx") if path.is_file()):
        check_functions(graph)
    if (bundle / "tokenizer.json").is_file():  # a bundle may be used with token ids alone
        try_tokenizer(bundle)
