"""How a bundle of any kind is opened where nobody says what it is to do."""

from pathlib import Path
from typing import Any

from edgepress.runtime.measures.bench import default_prompt_lengths
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.workloads import find_kind

DECODED = 16  # tokens of an answer


def default_opening(bundle: Path, threads: int | None = None, decoded: int = DECODED) -> dict[str, Any]:
    """What :func:`.rounds.opening` reads, JSON values; a text has room for its prompt and ``decoded`` tokens after it.

    Raises:
        InputError: the bundle cannot be opened.

    """
    kind, lengths = find_kind(bundle), None
    if kind.name == "language model":
        lengths = default_prompt_lengths(bundle, decoded)
    asked = {} if "decode_tokens" not in kind.settings else {"prompt_lengths": lengths, "decode_tokens": decoded}
    settings = kind.settle(bundle, Settings(**asked))  # type: ignore[arg-type]  # of the two types that they have
    told = settings.to_json()
    return {
        "bundle": str(bundle.resolve()),
        "threads": threads,
        "cores": None,
        "context": settings.longest,
        "graph": None,
        "prepared": True,
        "work": {name: told[name] for name in kind.settings},
    }
