"""Speech: what Whisper's windows give is what transformers gives; and what is refused."""

import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import encoder_decoders
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.whisper.generation_whisper import _dynamic_time_warping
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from edgepress import cli
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.scoring.kinds import find_metric
from edgepress.runtime.scoring.score import score
from edgepress.runtime.sequences.fallback import Fallback, compression_ratio, mean_log_probability, silence_of
from edgepress.runtime.sequences.speech import SpeechModel
from edgepress.runtime.sequences.words import warp, words_of
from edgepress.runtime.tasks.common.shown import to_json
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
        heard = self.extractor(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, **how)
        with torch.inference_mode():
            found: dict[str, Any] = self.reference.generate(**heard, return_segments=True, **settings)
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


@pytest.mark.parametrize(("seconds", "beams"), [(0.61, 3), (2.3, 1)])
def test_tokens_are_said_when_transformers_says_so(opened: Opened, seconds: float, beams: int) -> None:
    """Of a window that sound does not fill, and of several."""
    samples, told = sound(seconds, seed=2), seconds > 1
    settings = {"language": "en", "task": "transcribe", "return_timestamps": told, "num_beams": beams}
    expected = opened.theirs(samples, return_token_timestamps=True, **settings)["segments"][0]
    found = list(opened.model.segments(samples, language="en", timestamps=told, words=True, beams=beams))
    assert [list(one.tokens) for one in found] == [one["tokens"].tolist() for one in expected]
    for segment, theirs in zip(found, expected, strict=True):
        pairs = zip(segment.tokens, theirs["token_timestamps"].tolist(), strict=True)
        text = [(token, time) for token, time in pairs if token < encoder_decoders.NO_TIMES]
        grouped = _combine_tokens_into_words(Decodes(opened.model), [token for token, _ in text], "english")
        assert [word.text for word in segment.words] == grouped[0]
        starts = [text[numbers[0]][1] for numbers in grouped[2]]
        assert [word.start for word in segment.words] == pytest.approx(starts, abs=1e-4)
        assert all(word.start <= word.end for word in segment.words)


class Decodes:
    """What transformers' grouping of tokens asks of a tokenizer."""

    eos_token_id = 10_000  # no token is a special one

    def __init__(self, model: SpeechModel) -> None:
        self.model = model

    def decode(self, tokens: list[int], **_: object) -> str:
        return self.model.tokenizer.decode(tokens)


@pytest.mark.parametrize("language", ["english", "chinese"])
@pytest.mark.parametrize(
    "text", ['He said: "no!" (twice), and left.', "日本語、です。 ¿qué? — «já»", "a  b -c 'd' [e]f"]
)
def test_words_are_those_of_transformers(opened: Opened, text: str, language: str) -> None:
    tokens = opened.model.tokenizer.encode(text)
    numbers = [float(number) for number in range(len(tokens) + 1)]
    code = {"english": "en", "chinese": "zh"}[language]
    found = words_of(tokens, numbers[:-1], numbers[1:], opened.model.tokenizer.decode, code)
    expected = _combine_tokens_into_words(Decodes(opened.model), tokens, language)
    assert [(word.text, word.start, word.end) for word in found] == [
        (word, numbers[places[0]], numbers[places[-1] + 1])
        for word, places in zip(expected[0], expected[2], strict=True)
    ]


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_the_cheapest_path_is_that_of_transformers(height: int, width: int, seed: int) -> None:
    """With few different costs, so that ways are equal."""
    costs = np.random.default_rng(seed).integers(0, 3, (height, width)).astype(float)
    found, expected = warp(costs), _dynamic_time_warping(costs)
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_not_believed_is_what_transformers_does_not_believe(opened: Opened, beams: int) -> None:
    """At thresholds a little beside the mean and the ratio; drawn at a temperature near 0 it is the greedy target."""
    samples = sound(0.8)
    opened.model.session.encode(opened.model.feed(samples))
    begin = [*opened.model.sequences.start, encoder_decoders.LANGUAGES["<|de|>"]]
    begin += [encoder_decoders.PURPOSES["transcribe"], encoder_decoders.NO_TIMES]
    search = opened.model.searched({"beams": beams}, begin=len(begin))
    writing = opened.model.write(begin, search, says=True)
    writing.text()
    mean, silence = mean_log_probability(writing.said), silence_of(opened.model)
    ratio = compression_ratio(writing.tokens, opened.model.sequences.vocabulary)
    assert ratio == opened.reference._retrieve_compression_ratio(
        torch.tensor(writing.tokens), opened.model.sequences.vocabulary
    )
    limits = [(mean - 0.01, ratio + 0.01, None), (mean + 0.01, ratio + 0.01, None), (mean - 0.01, ratio - 0.01, None)]
    limits += [(mean + 0.01, ratio + 0.01, silence - 1e-6), (mean + 0.01, ratio + 0.01, silence + 1e-6)]
    outcomes = []
    for least, most, quiet in limits:
        fallback = Fallback((0.0, 1e-5), most, least, quiet)
        found = opened.model.transcribe(samples, language="de", fallback=fallback, beams=beams)
        expected = opened.theirs(
            samples,
            language="de",
            task="transcribe",
            num_beams=beams,
            temperature=(0.0, 1e-5),
            compression_ratio_threshold=most,
            logprob_threshold=least,
            no_speech_threshold=quiet,
        )
        outcomes.append([list(one.tokens) for one in found.segments])
        assert outcomes[-1] == [one["tokens"].tolist() for one in expected["segments"][0]]
    assert outcomes[3] == []
    if beams > 1:
        assert outcomes[0] != outcomes[1] == outcomes[2] == outcomes[4]


def test_what_is_drawn_is_the_same_for_the_same_seed(opened: Opened) -> None:
    hot = {seed: Fallback((1.0,), None, None, None, seed=seed) for seed in (1, 2)}
    texts = [opened.model.transcribe(sound(0.8), language="en", fallback=hot[seed]).text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


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


def test_the_command_line_asks_what_python_asks(
    opened: Opened, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.wav").write_bytes(wav(sound(0.5)))
    asked = ["run", str(opened.model.folder), str(tmp_path / "a.wav"), "--threads", "1", "--json"]
    asked += ["--language", "de", "--translate", "--times", "words", "--fallback"]
    assert cli.main(asked) == 0
    answer = json.loads(capsys.readouterr().out)["answer"]
    settings = {"language": "de", "purpose": "translate", "words": True, "fallback": Fallback()}
    assert answer == to_json(opened.model.transcribe(tmp_path / "a.wav", **settings))
    assert answer["language"] == "de"
    assert cli.main([*asked, "--labels", "a cat"]) == 2
    assert "is for automatic-speech-recognition, so there is nothing for --labels" in capsys.readouterr().err


def test_words_need_heads_that_follow_the_sound(tmp_path: Path) -> None:
    checkpoint = encoder_decoders.save("whisper", tmp_path / "whisper")
    path = checkpoint / "generation_config.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "alignment_heads": [[0, 1], [2, 0]]}))
    with pytest.raises(InputError, match=r"alignment_heads has \[2, 0\]; each is a layer below 2 and a head below 2"):
        export(checkpoint, out=tmp_path / "bundle", target="x86-cpu", recipe="fp32", threads=1)
    del said["alignment_heads"]
    path.write_text(json.dumps(said))
    export(checkpoint, out=tmp_path / "bundle", target="x86-cpu", recipe="fp32", threads=1)
    with pytest.raises(InputError, match="names no heads that tell when words are said"):
        load(tmp_path / "bundle", threads=1).transcribe(sound(0.5), language="en", words=True)


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
        (np.zeros(8000, np.float32), {"fallback": lambda: Fallback(())}, "at least one"),
        (np.zeros(8000, np.float32), {"fallback": lambda: Fallback(log_probability=None)}, "give that, too"),
    ],
)
def test_what_cannot_be_is_said(opened: Opened, source: object, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened.model.transcribe(source, **{key: made() if callable(made) else made for key, made in settings.items()})
