"""Open bundles of an encoder and a decoder: texts and sounds in, text out, and what is refused."""

from pathlib import Path

import encoder_decoders
import numpy as np
import pytest

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.sequences.model import TextModel

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("text")
    export(encoder_decoders.save("bart", home / "bart"), out=home / "bundle", target="x86-cpu", threads=1)
    return home / "bundle"


@pytest.fixture(scope="module")
def model(bundle: Path) -> TextModel:
    opened = load(bundle, threads=1)
    assert isinstance(opened, TextModel)
    return opened


def test_pieces_joined_are_the_text_of_all_tokens(model: TextModel) -> None:
    writing = model.generate(TEXT, max_tokens=12)
    pieces = list(writing)
    assert len(pieces) > 1
    kept = [token for token in writing.tokens if token not in model.sequences.ends]
    assert "".join(pieces) == model.tokenizer.decode(kept)
    assert writing.stopped == ("end" if writing.tokens[-1] in model.sequences.ends else "most tokens")


def test_beams_give_one_target_with_its_score(model: TextModel) -> None:
    writing = model.generate(TEXT, beams=3, max_tokens=10)
    assert writing.text() == model.tokenizer.decode([t for t in writing.tokens if t not in model.sequences.ends])
    assert writing.score is not None
    assert writing.score < 0


def test_run_gives_the_logits_of_a_given_target(model: TextModel) -> None:
    target = np.array([[1, 40, 50, 60]])
    logits = model.run({"input_ids": model.encode(TEXT), "decoder_input_ids": target})["logits"]
    assert logits.shape == (1, 4, encoder_decoders.VOCABULARY)
    model.session.encode({"input_ids": model.encode(TEXT)})
    assert np.abs(model.session.append(target[0]) - logits[0, -1]).max() < 1e-4 * np.abs(logits).max()


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "empty"),
        ("word " * 200, {}, "the encoder has 64 positions"),
        (TEXT, {"max_tokens": 0}, "max_tokens"),
        (TEXT, {"beams": 0}, "beams"),
        (TEXT, {"length_penalty": "long"}, "length_penalty"),
        (TEXT, {"speed": 3}, "no setting speed"),
        (TEXT, {"target": "fr"}, "no token of the language 'fr'"),
    ],
)
def test_what_cannot_be_is_said(model: TextModel, text: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(text, **settings)  # type: ignore[arg-type]  # that is the test


def test_a_target_longer_than_the_positions_is_refused(model: TextModel) -> None:
    model.session.encode({"input_ids": model.encode(TEXT)})
    with pytest.raises(InputError, match="the decoder has 64 positions"):
        model.session.append([5] * 65)
