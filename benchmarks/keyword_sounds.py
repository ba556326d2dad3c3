"""Spoken words as WAV files, each of a second: espeak-ng says them in many voices, and noise is added.

Debian's espeak-ng (``apt-get install espeak-ng``) is a speech synthesizer. Voices of the test are heard in no other
part. It speaks far more alike than people do: figures say what a bundle keeps of its float model, and not how well such
a model does in a kitchen.
"""

import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.processing.waves import read_wave

RATE = 16_000
WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHERS = ("house", "bird", "seven", "marvin", "tree", "happy", "wow", "sheila", "learn", "zero", "follow", "bed")
LABELS = (*WORDS, "other", "silence")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-gb-x-gbclan")
VARIANTS = {
    "train": ("m1", "m2", "m3", "m5", "f1", "f2", "f3", "croak"),
    "calibration": ("m4", "f5"),
    "test": ("m6", "m7", "f4", "klatt2"),
}
"""Who speaks in each part."""

Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Spoken:
    """A word in one voice: ``speed`` in words a minute, ``pitch`` from 0 to 99."""

    word: str
    voice: str
    speed: int
    pitch: int


def plan(part: str, *, each: int, seed: int) -> Iterator[tuple[str, Spoken | None]]:
    """``each`` sounds of every label: what is said, None for silence."""
    random = np.random.default_rng((seed, list(VARIANTS).index(part)))
    voices = [f"{accent}+{variant}" for accent, variant in product(ACCENTS, VARIANTS[part])]
    for label in LABELS:
        for number in range(each):
            word = OTHERS[number % len(OTHERS)] if label == "other" else label
            speed, pitch = int(random.integers(110, 220)), int(random.integers(20, 80))
            spoken = Spoken(word, voices[number % len(voices)], speed, pitch)
            yield label, None if label == "silence" else spoken


def say(spoken: Spoken) -> Sound:
    """What espeak-ng says, samples at ``RATE``."""
    if which("espeak-ng") is None:
        sys.exit("espeak-ng is not here; apt-get install espeak-ng")
    arguments = ["-v", spoken.voice, "-s", f"{spoken.speed}", "-p", f"{spoken.pitch}", "--stdout", spoken.word]
    made = bytearray(subprocess.run(["espeak-ng", *arguments], check=True, capture_output=True).stdout)
    made[4:8] = (len(made) - 8).to_bytes(4, "little")  # what is written to a pipe does not know how long it will be
    made[40:44] = (len(made) - 44).to_bytes(4, "little")
    return read_wave(bytes(made), RATE)


def in_noise(sound: Sound | None, random: np.random.Generator) -> Sound:
    """A second of noise of some colour, with the sound somewhere in it, 3 to 25 dB above the noise."""
    spectrum = np.fft.rfft(random.normal(size=RATE)) / np.maximum(np.arange(RATE // 2 + 1), 20) ** random.uniform(0, 1)
    noise = np.fft.irfft(spectrum, RATE)
    noise /= np.sqrt(np.square(noise).mean())
    if sound is None:
        return (noise * 10 ** random.uniform(-3, -1)).astype(np.float32)
    loud = np.flatnonzero(np.abs(sound) > 0.01 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1][:RATE]
    power = np.sqrt(np.square(sound).mean())
    start = int(random.integers(0, RATE - len(sound) + 1))
    mixture = noise * power * 10 ** (-random.uniform(3, 25) / 20)
    mixture[start : start + len(sound)] += sound
    return (mixture / np.abs(mixture).max() * 10 ** random.uniform(-1, -0.05)).astype(np.float32)


def write_wave(path: Path, samples: NDArray[Any]) -> None:
    """Samples in [−1, 1] in 16 bits, mono."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes())


def make_sounds(folder: Path, part: str, *, each: int, seed: int = 0) -> Path:
    """``folder/<label>/<number>.wav``, made once."""
    done = folder / f"{part}-{each}-{seed}"
    if done.is_dir():
        return done
    working = done.with_name(f".{done.name}")
    random = np.random.default_rng((seed, each, list(VARIANTS).index(part)))
    for number, (label, spoken) in enumerate(plan(part, each=each, seed=seed)):
        place = working / label
        place.mkdir(parents=True, exist_ok=True)
        write_wave(place / f"{number:05}.wav", in_noise(None if spoken is None else say(spoken), random))
    working.rename(done)
    return done


def read_sounds(folder: Path, labels: Sequence[str] = LABELS) -> tuple[Sound, NDArray[np.int64]]:
    """All sounds of a folder, (n, samples), and their labels, (n,)."""
    files = [(path, index) for index, label in enumerate(labels) for path in sorted((folder / label).glob("*.wav"))]
    sounds = [read_wave(path.read_bytes(), RATE) for path, _ in files]
    return np.stack(sounds), np.array([index for _, index in files])
