"""How text becomes the inputs of a graph, as data: the entry ``text`` of a task."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import msgspec

from edgepress.schema import Count, Size

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


@dataclass(frozen=True, kw_only=True)
class Text:
    """How texts become the graph's inputs: token ids ``ids``, (batch, tokens), and what goes with them.

    ``mask`` is the input that is 1 where there is a token and 0 where there is padding, ``types`` the one that is 0 in
    a text and 1 in the one that it is paired with; None where the graph has none. A text is cut after ``longest``
    tokens, those of the tokenizer's own counted, and padded at ``side`` with ``pad``: to the longest of its batch, or
    to ``length``. ``prompts`` are put before a text by their name, such as ``query``, and ``prompt`` is the name of the
    one for a text of which nothing is said.
    """

    tokenizer: _Name = "tokenizer.json"
    ids: _Name = "input_ids"
    mask: _Name | None = None
    types: _Name | None = None
    longest: Count
    length: Count | None = None
    pad: Size = 0
    side: Literal["left", "right"] = "right"
    prompts: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None


def check_text(text: Text) -> None:
    """Raise a ValueError where two entries disagree."""
    if text.length is not None and text.length < text.longest:
        raise ValueError(f"text: texts have up to {text.longest} tokens and are padded to {text.length}")
    if text.prompt is not None and text.prompt not in text.prompts:
        raise ValueError(f"text: prompt is {text.prompt!r}, and there is none of that name")
