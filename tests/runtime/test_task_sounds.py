"""Sound from files to the input of a graph: held against transformers, numpy and WAV files that Python writes."""

import json
import struct
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from task_models import Arrays, opened
from tokenizers_of_all_kinds import DATA

from edgepress.errors import InputError
from edgepress.exporter.doors.processing.read import read_processing
from edgepress.exporter.doors.processing.sound import read_sound
from edgepress.processing.mel import filters, log_mel, to_hertz, to_mel, window
from edgepress.processing.sound import sound_feed
from edgepress.processing.waves import read_wave
from edgepress.runtime.tasks.audio_classification import SoundClassifier
from edgepress.runtime.tasks.automatic_speech_recognition import Transcriber, decode_ctc
from edgepress.runtime.tasks.kinds import open_task
from edgepress.tasks.answers import Answers, Classes, Transcript
from edgepress.tasks.sound import Mel, Sound, check_sound
from edgepress.tasks.task import Edge, Task, check_task

RATE = 16_000
EXTRACTORS: dict[str, dict[str, Any]] = {
    "WhisperFeatureExtractor": {"chunk_length": 2},
    "Wav2Vec2FeatureExtractor": {"do_normalize": True},
    "ASTFeatureExtractor": {"max_length": 128, "num_mel_bins": 64},
    "SeamlessM4TFeatureExtractor": {},
}
MEL = Mel(n_fft=512, frame=400, hop=160, bins=40, high=8000)


def tone(seconds: float, rate: int = RATE, hertz: float = 440) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(
    samples: NDArray[np.generic],
    bits: int,
    *,
    rate: int = RATE,
    kind: int = 1,
    channels: int = 1,
    extensible: bool = False,
) -> bytes:
    """A WAV file, written by hand as the specification has it."""
    data = samples.tobytes()
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", 0xFFFE if extensible else kind, channels, rate, rate * frame, frame, bits)
    if extensible:
        form += struct.pack("<HHIH", 22, bits, 0, kind) + bytes(14)
    chunks = b"LIST" + struct.pack("<I", 3) + b"odd\0"  # of an odd size, with its padding byte
    chunks += b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize(("bits", "kind"), [(8, 1), (16, 1), (24, 1), (32, 1), (32, 3), (64, 3)])
def test_samples_of_every_width_are_read_as_they_were(bits: int, kind: int, extensible: bool) -> None:
    wanted = np.stack([tone(0.01), -tone(0.01, hertz=1000)], axis=1).astype(np.float64)
    if kind == 3:
        stored: NDArray[np.generic] = wanted.astype(f"<f{bits // 8}")
    elif bits == 8:
        stored = np.rint(wanted * 128 + 128).astype(np.uint8)
    else:
        whole = np.rint(wanted * 2.0 ** (bits - 1)).astype("<i4")
        stored = whole.view(np.uint8).reshape(len(whole), 2, 4)[..., : bits // 8]
    flat = wav(stored, bits, kind=kind, channels=2, extensible=extensible)
    step = 2.0 ** -(bits - 1) if kind == 1 else 0
    np.testing.assert_allclose(read_wave(flat, RATE), wanted.mean(axis=1), atol=step + 1e-7)


def test_a_file_that_python_writes_is_read(tmp_path: Path) -> None:
    samples = tone(0.05)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    for source in (tmp_path / "tone.wav", str(tmp_path / "tone.wav")):
        np.testing.assert_allclose(read_wave(source, RATE), samples, atol=2**-14)


def test_another_rate_is_converted_by_soxr_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("soxr", reason="rates are converted by soxr")
    made = read_wave((tone(0.5, 44_100), 44_100), RATE)
    assert made.size == 8000
    np.testing.assert_allclose(made[500:-500], tone(0.5)[500:-500], atol=1e-3)
    again = read_wave((np.ones(800, np.float32), np.int64(8000)), 16000)
    np.testing.assert_array_equal(again, read_wave((np.ones(800, np.float32), 8000), 16000))
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(InputError, match=r"44,100 samples a second .*pip install 'edgepress\[sound\]'"):
        read_wave((tone(0.5, 44_100), 44_100), RATE)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"", "no WAV file"),
        (b"RIFF\0\0\0\0WAVE", "has no samples"),
        (wav(np.zeros(0, "<i2"), 16), "is empty"),
        (wav(np.zeros(4, "<i2"), 12), "12 bits in the format 1"),
        (wav(np.zeros(4, "<i2"), 16, kind=2), "in the format 2"),
        (wav(np.zeros(4, "<i2"), 16, rate=5), "5 samples a second"),
        (wav(np.array([np.nan, 1], "<f4"), 32, kind=3), "no numbers"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0\0\0\0\0", "does not say"),
        (Path("nowhere.wav"), "cannot be read"),
        (np.zeros((2, 3, 4), np.float32), "of the shape"),
        (np.zeros(4, np.int64), "array of int64"),
        ((np.zeros(4, np.float32), 0), "a rate is"),
        (5, "not int"),
    ],
)
def test_what_is_no_sound_is_refused(source: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_wave(source, RATE)


def test_a_file_that_was_cut_short_gives_its_whole_samples() -> None:
    assert read_wave(wav(np.arange(10, dtype="<i2"), 16)[:-3], RATE).size == 8


@pytest.mark.parametrize("scale", ["htk", "slaney", "kaldi"])
def test_filters_are_those_of_transformers(scale: str) -> None:
    from transformers.audio_utils import mel_filter_bank

    for norm in (None, "slaney") if scale != "kaldi" else (None,):
        mel = replace(MEL, scale=scale, norm=norm, low=20)
        wanted = mel_filter_bank(257, 40, 20, 8000, RATE, norm, scale, triangularize_in_mel_space=scale == "kaldi")
        np.testing.assert_allclose(filters(mel, RATE), wanted, atol=1e-12)


@pytest.mark.parametrize("name", ["hann", "povey", "hamming"])
@pytest.mark.parametrize("periodic", [True, False])
def test_windows_are_those_of_transformers(name: str, periodic: bool) -> None:
    from transformers.audio_utils import window_function

    made = window(replace(MEL, window=name, periodic=periodic))
    np.testing.assert_allclose(made, window_function(400, name, periodic=periodic), atol=1e-12)


@given(
    st.integers(401, 6000), st.sampled_from([100, 160, 333]), st.booleans(), st.booleans(),
    st.sampled_from([0.0, 0.97]), st.sampled_from(["ln", "log10"]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_spectrograms_are_those_of_transformers(
    count: int, hop: int, centred: bool, mean: bool, preemphasis: float, log: str
) -> None:
    from transformers.audio_utils import spectrogram, window_function

    samples = np.random.default_rng(count).normal(0, 0.1, count).astype(np.float32)
    frame = 512 if centred else 400  # transformers pads by half a frame, librosa and torch by half a transform
    mel = replace(
        MEL, frame=frame, hop=hop, centred=centred, remove_mean=mean, preemphasis=preemphasis, log=log, floor=1e-8
    )
    wanted = spectrogram(
        samples, window_function(frame, "hann"), frame, hop, 512, power=2.0, center=centred,
        preemphasis=preemphasis or None, mel_filters=filters(mel, RATE), mel_floor=1e-8,
        log_mel="log" if log == "ln" else log, remove_dc_offset=mean,
    )  # fmt: skip
    np.testing.assert_allclose(log_mel(samples, mel, RATE), wanted.T, atol=1e-5, rtol=1e-5)


@given(st.floats(0, 20_000))
@settings(max_examples=60, deadline=None)
def test_mel_scales_go_back(hertz: float) -> None:
    for scale in ("htk", "slaney", "kaldi"):
        there = to_mel(np.array([hertz]), scale)
        assert to_hertz(there, scale)[0] == pytest.approx(hertz, rel=1e-9, abs=1e-6)


def sound_task(name: str, edge: str, shape: tuple[int | str, ...], *more: str) -> Task:
    masks = tuple(Edge(mask, "int64", ("batch", "length")) for mask in more)
    return Task(name, (Edge(edge, "float32", shape), *masks), (Edge("logits", "float32", ("batch", 3)),))


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_as_data_makes_what_it_makes(name: str, tmp_path: Path) -> None:
    import transformers

    extractor = getattr(transformers, name)(**EXTRACTORS[name])
    extractor.save_pretrained(tmp_path)
    edge = "input_values" if name.startswith(("Wav", "AST")) else "input_features"
    axes = ("batch", "samples") if name.startswith("Wav") else ("batch", "a", "b")
    sound = read_sound(tmp_path, sound_task("audio-classification", edge, axes))
    for seconds in (0.7, 1.9, 3.1):  # other lengths than those that were tried, below and above what Whisper takes
        # a loud tone's bin hardly varies: divided by that, as SeamlessM4T does, float32's rounding would be seen
        samples = tone(seconds) / 50 + np.random.default_rng(3).normal(0, 0.1, int(seconds * RATE)).astype(np.float32)
        wanted = extractor(samples, sampling_rate=RATE, return_tensors="np")[edge]
        made = sound_feed([samples], sound)[edge]
        assert made.shape == wanted.shape
        close = 1e-4 if name.startswith("Whisper") else 1e-5  # its own is computed in float32 where torch is there
        np.testing.assert_allclose(made, wanted, atol=close, rtol=close)


def test_seamless_masks_what_is_filled_up(tmp_path: Path) -> None:
    import transformers

    extractor = transformers.SeamlessM4TFeatureExtractor()
    extractor.save_pretrained(tmp_path)
    task = sound_task("audio-classification", "input_features", ("batch", "frames", 160), "attention_mask")
    sound = read_sound(tmp_path, task)
    for count in (RATE, RATE + 160):  # an even and an odd number of frames
        wanted = extractor(tone(1)[:count] if count <= RATE else tone(1.01), sampling_rate=RATE, return_tensors="np")
        made = sound_feed([tone(count / RATE)], sound)
        np.testing.assert_array_equal(made["attention_mask"], wanted["attention_mask"])


def test_an_extractor_that_does_something_else_is_refused(tmp_path: Path) -> None:
    import transformers

    transformers.SpeechT5FeatureExtractor(num_mel_bins=20).save_pretrained(tmp_path)
    task = sound_task("audio-classification", "input_values", ("batch", "samples"))
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "feature_extractor_type": "Dac"}))
    with pytest.raises(InputError, match="cannot be opened"):
        read_sound(tmp_path, task)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"has no preprocessor_config.json"):
        read_sound(tmp_path, task)


def loudness(inputs: Arrays) -> Arrays:
    values = np.asarray(inputs["input_values"], np.float32)
    return {"logits": np.stack([-np.abs(values).max(1), np.abs(values).max(1), values.mean(1) - 9], axis=1)}


def test_sounds_are_classified() -> None:
    model = opened(
        "audio-classification",
        {"input_values": ("float32", ("batch", 8000))},
        {"logits": ("batch", 3)},
        loudness,
        sound=Sound(input="input_values", rate=RATE, length=8000),
        answers=Answers(classes=Classes(output="logits", labels=("quiet", "loud", "never"))),
    )
    assert isinstance(model, SoundClassifier)
    assert model.classify(tone(1), top=1)[0].label == "loud"
    assert model.answer(wav(np.zeros(100, "<i2"), 16))[0].score == pytest.approx(0.5, abs=1e-3)


def letters(vocabulary: tuple[str, ...], spoken: str, frames: int = 2) -> NDArray[np.int64]:
    numbers = [vocabulary.index(letter) for letter in spoken for _ in range(frames)]
    return np.array(numbers)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
@settings(max_examples=150, deadline=None)
def test_ctc_text_is_that_of_transformers_tokenizer(best: list[int]) -> None:
    from transformers import Wav2Vec2CTCTokenizer

    vocabulary = ("<pad>", "|", "A", "B", "'", "<unk>")
    tokenizer = _ctc_tokenizer(Wav2Vec2CTCTokenizer, vocabulary)
    made = decode_ctc(np.array(best), Transcript(output="x", vocabulary=vocabulary, blank=0), 0.02)
    wanted = tokenizer.decode(best)
    assert made.text.split() == wanted.split()
    assert " ".join(word.text for word in made.words) == made.text
    for word in made.words:
        assert 0 <= word.start < word.end <= len(best) * 0.02 + 1e-9


_TOKENIZERS: dict[str, Any] = {}


def _ctc_tokenizer(kind: Any, vocabulary: tuple[str, ...]) -> Any:
    if not _TOKENIZERS:
        import tempfile

        folder = Path(tempfile.mkdtemp())
        (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
        _TOKENIZERS["ctc"] = kind(str(folder / "vocab.json"), bos_token=None, eos_token=None)
    return _TOKENIZERS["ctc"]


def test_words_have_their_times() -> None:
    vocabulary = ("_", "|", "a", "b")
    made = decode_ctc(letters(vocabulary, "_ab|_bb_b"), Transcript(output="x", vocabulary=vocabulary, blank=0), 0.5)
    assert made.text == "ab bb"
    assert [(word.text, word.start, word.end) for word in made.words] == [("ab", 1.0, 3.0), ("bb", 5.0, 9.0)]


def test_speech_is_transcribed_with_a_checkpoints_files(tmp_path: Path) -> None:
    import transformers

    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    vocabulary = ("<pad>", "|", "A", "B")
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    (tmp_path / "tokenizer_config.json").write_text('{"word_delimiter_token": "|", "do_lower_case": true}')
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2", "pad_token_id": 0}')
    task = Task(
        "automatic-speech-recognition",
        (Edge("input_values", "float32", ("batch", "samples")),),
        (Edge("logits", "float32", ("batch", "frames", 4)),),
    )
    spoken = letters(vocabulary, "AB|A", 1)

    def compute(inputs: Arrays) -> Arrays:
        assert np.asarray(inputs["input_values"]).std() == pytest.approx(1, abs=1e-3)
        return {"logits": np.eye(4, dtype=np.float32)[spoken][None]}

    model = open_task(read_processing(tmp_path, task).task, compute, tmp_path)
    assert isinstance(model, Transcriber)
    made = model.transcribe(tone(1))
    assert made.text == "ab a"
    assert [(word.start, word.end) for word in made.words] == [(0.0, 0.5), (0.75, 1.0)]
    (tmp_path / "config.json").write_text('{"model_type": "wav2vec2", "pad_token_id": 4}')
    with pytest.raises(InputError, match="pad_token_id is 4"):
        read_processing(tmp_path, task)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transcriber]:
    """A tiny Wav2Vec2 in transformers' pipeline, and the task that its checkpoint's files make, on the same graph."""
    import torch
    import transformers
    from transformers import Wav2Vec2CTCTokenizer

    folder = tmp_path_factory.mktemp("ctc")
    torch.manual_seed(3)
    vocabulary = ("<pad>", "|", "A", "B", "'", "<unk>")
    config = transformers.Wav2Vec2Config(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(10, 4),
        conv_stride=(8, 5),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    network = transformers.Wav2Vec2ForCTC(config).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(40)
    network.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocabulary)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None)
    tokenizer.save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor()
    extractor.save_pretrained(folder)
    task = Task(
        "automatic-speech-recognition",
        (Edge("input_values", "float32", ("batch", "samples")),),
        (Edge("logits", "float32", ("batch", "frames", len(vocabulary))),),
    )

    def compute(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            return {"logits": network(torch.from_numpy(np.array(inputs["input_values"]))).logits.numpy()}

    model = open_task(read_processing(folder, task).task, compute, folder)
    assert isinstance(model, Transcriber)
    pipeline = transformers.AutomaticSpeechRecognitionPipeline(
        model=network, tokenizer=tokenizer, feature_extractor=extractor
    )
    return pipeline, model


@pytest.mark.parametrize(("seconds", "window", "overlap"), [(2.3, 0.5, 0.05), (1.5, 0.4, None), (0.9, 0.45, 0.1)])
def test_long_sound_goes_in_windows_as_in_transformers(
    spoken: tuple[Any, Transcriber], seconds: float, window: float, overlap: float | None
) -> None:
    pipeline, model = spoken
    draw = np.random.default_rng(round(10 * seconds))
    samples = (tone(seconds, hertz=300) * np.sin(9 * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)
    samples += 0.05 * draw.standard_normal(samples.size).astype(np.float32)
    made = model.transcribe(samples, window=window, overlap=overlap)
    asked = {"chunk_length_s": window, "return_timestamps": "word"}
    wanted = pipeline(samples.copy(), **asked, **({} if overlap is None else {"stride_length_s": overlap}))
    assert len(made.words) > 3
    assert made.text.split() == wanted["text"].split()
    starts = [chunk["timestamp"][0] for chunk in wanted["chunks"]]
    assert [word.start for word in made.words] == pytest.approx(starts, abs=0.0051)
    assert model.transcribe(samples, window=None) == model.transcribe(samples)  # less than 30 s


def test_windows_that_cannot_be_are_refused(spoken: tuple[Any, Transcriber], tmp_path: Path) -> None:
    _, model = spoken
    with pytest.raises(InputError, match=r"windows of 0.5 s of which 0.25 s at either end are left out leave nothing"):
        model.transcribe(tone(2), window=0.5, overlap=0.25)
    sound = Sound(input="x", rate=RATE, length=RATE)
    edges = (Edge("x", "float32", (1, RATE)),), (Edge("y", "float32", (1, 4, 3)),)
    answers = Answers(transcript=Transcript(output="y", vocabulary=("_", "|", "a"), blank=0))
    fixed = Transcriber(
        Task("automatic-speech-recognition", *edges, sound=sound, answers=answers),
        lambda _: {"y": np.eye(4, 3, dtype=np.float32)[None]},
        tmp_path,
    )
    assert fixed.transcribe(tone(1)).text == "a"
    with pytest.raises(InputError, match=r"has 2 s, the model hears 1 s at once, and .* does not say how its frames"):
        fixed.transcribe(tone(2))


@pytest.mark.parametrize(
    ("sound", "said"),
    [
        (Sound(input="x", rate=RATE, frames=3), "there is no mel"),
        (Sound(input="x", rate=RATE, mel=replace(MEL, frame=600)), "more than the 512"),
        (Sound(input="x", rate=RATE, mel=replace(MEL, high=9000)), "half the rate"),
        (Sound(input="x", rate=RATE, mel=replace(MEL, scale="kaldi", norm="slaney")), "no norm"),
    ],
)
def test_sound_that_disagrees_with_itself_is_refused(sound: Sound, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_sound(sound)


@pytest.mark.parametrize(
    ("sound", "shape", "said"),
    [
        (Sound(input="x", rate=RATE, length=8000), ("batch", 9000), r"\('batch', 8000\)"),
        (Sound(input="x", rate=RATE), ("batch", 3, 4), "which has 3 axes"),
        (Sound(input="x", rate=RATE, mel=MEL), ("batch", 80, "frames"), r"\('batch', 40, 'any'\)"),
        (Sound(input="x", rate=RATE, mel=MEL, length=1600), ("batch", 40, 9), r"\('batch', 40, 8\)"),
        (Sound(input="y", rate=RATE), ("batch", "samples"), "become the input y"),
    ],
)
def test_sound_that_does_not_fit_the_graph_is_refused(sound: Sound, shape: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_task(replace(sound_task("audio-classification", "x", shape), sound=sound))


def test_sound_too_short_is_refused() -> None:
    with pytest.raises(InputError, match="at least 400"):
        sound_feed([tone(0.01)], Sound(input="x", rate=RATE, least=400))
    with pytest.raises(InputError, match="shorter than a frame"):
        sound_feed([tone(0.01)], Sound(input="x", rate=RATE, mel=MEL))
    with pytest.raises(InputError, match="too short for frames"):
        sound_feed([tone(0.01)], Sound(input="x", rate=RATE, mel=replace(MEL, frame=512, centred=True)))
    with pytest.raises(InputError, match="different lengths"):
        sound_feed([tone(0.1), tone(0.2)], Sound(input="x", rate=RATE))


def test_a_real_recording_is_read_as_python_reads_it() -> None:
    path = DATA / "models" / "silero_vad" / "test.wav"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set EDGEPRESS_DATA to the data folder")
    with wave.open(str(path)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 2**15
        rate = file.getframerate()
    np.testing.assert_allclose(read_wave(path, rate), frames, atol=1e-7)
