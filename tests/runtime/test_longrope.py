"""longrope switches frequencies with the length of the whole text, however it is cut into calls."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models

from edgepress.exporter import export
from edgepress.exporter.model.reference import Reference
from edgepress.runtime import evaluate, load


@pytest.fixture(scope="module", params=["phi3-longrope-version4", "phi3-longrope-partial"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Reference]:
    """A bundle, whose prepared forms are made by the first test of each kind, and transformers' model."""
    folder = tmp_path_factory.mktemp("longrope")
    checkpoint = tiny_models.save(request.param, folder / "checkpoint")
    export(checkpoint, out=folder / "bundle", recipe="fp32")
    return folder / "bundle", Reference(checkpoint)


def tokens(count: int) -> list[int]:
    return np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, count).tolist()


def assert_near(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("chunk", [7, 128])
def test_a_prompt_in_pieces_is_the_prompt(model: tuple[Path, Reference], chunk: int, prepared: bool) -> None:
    bundle, reference = model
    opened = load(bundle, threads=1, prefill_chunk=chunk, prepared=prepared)
    for length in (tiny_models.LONG_FROM, tiny_models.LONG_FROM + 1, 60):
        text = tokens(length)
        opened.reset()
        assert_near(opened.prefill(text), reference.logits(np.array(text))[-1])


def test_decoding_past_the_limit_starts_the_cache_again(model: tuple[Path, Reference]) -> None:
    bundle, reference = model
    text = tokens(60)
    opened = load(bundle, threads=1, prefill_chunk=16, prepared=False)
    opened.prefill(text[:40])
    for count in range(41, 61):
        logits = opened.decode(text[count - 1])
        assert_near(logits, reference.logits(np.array(text[:count]))[-1])


def test_a_reset_text_is_short_again(model: tuple[Path, Reference]) -> None:
    bundle, reference = model
    text = tokens(60)
    opened = load(bundle, threads=1, prepared=False)
    opened.prefill(text)
    opened.reset()
    assert_near(opened.prefill(text[:20]), reference.logits(np.array(text[:20]))[-1])


def test_scoring_agrees_with_the_reference_on_both_sides(model: tuple[Path, Reference]) -> None:
    bundle, reference = model
    documents = ["To be, or not to be, that is the question: " * 8, "Short."]
    result = evaluate(bundle, documents, context=100, stride=50, reference=reference, prepared=False)
    assert result.kl is not None
    assert result.kl < 1e-6
