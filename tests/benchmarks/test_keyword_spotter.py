"""What the keyword spotter is trained on, and its table: nobody who speaks in the test is heard in training."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

Import = Callable[[str], ModuleType]


def test_parts_have_other_voices_and_every_label_alike(import_script: Import) -> None:
    sounds = import_script("keyword_sounds")
    voices = {}
    for part in sounds.VARIANTS:
        planned = list(sounds.plan(part, each=24, seed=0))
        labels, counts = np.unique([label for label, _ in planned], return_counts=True)
        assert set(labels) == set(sounds.LABELS)
        assert set(counts) == {24}
        voices[part] = {spoken.voice for _, spoken in planned if spoken is not None}
        assert {label for label, spoken in planned if spoken is None} == {"silence"}
        assert {spoken.word for label, spoken in planned if label == "other"} == set(sounds.OTHERS)
    assert not voices["train"] & voices["test"]
    assert not voices["train"] & voices["calibration"]
    assert planned == list(sounds.plan(part, each=24, seed=0))


def test_a_word_lies_somewhere_in_a_second_of_noise(import_script: Import, tmp_path: Path) -> None:
    sounds = import_script("keyword_sounds")
    word = np.zeros(9000, np.float32)
    word[2000:6000] = np.sin(np.arange(4000) * 0.3)
    starts = []
    for seed in range(20):
        found = sounds.in_noise(word, np.random.default_rng(seed))
        assert found.shape == (sounds.RATE,)
        assert 0.05 < np.abs(found).max() < 1
        likeness = np.correlate(found, word[2000:6000])
        starts.append(int(likeness.argmax()))
        own = found[starts[-1] : starts[-1] + 4000]
        assert likeness.max() / (np.linalg.norm(own) * np.linalg.norm(word)) > 0.7  # −3 dB or more of it is the word
    assert len(set(starts)) > 15
    for label in sounds.LABELS:
        (tmp_path / label).mkdir()
        sounds.write_wave(tmp_path / label / "0.wav", found)
    read, labels = sounds.read_sounds(tmp_path)
    np.testing.assert_allclose(read[3], found, atol=2**-16 + 1e-7)
    assert labels.tolist() == list(range(12))


def test_the_module_takes_what_the_manifest_makes_of_a_second(import_script: Import) -> None:
    script = import_script("keyword_spotter")
    seen = script.spectrograms(np.random.default_rng(0).normal(0, 0.1, (2, script.RATE)).astype(np.float32))
    assert seen.shape == (2, script.MEL["bins"], script.FRAMES)
    assert script.Spotter().eval()(torch.from_numpy(seen)).shape == (2, len(script.LABELS))


@pytest.mark.parametrize("counted", [True, False])
def test_the_table(import_script: Import, *, counted: bool) -> None:
    scores = {"value": 0.9, "interval": [0.88, 0.92], "changed": 0.015, "samples": 600}
    sample = {"recipe": "int8-static", "bytes": 85400, "top1": scores}
    more = {"instructions": 2_323_984, "cpu": "cortex-a76"} if counted else {}
    last = import_script("keyword_spotter").report([sample | more]).splitlines()[-1]
    shown = "2.32 M (cortex-a76)" if counted else ""
    assert last == f"| int8-static | 85,400 | 90.0 % (88.0–92.0) | 1.5 % of 600 | {shown} |"
