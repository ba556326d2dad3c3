"""Where a token's time goes: by operator and by layer, against what this machine's memory and cores reach alone."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgepress.runtime.profile.page.page import write_page
from edgepress.runtime.profile.page.pictures import Picture, layers, operators, roofline
from edgepress.runtime.profile.profiling import Told, profile
from edgepress.runtime.profile.settings import Settings
from edgepress.runtime.profile.workloads import find_kind
from edgepress.terminal.tables import format_table

_ROUNDS = 3  # the fewest that an interval needs: shares are asked for, not small differences
_PICTURES = (operators, layers, roofline)


def break_down(
    bundle: Path,
    *,
    threads: int | None = None,
    prompt_lengths: Sequence[int] | None = None,
    graph: str | None = None,
    prepared: bool = True,
    html: Path | None = None,
    told: Told = lambda _line: None,
) -> str:
    """Profile a bundle here as far as that needs; return its tables as text.

    Args:
        bundle: the directory that an export wrote.
        threads: compute threads; by default the number that is fastest.
        prompt_lengths: tokens of prompts, of a language model.
        graph: which of its graphs.
        prepared: start from the prepared form.
        html: a page with the same as pictures.
        told: hears in a line what happens.

    Raises:
        InputError: as for :func:`~edgepress.runtime.profile.profiling.profile`.

    """
    passes = [*(["threads"] if threads is None else []), "speed", "operators"]
    passes += ["roofline"] if find_kind(bundle).name == "language model" else []
    settings = Settings(
        prompt_lengths=None if prompt_lengths is None else tuple(prompt_lengths),
        threads=threads,
        graph=graph,
        prepared=prepared,
        exact_rounds=_ROUNDS,
    )
    with TemporaryDirectory(prefix="edgepress-profile-") as folder:
        found = profile(bundle, out=Path(folder) / "profile.jsonl", settings=settings, passes=passes, told=told)
    if html is not None:
        write_page(found, html)
    return "\n\n".join(_text(picture) for draw in _PICTURES if (picture := draw(found)) is not None)


def _text(picture: Picture) -> str:
    header, *rows = picture.table
    return f"{picture.heading}. {picture.about}\n{format_table(header, rows, range(1, len(header)))}"
