"""The contract of every encoder-decoder found on disk: its graphs compute what transformers computes."""

from collections.abc import Iterator
from pathlib import Path

import encoder_decoders
import numpy as np
import pytest
import torch

from edgepress.exporter import export
from edgepress.exporter.model.encoder_decoders.families import model_types
from edgepress.manifest import find_problems, read_manifest
from edgepress.runtime.sequences.session import EncoderDecoder

TARGET = "x86-cpu"
CLOSE = 1e-4  # of the largest value; measured: 3e-7


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with encoder_decoders.on_one_thread():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("encoder_decoders")


def source_of(session: EncoderDecoder, seed: int = 0) -> dict[str, np.ndarray]:
    """A random source."""
    draw = np.random.default_rng(seed)
    if session.sequences.source == "tokens":
        return {"input_ids": draw.integers(3, encoder_decoders.VOCABULARY - 1, (1, 11))}
    if session.sequences.source == "mel":
        return {"input_features": draw.standard_normal((1, 20, session.sequences.source_length)).astype(np.float32)}
    return {"input_values": (0.1 * draw.standard_normal((1, 8000))).astype(np.float32)}


def test_every_family_has_a_tiny_model() -> None:
    assert {name.partition("-")[0] for name in encoder_decoders.MODELS} == set(model_types())


@pytest.mark.parametrize("name", encoder_decoders.MODELS)
def test_its_graphs_compute_what_transformers_computes(name: str, home: Path) -> None:
    checkpoint = encoder_decoders.save(name, home / name)
    manifest = export(checkpoint, out=home / f"{name}-bundle", target=TARGET, recipe="fp32", threads=1)
    assert find_problems(home / f"{name}-bundle") == []
    assert manifest == read_manifest(home / f"{name}-bundle")
    assert manifest.task is not None
    assert manifest.task.sequences is not None
    session = EncoderDecoder(home / f"{name}-bundle", manifest.task.sequences, manifest.states, threads=1)
    feed, target = source_of(session), np.random.default_rng(1).integers(3, 300, 9)
    with torch.inference_mode():
        given = {key: torch.from_numpy(array) for key, array in feed.items()}
        expected = encoder_decoders.reference(checkpoint)(**given, decoder_input_ids=torch.from_numpy(target)[None])
    hidden, logits = expected.encoder_last_hidden_state[0].numpy(), expected.logits[0].numpy()
    assert np.abs(session.encode(feed) - hidden).max() <= CLOSE * np.abs(hidden).max()
    found = [session.append(target[:4]).copy(), *(session.append([int(token)]).copy() for token in target[4:])]
    assert np.abs(np.array(found) - logits[3:]).max() <= CLOSE * np.abs(logits).max()


def test_targets_side_by_side_are_what_each_is_alone(home: Path) -> None:
    """Beams: what a target has is moved, and what is encoded is read by all."""
    checkpoint = encoder_decoders.save("t5", home / "beams")
    manifest = export(checkpoint, out=home / "beams-bundle", target=TARGET, recipe="fp32", threads=1)
    assert manifest.task is not None
    assert manifest.task.sequences is not None
    session = EncoderDecoder(home / "beams-bundle", manifest.task.sequences, manifest.states, threads=1)
    session.encode(source_of(session))
    alone = []
    for ending in ([40, 50], [41, 51], [41, 52]):
        session.begin()
        alone.append(session.append([1, 30, *ending]).copy())
    session.begin()
    session.append([1, 30])
    session.spread(3)
    session.step(np.array([41, 40, 42]))
    session.reorder(np.array([1, 0, 0]))
    together = session.step(np.array([50, 51, 52]))
    assert np.abs(together - np.array(alone)).max() <= CLOSE * np.abs(together).max()
