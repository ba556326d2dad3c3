"""A pruning step on a tiny checkpoint, as the exporter gives it one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tiny_models import TEXT, save

from edgepress.exporter.methods.kinds import Pruning, load_method
from edgepress.exporter.methods.options import Options, read_options
from edgepress.exporter.methods.smaller.task import PruneTask
from edgepress.exporter.model import network
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.plan.making import make_plan
from edgepress.exporter.recipe.recipe import CalibrationText, Recipe, Storage
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.streams.documents import Documents
from edgepress.targets import Target, find_target

TOKENS = np.random.default_rng(0).integers(3, 300, 40).astype(np.int64)


def prune_task(
    model: Path, folder: Path, *, text: str = TEXT * 3, targets: tuple[Target, ...] = (), length: int = 32
) -> PruneTask:
    """A task on the checkpoint in ``model``; everything it writes is under ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state").mkdir()
    (folder / "text.txt").write_text(text, encoding="utf-8")
    checkpoint = Checkpoint.open(model)
    decoder = read_decoder(checkpoint)
    storage = Storage(bits=4, block_size=32)
    recipe = Recipe("test", storage, storage, storage, calibration=CalibrationText(tokens=256, length=length))
    return PruneTask(
        checkpoint=checkpoint,
        decoder=decoder,
        original=checkpoint,
        original_decoder=decoder,
        recipe=recipe,
        targets=targets or (find_target("x86-cpu"),),
        texts=Documents((folder / "text.txt",)),
        folder=folder / "state",
        out=folder / "out",
        device=torch.device("cpu"),
        context_length=decoder.context_length,
        schemes=lambda: make_plan(decoder, recipe, lambda name: checkpoint.tensors[name].itemsize).schemes,
    )


def tiny(name: str, folder: Path) -> Path:
    """The checkpoint of a variant of tiny_models, made once in ``folder``."""
    path = folder / name
    return path if path.is_dir() else save(name, path)


def pruning(name: str) -> Pruning:
    """A pruning method by its name."""
    method = load_method(name)
    assert isinstance(method, Pruning)
    return method


def asked(step: Pruning, options: Mapping[str, object]) -> Options:
    """The method's options where a recipe asks for ``options``, which are held against what it declares."""
    return read_options(step.name, step.declared, options)


def few_steps(step: Pruning) -> Options:
    """The method's own options, but for how long it trains: what a contract says does not depend on that."""
    return {**step.options, **({"steps": 16} if "steps" in step.options else {})}


def described_logits(checkpoint: Checkpoint, decoder: Decoder, tokens: np.ndarray) -> np.ndarray:
    """Logits (length, vocabulary) by the description of the model."""
    return network.logits(decoder, lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), tokens)
