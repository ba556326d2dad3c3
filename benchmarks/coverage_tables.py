"""Tables of coverage.py's samples: how many classes are right, and each class with its verdict and the reason."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from common import table

VERDICTS = ("right", "wrong", "refused", "not made")
_CELL = 160  # characters of a reason
_PACKAGES = re.compile(r"/\S*/site-packages/")


def report(samples: Sequence[Mapping[str, Any]]) -> str:
    """Counts of both tools; the classes that are right; all others with the reason."""
    theirs = [sample["genai"] for sample in samples if sample.get("genai")]
    tools = {"edgepress": samples, "onnxruntime-genai's builder": theirs}
    counts = [
        [name, *(str(sum(one["verdict"] == verdict for one in found)) for verdict in VERDICTS)]
        for name, found in tools.items()
    ]
    rows = [
        [
            f"`{sample['model_type']}`",
            sample["verdict"],
            (sample.get("genai") or {}).get("verdict", ""),
            difference_or_reason(sample),
        ]
        for sample in by_verdict(samples)
    ]
    return "\n\n".join(
        [
            table(["of the same small checkpoints", *VERDICTS], counts),
            table(["class", "edgepress", "genai", "largest difference, or why not"], rows),
        ]
    )


def by_verdict(samples: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that are right first, then the others; each by name."""
    return sorted(samples, key=lambda one: (VERDICTS.index(one["verdict"]), one["model_type"]))


def difference_or_reason(sample: Mapping[str, Any]) -> str:
    """The last cell of a row."""
    return f"{sample['difference']:.1e}" if sample["verdict"] == "right" else _reason(sample["reason"])


def _reason(reason: str) -> str:
    """A reason as a cell: without the list of what is known, and without folders of this machine."""
    plain = _PACKAGES.sub("", reason.partition("; known: ")[0])
    words = [word for word in plain.replace("|", "\\|").split(" ") if "edgepress-coverage" not in word]
    text = " ".join(words)
    if len(text) <= _CELL:
        return text
    begun = text[: _CELL - 1]
    return f"{begun if begun.count('`') % 2 == 0 else begun[: begun.rindex('`')]}…"  # no command is cut in two
