"""Calibration without given text: text sampled from the model itself, as in LLM-QAT (Liu et al. 2023, section 3.1).

The model is exported in 8 bits, rounded to nearest, which needs no calibration, and sampled from at temperature 1 over
the whole vocabulary, so that the text has the model's own distribution, rare tokens included.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.cores import usable_cores
from edgepress.exporter.bundle.cpu_graph import make_graphs
from edgepress.exporter.bundle.files import write_manifest
from edgepress.exporter.bundle.genai_config import make_genai_config
from edgepress.exporter.bundle.write import write_data, write_models
from edgepress.exporter.model.reading import GENERATION, read_decoder
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.text import CalibrationTokens, check_length, sequences_asked
from edgepress.finite import check_logits
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.generation.sampling import softmax
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session
from edgepress.targets import FALLBACK, find_target
from edgepress.terminal.progress import silent

GENERATOR = "int8"  # the preset that the text is sampled from
_BUNDLE = "generator"  # its bundle in ``folder``, while it is sampled from


def generate_calibration(
    checkpoint: Checkpoint,
    settings: CalibrationText,
    *,
    folder: Path,
    context_length: int,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> CalibrationTokens:
    """Sample ``settings.tokens`` tokens, rounded up to whole sequences, from the model of ``checkpoint``.

    Each sequence begins with the model's bos token, or with one drawn evenly from the vocabulary when it has none. A
    text that ends before its sequence is full is followed by another one, begun in the same way. Sequence i is drawn
    from the seed (``settings.seed``, i), so that the same seed gives the same text.

    The 8-bit model lies in ``folder`` while this runs; ``progress`` is called with the number of tokens after each.

    Raises:
        InputError: ``length`` is above the context, or the model cannot be exported.

    """
    check_length(settings, context_length)
    bundle = folder / _BUNDLE
    shutil.rmtree(bundle, ignore_errors=True)  # what a kill left
    try:
        _write_generator(bundle, checkpoint, settings.length, threads)
        config = read_config(bundle)
        session = CpuSession(config, threads=threads or usable_cores(), context=settings.length, prepared=False)
        tokens = np.empty((sequences_asked(settings), settings.length), np.int64)
        for index, sequence in enumerate(tokens):
            _fill(sequence, session, config, np.random.default_rng([settings.seed, index]), progress)
        del session  # its memory-mapped weights go with the directory
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
    return CalibrationTokens(tokens)


def _write_generator(bundle: Path, checkpoint: Checkpoint, context_length: int, threads: int | None) -> None:
    """Write the bundle that is sampled from, with all that the runtime reads of one."""
    recipe = replace(read_recipe(GENERATOR), context_length=context_length)
    decoder = read_decoder(checkpoint)
    plan = make_plan(decoder, recipe, checkpoint.itemsize)
    planned = Planned(checkpoint=checkpoint, decoder=decoder, recipe=recipe, plan=plan)
    graphs = make_graphs(planned, find_target(FALLBACK))
    genai_config = make_genai_config(decoder, plan, checkpoint.config, checkpoint.json(GENERATION))
    bundle.mkdir()
    reports = write_data(bundle, planned, None, threads=threads, progress=silent)
    write_models(bundle, planned, graphs, genai_config)
    write_manifest(bundle, planned, reports, recipe=recipe)


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
