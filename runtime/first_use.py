"""A bundle before it is first used: files are what the manifest says, functions and tokenizer come to an end."""

from pathlib import Path

from edgepress import verified
from edgepress.progress import Progress, silent
from edgepress.runtime.functions import check_functions
from edgepress.text.tokenizer_trial import try_tokenizer


def verify_first(bundle: Path, progress: Progress = silent) -> None:
    """Verify ``bundle`` unless that was done, see :func:`edgepress.verified.verify_first`, and try what is in it then.

    Raises:
        InputError: it is not as it was written, or a function or the tokenizer does not come to an end.

    """
    verified.verify_first(bundle, progress, _try)


def _try(bundle: Path) -> None:
    for graph in sorted(path for path in bundle.rglob("*.onnx") if path.is_file()):
        check_functions(graph)
    if (bundle / "tokenizer.json").is_file():  # a bundle may be used with token ids alone
        try_tokenizer(bundle)
