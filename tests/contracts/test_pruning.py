"""Every pruning method found on disk is held to the same contract, on tiny checkpoints of every architecture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prune_tasks import TOKENS, few_steps, prune_task, pruning, tiny
from tiny_models import FIRST_VARIANTS, METHOD_VARIANTS, REFUSED, REPRESENTATIVES, VARIANTS

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.methods.kinds import Pruning, load_method, method_names
from edgepress.exporter.model.architectures import architecture
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime.config import read_config
from edgepress.runtime.measures.evaluate import Scorer
from edgepress.text.windows import Window

METHODS = [name for name in method_names() if isinstance(load_method(name), Pruning)]
FIRST = {*FIRST_VARIANTS.values()} & {*METHOD_VARIANTS}
FAMILIES = sorted(  # but those that no step is made for: test_shared_layers.py
    name for name in {*FIRST, *REPRESENTATIVES} if not architecture(VARIANTS[name].model_type).keeps_sizes
)
OPTIONS: dict[str, dict[str, object]] = {"depth": {"layers": 1}, "experts": {"share": 0.9}}  # that small models have
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("pruning")


def weights_bytes(checkpoint: Path) -> int:
    return sum(tensor.nbytes for tensor in Checkpoint.open(checkpoint).tensors.values())


@pytest.mark.parametrize(  # what is left by steps that cut sizes is held on every variant by test_removal.py
    ("method", "name"),
    [
        (method, name)
        for method in METHODS
        for name in FAMILIES
        if (method, name) != ("experts", "deepseek_v3")  # whose groups here are as small as can be
        if name in (*REPRESENTATIVES, "gemma3_text", "olmo2", "phi")
        or (method, VARIANTS[name].model_type) in REFUSED
        or method in ("retrain", "vocabulary")
    ],
)
def test_a_step_writes_a_model(method: str, name: str, home: Path, tmp_path: Path) -> None:
    """It opens, is described, is smaller, computes what transformers computes of it, and so does its bundle."""
    model, step = tiny(name, home), pruning(method)
    task = prune_task(model, tmp_path / "one")
    family, options = VARIANTS[name].model_type, {**few_steps(step), **OPTIONS.get(method, {})}
    if (method, family) in REFUSED:  # by a plan, before a weight is read
        with pytest.raises(
            InputError, match=f"{method} (cannot prune {family}|prunes the (Attention|MLP) of every layer)"
        ):
            step.check(task, options)
        return
    step.check(task, options)
    step.run(task, options)
    assert task.written is not None
    checkpoint, decoder = task.written
    assert checkpoint.directory == task.out
    before, after = weights_bytes(model), weights_bytes(task.out)
    assert after < before if not step.keeps_shapes else after == before
    assert read_decoder(Checkpoint.open(task.out)) == decoder
    tokens = TOKENS % decoder.vocab_size
    expected = Reference(task.out).logits(tokens)
    export(task.out, out=tmp_path / "bundle", recipe="fp32", threads=1)
    scorer = Scorer(read_config(tmp_path / "bundle"), context=64, threads=1, prepared=False)
    found = np.concatenate([rows for _, rows in scorer.pieces(Window(tokens, len(tokens) - 1))])
    assert np.abs(found - expected[:-1]).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in METHODS for name in (("olmoe",) if method == "experts" else ("llama", "phi3"))],
)
def test_the_same_inputs_give_the_same_bytes(method: str, name: str, home: Path, tmp_path: Path) -> None:
    step, written = pruning(method), []
    for folder in ("one", "two"):
        task = prune_task(tiny(name, home), tmp_path / folder)
        step.run(task, few_steps(step))
        written.append({path.name: path.read_bytes() for path in task.out.iterdir()})
    assert written[0] == written[1]
