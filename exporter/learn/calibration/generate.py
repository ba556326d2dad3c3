"""Calibration without text: what the model itself writes, as in LLM-QAT (Liu et al. 2023, section 3.1).

The model is exported in 8 bits, rounded to nearest, which needs no calibration, and sampled from at temperature 1 over
the whole vocabulary: the text is then drawn from what the model learned, rare tokens too.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.cores import usable_cores
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.exporter.streams.text import CalibrationTokens, check_length, sequences_asked
from edgepress.finite import check_logits
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.sampling import softmax
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session

GENERATOR = "int8"  # the preset that the text is sampled from
_BUNDLE = "generator"  # its place while it writes


def generate_calibration(
    checkpoint: Path,
    settings: CalibrationText,
    *,
    folder: Path,
    context_length: int,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTokens:
    """Sample ``settings.tokens`` tokens, rounded up to whole sequences, from the model in ``checkpoint``.

    Each sequence begins with the model's bos token, or with one drawn evenly from the vocabulary when it has none. A
    text that ends before its sequence is full is followed by another one, begun in the same way. Sequence i is drawn
    from the seed (``settings.seed``, i), so that the same seed gives the same text.

    The 8-bit model lies in ``folder`` while this runs; ``progress`` is called with the number of tokens after each.

    Raises:
        InputError: ``length`` is above the context, or the model cannot be exported.

    """
    from edgepress.exporter.export import export

    check_length(settings, context_length)
    bundle = folder / _BUNDLE
    shutil.rmtree(bundle, ignore_errors=True)  # what a kill left
    try:
        export(checkpoint, out=bundle, recipe=GENERATOR, context_length=settings.length, threads=threads)
        config = read_config(bundle)
        session = CpuSession(config, threads=threads or usable_cores(), context=settings.length, prepared=False)
        tokens = np.empty((sequences_asked(settings), settings.length), np.int64)
        for index, sequence in enumerate(tokens):
            _fill(sequence, session, config, np.random.default_rng([settings.seed, index]), progress)
        del session  # its memory-mapped weights go with the directory
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
    return CalibrationTokens(tokens)


def _fill(
    sequence: NDArray[np.int64],
    session: Session,
    config: BundleConfig,
    generator: np.random.Generator,
    progress: Callable[[int], None] | None,
) -> None:
    """Write texts into ``sequence`` (length,) until it is full; the token that ends a text is left out."""
    logits: NDArray[np.float32] | None = None
    for place in range(sequence.size):
        token = None if logits is None else draw(logits, generator)
        if token is None or token in config.eos:
            token = int(generator.integers(config.vocab_size)) if config.bos is None else config.bos
            session.reset()
        sequence[place] = token
        logits = session.append([token])[-1]
        check_logits(logits, f"the model's own text, token {place} of a sequence")
        if progress is not None:
            progress(1)


def draw(logits: NDArray[np.float32], generator: np.random.Generator) -> int:
    """Draw a token from softmax(``logits``), (vocab,), by inversion of the cumulated probabilities."""
    cumulated = np.cumsum(softmax(logits))
    return int(np.searchsorted(cumulated, generator.random() * cumulated[-1], side="right"))
