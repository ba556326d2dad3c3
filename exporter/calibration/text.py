"""Which tokens the calibration sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgepress.errors import InputError
from edgepress.exporter.recipe import CalibrationText
from edgepress.runtime.evaluate import read_documents


@dataclass(frozen=True)
class CalibrationTokens:
    """``tokens`` int64 (sequences, length), and what is doubtful about them, a line each."""

    tokens: NDArray[np.int64]
    warnings: tuple[str, ...] = ()


def read_calibration(
    files: Sequence[str | Path],
    *,
    tokenizer: Path,
    bos: int | None,
    settings: CalibrationText,
    vocab_size: int,
    context_length: int,
) -> CalibrationTokens:
    """Tokenize documents, each after its beginning-of-sequence token, and choose sequences of ``settings.length``.

    Raises:
        InputError: there is no text, or it is not this model's.

    """
    if settings.length > context_length:
        raise InputError(f"[calibration] length {settings.length} is more than the context of {context_length}")
    library = Tokenizer.from_file(str(tokenizer))
    stream: list[int] = []
    for file in files:
        for document in read_documents(Path(file)):
            stream += [] if bos is None else [bos]
            stream += library.encode(document, add_special_tokens=False).ids
    count = len(stream) // settings.length
    if not count:
        raise InputError(f"the calibration text has {len(stream)} tokens, less than one sequence of {settings.length}")
    tokens = np.array(stream[: count * settings.length], np.int64).reshape(count, settings.length)
    if tokens.max() >= vocab_size:
        raise InputError(f"{tokenizer} gives token {tokens.max()}; the model has {vocab_size}")
    wanted = min(count, max(1, settings.tokens // settings.length))
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(count)[:wanted])
    return CalibrationTokens(tokens[chosen])
