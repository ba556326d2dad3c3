"""Shorter prompts: the words that tell a model least are left out, by the model's own reckoning.

A token's information is −ln of the probability that the model gives it after what stands before it; a word's is the
mean of its tokens'. Words with the least go first (Li et al. 2023, Selective Context, section 3; LLMLingua, Jiang et
al. 2023, section 4.2, does so with tokens). What it costs is measured in docs/benchmarks.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.finite import check_logits
from edgepress.runtime.generation.sampling import log_probability
from edgepress.runtime.model import Model
from edgepress.text.windows import windows

_WORD = re.compile(r"\S+\s*|\s+")  # with the space after it; space at the beginning stands for itself


@dataclass(frozen=True)
class Compressed:
    """The shorter ``text``, and the tokens before and after."""

    text: str
    tokens_before: int
    tokens_after: int


def compress(model: Model, text: str, keep: float) -> Compressed:
    """Leave out the words of least information, until at most the share ``keep`` of the tokens is left.

    The first word always stays, as nothing is known before it. The model's own text is forgotten.

    Args:
        model: an open bundle.
        text: any length; of one that is longer than the context each token is seen after half a context at least.
        keep: above 0, below 1.

    Raises:
        InputError: ``keep`` is out of its range, or there is no text.

    """
    if not 0 < keep < 1:
        raise InputError(f"the share of a prompt to keep is {keep}; it must be above 0 and below 1")
    encoding = model.tokenizer.library.encode(text, add_special_tokens=False)
    if not encoding.ids:
        raise InputError("there is no text to compress; give some")
    words = [(match.start(), match[0]) for match in _WORD.finditer(text)]
    begins = np.array([begin for begin, _ in words])
    starts = np.array([max(0, stop - 1) for _, stop in encoding.offsets])  # a token may begin with the space before it
    owners = np.clip(np.searchsorted(begins, starts, side="right") - 1, 0, None)  # (tokens,): the word of each
    information = information_of(model, encoding.ids)
    counts = np.bincount(owners, minlength=len(words))
    means = np.bincount(owners, information, minlength=len(words)) / np.maximum(counts, 1)
    means[0] = np.inf
    kept = np.zeros(len(words), bool)
    left = keep * len(encoding.ids)
    for word in np.argsort(-means, kind="stable"):
        if counts[word] > left and word:
            break
        kept[word] = True
        left -= counts[word]
    short = "".join(word for (_, word), stays in zip(words, kept, strict=True) if stays)
    return Compressed(short, len(encoding.ids), len(model.tokenizer.encode_plain(short)))


def information_of(model: Model, tokens: Sequence[int]) -> NDArray[np.float64]:
    """−ln p of each token after those before it, (tokens,); 0 for the first where no token begins a text."""
    bos = model.config.bos
    text = np.array(tokens if bos is None else [bos, *tokens], np.int64)
    found = np.zeros(len(text))
    place = 1
    for window in windows(text, model.context, max(1, model.context // 2)):
        model.reset()
        scored = window.tokens.size - window.scored
        rows = model.append(window.tokens[:-1].tolist(), scored - 1)  # row i predicts token i + 1
        check_logits(rows, f"{model.config.bundle}, the prompt")
        for row, token in zip(rows, window.tokens[scored:], strict=True):
            found[place] = -log_probability(row, int(token))
            place += 1
    model.reset()
    return found[len(text) - len(tokens) :]
