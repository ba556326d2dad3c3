"""The random checkpoints that benchmarks measure on are whole, seeded and what their config says."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.source.checkpoint import INDEX, Checkpoint


@pytest.fixture(name="script")
def _script(import_script: Callable[[str], ModuleType]) -> ModuleType:
    return import_script("make_checkpoint")


@pytest.mark.parametrize(("model_type", "shard"), [("qwen2", 1 << 30), ("llama", 20_000)])
def test_checkpoints_are_whole(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, shard: int
) -> None:
    tied = model_type == "qwen2"
    monkeypatch.setattr(script, "SHARD_BYTES", shard)
    monkeypatch.setattr(script, "CHUNK", 1000)
    shape = script.Shape(model_type, 32, 48, 2, 4, 2, 96, tied, 64, 1e4, 1e-5)
    for name in ("one", "two"):
        script.make(shape, tmp_path / name, seed=3)
    checkpoint = Checkpoint.open(tmp_path / "one")
    assert ((tmp_path / "one" / INDEX).exists(), len(checkpoint.weight_files) > 1) == (not tied, not tied)
    assert read_decoder(checkpoint).tied == tied
    weights = checkpoint.rows("model.embed_tokens.weight", 0, 96)
    assert weights.std() == pytest.approx(0.02, rel=0.1)
    assert checkpoint.rows("model.norm.weight", 0, 32).mean() == pytest.approx(1, abs=0.1)
    assert len(np.unique(weights)) > 1000
    assert checkpoint.source_hashes() == Checkpoint.open(tmp_path / "two").source_hashes()
