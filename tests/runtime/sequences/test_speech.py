"""Speech: what Whisper's windows give is what transformers gives; and what is refused."""

import struct
from functools import cache
from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import pytest
import torch
import transformers

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.scoring.kinds import find_metric
from edgepress.runtime.scoring.score import score
from edgepress.runtime.sequences.speech import SpeechModel
from edgepress.samples.sample import Sample

RATE = 16_000


class Opened:
    """A tiny Whisper as a bundle, and transformers' own with its feature extractor."""

    def __init__(self, home: Path) -> None:
        checkpoint = encoder_decoders.save("whisper", home / "whisper")
        export(checkpoint, out=home / "bundle", target="x86-cpu", recipe="fp32", threads=1)
        model = load(home / "bundle", threads=1)
        assert isinstance(model, SpeechModel)
        self.model: SpeechModel = model
        self.reference = encoder_decoders.reference(checkpoint)
        self.extractor = transformers.WhisperFeatureExtractor.from_pretrained(checkpoint)

    def theirs(self, samples: np.ndarray, **settings: Any) -> dict[str, Any]:
        """Segments of transformers, and all tokens."""
        is_long = samples.size > RATE * encoder_decoders.SECONDS
        how = {"truncation": False, "padding": "longest"} if is_long else {}
        features = self.extractor(samples, sampling_rate=RATE, return_tensors="pt", **how).input_features
        with torch.inference_mode():
            found: dict[str, Any] = self.reference.generate(features, return_segments=True, **settings)
        return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return Opened(tmp_path_factory.mktemp("speech"))


@cache
def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones that come and go, with noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in draw.uniform(100, 3000, 3))
    return (0.1 * tones * np.sin(7 * time) ** 2 + 0.01 * draw.standard_normal(time.size)).astype(np.float32)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("timestamps", [False, True])
def test_a_short_sound_has_the_tokens_of_transformers(opened: Opened, beams: int, timestamps: bool) -> None:
    samples = sound(0.8)
    settings = {"language": "de", "task": "translate", "return_timestamps": timestamps, "num_beams": beams}
    expected = opened.theirs(samples, **settings)
    found = opened.model.transcribe(samples, language="de", purpose="translate", timestamps=timestamps, beams=beams)
    assert [list(one.tokens) for one in found.segments] == [one["tokens"].tolist() for one in expected["segments"][0]]
    text = [token for one in found.segments for token in one.tokens if token < encoder_decoders.NO_TIMES]
    assert found.text == opened.model.tokenizer.decode(text)


@pytest.mark.parametrize("seconds", [0.4, 2.9])
def test_the_spectrogram_is_that_of_the_feature_extractor(opened: Opened, seconds: float) -> None:
    """Of a window, which sound fills up, and of more, of which every frame is whole."""
    samples = sound(seconds)
    how = {"truncation": False, "padding": "longest"} if seconds > encoder_decoders.SECONDS else {}
    expected = opened.extractor(samples, sampling_rate=RATE, return_tensors="np", **how).input_features
    found = opened.model.feed(samples)["input_features"]
    assert np.abs(found - expected[..., : found.shape[-1]]).max() < 1e-3


def test_a_long_sound_goes_in_windows_as_in_transformers(opened: Opened) -> None:
    samples = sound(3.3, seed=3)
    expected = opened.theirs(samples, language="en", task="transcribe", return_timestamps=True)["segments"][0]
    found = list(opened.model.segments(samples, language="en"))
    assert len(found) > 3
    assert [list(one.tokens) for one in found] == [one["tokens"].tolist() for one in expected]
    assert np.allclose([one.start for one in found], [float(one["start"]) for one in expected])
    assert np.allclose([one.end for one in found], [float(one["end"]) for one in expected])


def test_the_language_is_found_as_in_transformers(opened: Opened) -> None:
    samples = sound(0.7, seed=5)
    features = opened.extractor(samples, sampling_rate=RATE, return_tensors="pt").input_features
    expected = int(opened.reference.detect_language(features)[0])
    codes = {token: word.strip("<|>") for word, token in encoder_decoders.LANGUAGES.items()}
    assert opened.model.transcribe(samples).language == codes[expected]


def wav(samples: np.ndarray) -> bytes:
    """A WAV file of 16-bit samples."""
    data = (samples * 32767).astype("<i2").tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16,
                       b"data", len(data))  # fmt: skip
    return head + data


def test_a_file_is_heard_as_its_samples(opened: Opened, tmp_path: Path) -> None:
    samples = (sound(0.5) * 32767).astype("<i2")
    (tmp_path / "a.wav").write_bytes(wav(sound(0.5)))
    assert opened.model.transcribe(tmp_path / "a.wav", language="en") == opened.model.transcribe(samples, language="en")


def test_errors_in_what_is_said_are_counted(opened: Opened) -> None:
    """By jiwer, of a text with one word more than was heard."""
    pytest.importorskip("jiwer", reason="counts errors: pip install edgepress[metrics]")
    heard = opened.model.transcribe(sound(0.5)).text.split()
    samples = [Sample(sound(0.5), " ".join([*heard, "more"]), "one")]
    (found,) = score(opened.model, samples, [find_metric("wer")])
    assert found.value == pytest.approx(1 / (len(heard) + 1))


@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        (wav(np.zeros(0, np.float32)), {}, "empty"),
        (np.array([np.nan, 0.0], np.float32), {}, "no numbers"),
        (b"no sound at all", {}, "no WAV file"),
        (np.zeros(8000, np.float32), {"language": "tlh"}, "no language 'tlh'"),
        (np.zeros(8000, np.float32), {"language": "en", "purpose": "sing"}, "cannot 'sing'"),
        (np.zeros(8000, np.float32), {"language": "en", "max_tokens": -1}, "max_tokens"),
    ],
)
def test_what_cannot_be_is_said(opened: Opened, source: object, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened.model.transcribe(source, **settings)
