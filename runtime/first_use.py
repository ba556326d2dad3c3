"""A bundle before it is first used: its files are what the manifest says, and its tokenizer comes to an end."""

from pathlib import Path

from edgepress import verified
from edgepress.progress import Progress, silent
from edgepress.runtime.tokenizer_limits import try_tokenizer


def verify_first(bundle: Path, progress: Progress = silent) -> None:
    """Verify ``bundle`` unless that was done, see :func:`edgepress.verified.verify_first`, and try its tokenizer then.

    Raises:
        InputError: it is not as it was written, or its tokenizer does not come to an end.

    """
    verified.verify_first(bundle, progress, _try_tokenizer)


def _try_tokenizer(bundle: Path) -> None:
    if (bundle / "tokenizer.json").is_file():  # a bundle may be used with token ids alone
        try_tokenizer(bundle)
