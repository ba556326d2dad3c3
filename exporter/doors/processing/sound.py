"""What a feature extractor of transformers does to sound, as :class:`~edgepress.tasks.sound.Sound`, held against it."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.processing.sound import sound_feed
from edgepress.tasks.sound import Mel, Sound
from edgepress.tasks.task import Task

SOUND_TASKS = frozenset({"audio-classification", "automatic-speech-recognition"})
"""Tasks whose input is sound."""

_FILES = ("preprocessor_config.json", "processor_config.json", "feature_extractor_config.json")
_INPUTS = ("input_values", "input_features")
_SAMPLES = (16_000, 24_321)  # of the sounds that are tried
_CLOSE = 1e-4  # transformers computes Whisper's spectrogram in float32 where torch is there
_KALDI = Mel(
    n_fft=512, frame=400, hop=160, bins=80, low=20, high=8000, window="povey", periodic=False, remove_mean=True,
    preemphasis=0.97, scale="kaldi", floor=1.192092955078125e-07,
)  # fmt: skip


def read_sound(folder: Path, task: Task) -> Sound:
    """How the checkpoint's own feature extractor makes the graph's input.

    Raises:
        InputError: there is none or it cannot be opened, or it does what :class:`Sound` cannot say.

    """
    extractor = open_extractor(folder)
    names = [edge.name for edge in task.inputs]
    made_as = next((name for name in _INPUTS if name in names), names[0])
    mask = "attention_mask" if "attention_mask" in names else None
    kind, said = type(extractor).__name__, vars(extractor)
    probes = [_sample(count, int(extractor.sampling_rate)) for count in _SAMPLES]
    wanted = [_computed(extractor, probe, kind) for probe in probes]
    for candidate in _candidates(said, Sound(input=made_as, rate=int(extractor.sampling_rate), mask=mask)):
        if all(_agrees(candidate, probe, features) for probe, features in zip(probes, wanted, strict=True)):
            return _at_length(candidate, task)
    raise InputError(
        f"{folder}: {kind} does something to sound that a bundle's manifest cannot say; export the model as a torch "
        "module or an ONNX file and give arrays to run()"
    )


def open_extractor(folder: Path) -> Any:
    """The feature extractor of a checkpoint; no code of the checkpoint is run.

    Raises:
        InputError: there is none, or transformers cannot open it.

    """
    if not any((folder / name).is_file() for name in _FILES):
        raise InputError(
            f"{folder} has no {_FILES[0]}, which says how sound becomes inputs; copy it from where the model came from"
        )
    from transformers import AutoFeatureExtractor

    opened: Any = AutoFeatureExtractor
    try:
        return opened.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # what transformers raises on files it does not understand is of any kind
        raise InputError(f"{folder}: its feature extractor cannot be opened: {error}") from error


def _sample(count: int, rate: int) -> NDArray[np.float32]:
    """A sound with tones, noise and silence."""
    generator = np.random.default_rng(count)
    time = np.arange(count) / rate
    tones = 0.3 * np.sin(2 * np.pi * (300 + 900 * time) * time) + 0.1 * np.sin(2 * np.pi * 2500 * time)
    sound = tones + generator.normal(0, 0.01, count)
    sound[count // 2 : count // 2 + count // 8] = 0
    return sound.astype(np.float32)


def _computed(extractor: Any, probe: NDArray[np.float32], kind: str) -> Mapping[str, Any]:
    try:
        return dict(extractor(probe, sampling_rate=int(extractor.sampling_rate), return_tensors="np"))
    except Exception as error:  # of any kind, as above
        raise InputError(f"{kind} fails on a sound of {probe.size:,} samples: {error}") from error


def _agrees(candidate: Sound, probe: NDArray[np.float32], wanted: Mapping[str, Any]) -> bool:
    features = next((wanted[name] for name in _INPUTS if name in wanted), None)
    made = sound_feed([probe], candidate)[candidate.input]
    return features is not None and made.shape == np.shape(features) and np.allclose(made, features, _CLOSE, _CLOSE)


def _candidates(said: Mapping[str, Any], plain: Sound) -> Iterator[Sound]:
    """What the extractor's attributes may mean."""
    nyquist = plain.rate / 2
    if "chunk_length" in said and "n_fft" in said:  # Whisper
        mel = Mel(
            n_fft=said["n_fft"], frame=said["n_fft"], hop=said["hop_length"], bins=said["feature_size"], high=nyquist,
            centred=True, drop_last=True, norm="slaney", log="log10", range=8.0,
        )  # fmt: skip
        yield replace(plain, length=said["n_samples"], mel=mel, mean=-4.0, std=4.0, mask=None)
    if "num_mel_bins" in said:
        kaldi = replace(_KALDI, bins=said["num_mel_bins"], high=nyquist)
        if "max_length" in said:  # the audio spectrogram transformer
            mean, std = (said["mean"], 2 * said["std"]) if said.get("do_normalize") else (0.0, 1.0)
            mel = replace(kaldi, window="hann")
            yield replace(plain, mel=mel, frames=said["max_length"], mean=mean, std=std, layout="frames, bins")
        if "stride" in said:  # SeamlessM4T and wav2vec 2.0 with BERT
            yield replace(
                plain, mel=replace(kaldi, amplitude=float(1 << 15)), normalize="bins", stack=said["stride"],
                fill=said.get("padding_value", 0.0), layout="frames, bins",
            )  # fmt: skip
    if "do_normalize" in said:
        yield replace(plain, normalize="utterance" if said["do_normalize"] else None)
    yield plain


def _at_length(sound: Sound, task: Task) -> Sound:
    """The same for a graph of one length."""
    samples = task.input(sound.input).shape[-1]
    return replace(sound, length=samples) if sound.mel is None and isinstance(samples, int) else sound
