"""Calibrate one export: choose the tokens, open the store, run the layers, and describe what was done."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from edgepress import __version__
from edgepress.bundle.fingerprint import Fingerprint, fingerprint
from edgepress.cores import usable_cores
from edgepress.exporter.arrays.parallel import cores, use_cores
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.learn.calibration.generate import generate_calibration
from edgepress.exporter.methods.kinds import LayerMethod, Repair, load_method, method_options
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.reading import first_token
from edgepress.exporter.plan.planned import Planned
from edgepress.exporter.recipe.recipe import CalibrationText
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.store import Store, StoredStages
from edgepress.exporter.streams.text import CalibrationTokens, read_calibration, sequences_asked
from edgepress.exporter.tokens.source_tokenizer import source_tokenizer
from edgepress.terminal.progress import Progress

_WRITTEN = "0000-generated"  # the stage with the model's own text, before those of the layers
_WORTH_THREADS = 512  # hidden size below which torch's threads wait for each other longer than they compute
_log = logging.getLogger("edgepress.calibration")


@dataclass(frozen=True)
class Calibrated:
    """Every weight that calibration stored, the ``tokens`` it used, and the manifest's entry about the text.

    ``fingerprint`` is of that text, to tell whether other text overlaps with it; None for the model's own.
    """

    stages: StoredStages
    tokens: NDArray[np.int64]  # (sequences, length)
    described: dict[str, object]
    fingerprint: Fingerprint | None


@contextmanager
def calibrate(
    planned: Planned,
    folder: Path,
    *,
    source: Mapping[str, str],
    left_out: Mapping[str, str],
    bos: int | None,
    threads: int | None,
    progress: Progress,
) -> Iterator[Calibrated]:
    """Calibrate in ``folder``, and keep the stages there for the length of the ``with`` block.

    ``source`` are the checkpoint's hashes; ``left_out`` the repairs of the recipe that are not done, and why.
    After an error or a kill complete stages stay, and the next run with the same inputs continues from them.

    Raises:
        InputError: the text or a method's result cannot be used; complete stages are kept.

    """
    settings = wanted_text(planned)
    with ExitStack() as stack:
        with use_threads(planned.decoder, threads):
            given = given_tokens(planned, settings, bos)
            store = stack.enter_context(Store.open(folder, _key(planned, settings, source, given)))
            chosen = given or written_tokens(planned, settings, store, threads=threads, progress=progress)
            for warning in chosen.warnings:
                _log.warning("calibration text: %s", warning)
            stages = _run(planned, chosen, store, progress)
        described = describe_tokens(planned.recipe.calibration, chosen) | {"left_out": dict(left_out)}
        tokens, count = layers_first(chosen.tokens, planned.recipe.calibration)
        yield Calibrated(stages, tokens[:count], described, _fingerprint(planned, chosen))


def _run(planned: Planned, chosen: CalibrationTokens, store: Store, progress: Progress) -> StoredStages:
    """Run the layers and the repairs, from the last stage that ``store`` has."""
    tokens, layer_sequences = layers_first(chosen.tokens, layers_text(planned))
    calibration = Calibration(
        planned.checkpoint,
        planned.decoder,
        planned.plan,
        planned.recipe,
        tokens=tokens,
        layer_sequences=layer_sequences,
        store=store,
    )
    done = [stage for stage in calibration.stages() if store.has(stage)]
    if done:
        _log.warning("continuing in %s after stage %s of %d", store.directory, done[-1], len(calibration.stages()))
    return calibration.run(progress)


@contextmanager
def use_threads(decoder: Decoder, threads: int | None) -> Iterator[None]:
    """Let torch compute on ``threads``; when None, on all cores if the model is large enough to gain by it.

    For small models too, methods may use that many cores by other means than torch's threads.
    """
    count, small = threads or usable_cores(), decoder.hidden_size < _WORTH_THREADS
    with use_cores(count, 1 if small and threads is None else count):
        yield


def describe_tokens(settings: CalibrationText, chosen: CalibrationTokens) -> dict[str, object]:
    """The manifest's entry about the text."""
    return {
        "text": [Path(name).name for name in settings.text] or "the model's own generations",
        "sequences": chosen.tokens.shape[0],
        "length": chosen.tokens.shape[1],
        "tokens_sha256": _digest(chosen),
        "warnings": list(chosen.warnings),
    }


def layers_text(planned: Planned) -> CalibrationText:
    """The recipe's text, with as many tokens as the layers see: more where a method trains their rounding."""
    recipe = planned.recipe
    methods = [load_method(name) for name in planned.plan.methods]
    learn = [int(method_options(one, recipe)["tokens"]) for one in methods if isinstance(one, LayerMethod)]
    tokens = max(recipe.calibration.tokens, *(asked or recipe.calibration.training_tokens for asked in learn), 0)
    return replace(recipe.calibration, tokens=tokens)


def wanted_text(planned: Planned) -> CalibrationText:
    """The recipe's text, with as many tokens as the method that uses most of them."""
    settings, after = layers_text(planned), planned.recipe.after
    trains = any(isinstance(m := load_method(name), Repair) and m.model is not None for name in after)
    return replace(settings, tokens=max(settings.tokens, settings.training_tokens if trains else 0))


def layers_first(tokens: NDArray[np.int64], settings: CalibrationText) -> tuple[NDArray[np.int64], int]:
    """Put the sequences that the layers use, spread over the text, first; returns all, and how many those are."""
    count = min(len(tokens), sequences_asked(settings))
    seen = np.arange(count) * len(tokens) // count
    rest = np.setdiff1d(np.arange(len(tokens)), seen)
    return tokens[np.concatenate([seen, rest])], count


def given_tokens(planned: Planned, settings: CalibrationText, bos: int | None) -> CalibrationTokens | None:
    """The tokens of the text that ``settings`` name; None when they name none, and text is sampled from the model."""
    if not settings.text:
        return None
    return read_tokens(planned.checkpoint, planned.decoder, settings, bos, planned.plan.context_length)


def written_tokens(
    planned: Planned, settings: CalibrationText, store: Store, *, threads: int | None, progress: Progress
) -> CalibrationTokens:
    """Tokens sampled from the model, the first stage of ``store``: sampled once, and read from there after that."""
    if not store.has(_WRITTEN):
        with progress(sequences_asked(settings) * settings.length, "writing calibration text", " tokens") as advance:
            written = generate_calibration(
                planned.checkpoint,
                settings,
                folder=store.directory,
                context_length=planned.plan.context_length,
                threads=threads,
                progress=advance,
            )
        store.save(_WRITTEN, {"tokens": written.tokens})
    return CalibrationTokens(store.load(_WRITTEN)["tokens"])


def form_tokens(planned: Planned, *, threads: int | None, progress: Progress) -> NDArray[np.int64]:
    """The tokens of the recipe's text, or sampled from the model without any, (sequences, length); stores nothing."""
    settings = planned.recipe.calibration
    given = given_tokens(planned, settings, first_token(planned.checkpoint, planned.decoder))
    if given is not None:
        return given.tokens
    with TemporaryDirectory(prefix="edgepress-") as folder:
        return written_tokens(planned, settings, Store(Path(folder)), threads=threads, progress=progress).tokens


def text_key(settings: CalibrationText, given: CalibrationTokens | None) -> dict[str, object]:
    """What decides the tokens, for the key of a store: the text that was read, or the settings of sampling."""
    if given is not None:
        return {"sha256": _digest(given)}
    return {"tokens": settings.tokens, "length": settings.length, "seed": settings.seed}


def versions() -> dict[str, str]:
    """Versions of what computes, for the key of a store."""
    return {
        "edgepress": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _digest(chosen: CalibrationTokens) -> str:
    return hashlib.sha256(chosen.tokens.astype("<i8").tobytes()).hexdigest()


def read_tokens(
    checkpoint: Checkpoint, decoder: Decoder, settings: CalibrationText, bos: int | None, context_length: int
) -> CalibrationTokens:
    """The tokens that ``settings`` asks for of the files of text that it names."""
    return read_calibration(
        settings.text,
        tokenizer=source_tokenizer(checkpoint),
        bos=bos,
        settings=settings,
        vocab_size=decoder.vocab_size,
        context_length=context_length,
    )


def _fingerprint(planned: Planned, chosen: CalibrationTokens) -> Fingerprint | None:
    """The fingerprint of the text that was used; None for the model's own."""
    if not planned.recipe.calibration.text:
        return None
    tokenizer = source_tokenizer(planned.checkpoint)
    return fingerprint(tokenizer.decode(row) for row in chosen.tokens.tolist())


def _key(
    planned: Planned, settings: CalibrationText, source: Mapping[str, str], given: CalibrationTokens | None
) -> dict[str, object]:
    """Everything that decides the bytes of a stage."""
    return {
        "source": dict(source),
        "recipe": planned.recipe.to_json(),
        "schemes": {
            tensor.weight.name: None if tensor.scheme is None else asdict(tensor.scheme)
            for tensor in planned.plan.tensors
        },
        "tokens": text_key(settings, given),
        "versions": versions(),
        "threads": cores(),
        "cuda": torch.cuda.is_available(),
    }
