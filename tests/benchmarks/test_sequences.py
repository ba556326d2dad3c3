"""A T5 that is trained to write words backwards does so as a bundle: in few bits, and with beams."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import encoder_decoders

from edgepress.exporter import export
from edgepress.runtime import load

LETTERS, LONGEST = 10, 5


def test_a_trained_model_still_writes_words_backwards(
    tmp_path: Path, import_script: Callable[[str], ModuleType]
) -> None:
    """A model that had learned nothing would write one word in a hundred."""
    script = import_script("sequences")
    trained = tmp_path / "checkpoint"
    train(script, trained)
    asked, shares = script.held_out(LETTERS, LONGEST, 12), {}
    for recipe in ("fp32", "int8", "int4"):
        export(trained, out=tmp_path / recipe, target="x86-cpu", recipe=recipe, threads=1)
        model = load(tmp_path / recipe, threads=1)
        shares[recipe] = [script.share_reversed(model, asked, beams) for beams in (1, 3)]
    assert min(shares["fp32"]) > 0.7
    assert min(shares["int8"]) > min(shares["fp32"]) - 0.05
    assert min(shares["int4"]) > min(shares["fp32"]) - 0.2


def train(script: ModuleType, folder: Path) -> None:
    """Train it: 4 s of one core."""
    with encoder_decoders.on_one_thread():
        script.train_reversing(folder, letters=LETTERS, longest=LONGEST, width=32, layers=1, steps=400)
