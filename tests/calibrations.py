"""A tiny model through the layers and repairs of a recipe, in a store that the test names."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tiny_models import save

from edgepress.exporter.decide.job import Prepared
from edgepress.exporter.decide.prepare import decide
from edgepress.exporter.learn.calibration.engine import Calibration
from edgepress.exporter.streams.store import Store


class KilledError(Exception):
    """Raised in the middle of a run, where a kill would be."""


def prepare(folder: Path, recipe: str, name: str = "llama") -> Prepared:
    """Plan ``recipe``, the text of one, for variant ``name`` of :mod:`tiny_models`, made in ``folder`` if need be."""
    if not (folder / "model").exists():
        save(name, folder / "model")
    (folder / "recipe.toml").write_text(recipe, encoding="utf-8")
    return decide(folder / "model", target="arm64-cpu", recipe=folder / "recipe.toml")


@contextmanager
def calibration(prepared: Prepared, store: Path, tokens: np.ndarray) -> Iterator[Calibration]:
    """Calibrate with ``tokens`` (sequences, length); what is in ``store`` already counts as done."""
    p = prepared
    with Store.open(store, {"same": "key"}) as opened:
        yield Calibration(p.checkpoint, p.decoder, p.plan, p.recipe, tokens=tokens, store=opened, device="cpu")


def content(store: Path) -> dict[str, bytes]:
    """Every stage's bytes."""
    return {path.name: path.read_bytes() for path in sorted(store.glob("*.safetensors"))}
