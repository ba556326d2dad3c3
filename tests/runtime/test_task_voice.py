"""Voice activity: pieces and what is carried between them against a plain loop, stretches against counting by hand."""

import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_models import Arrays, opened
from tokenizers_of_all_kinds import DATA

from edgepress.errors import InputError
from edgepress.runtime.tasks.kinds import open_task
from edgepress.runtime.tasks.voice_activity import VoiceDetector, stretches_of
from edgepress.sessions import open_on_cpu
from edgepress.tasks.answers import Answers, Carried, Voice
from edgepress.tasks.sound import Sound
from edgepress.tasks.task import Edge, Task, check_task

PART = Voice(
    output="p", chunk=4, context=2, carried=(Carried(input="s", output="t", shape=(1, 2)),), constants={"rate": 1000},
    speech=0, silence=0.008, margin=0,
)  # fmt: skip


def detector(part: Voice = PART) -> VoiceDetector:
    """Says the largest of what it gets, a tenth of the sum of all pieces so far with it."""

    def compute(inputs: Arrays) -> Arrays:
        given, state = np.asarray(inputs["x"], np.float32), np.asarray(inputs["s"], np.float32)
        assert given.shape == (1, 6)
        assert int(inputs["rate"]) == 1000
        state = state + given[:, 2:].sum()
        return {"p": np.clip(given.max(keepdims=True) + state[:, :1] / 10, 0, 1), "t": state}

    model = opened(
        "voice-activity",
        {"x": ("float32", ("batch", "n")), "s": ("float32", ("batch", 2)), "rate": ("int64", ())},
        {"p": ("batch", 1), "t": ("batch", 2)},
        compute,
        sound=Sound(input="x", rate=1000),
        answers=Answers(voice=part),
    )
    assert isinstance(model, VoiceDetector)
    return model


@given(st.lists(st.floats(-0.02, 0.02), max_size=40), st.lists(st.integers(1, 9), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_pieces_of_any_length_give_what_the_whole_gives(numbers: list[float], lengths: list[int]) -> None:
    samples = np.array(numbers, np.float32)
    model = detector()
    stream, made, start = model.stream(), [], 0
    while start < samples.size:
        length = lengths[len(made) % len(lengths)]
        made.append(stream.push(samples[start : start + length]))
        start += length
    joined = np.concatenate(made) if made else np.zeros(0)
    whole = samples.size // 4
    wanted, total, padded = [], np.float32(0), np.concatenate([np.zeros(2, np.float32), samples])
    for piece in range(whole):
        total += samples[4 * piece : 4 * piece + 4].sum()
        wanted.append(np.clip(padded[4 * piece : 4 * piece + 6].max() + total / 10, 0, 1))
    np.testing.assert_allclose(joined, wanted, atol=1e-6)
    if samples.size:
        np.testing.assert_allclose(model.probabilities(samples)[:whole], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("probabilities", "change", "wanted"),
    [
        ([0.1, 0.9, 0.9, 0.1, 0.1, 0.1], {}, [(4, 12)]),
        ([0.9, 0.4, 0.9, 0.1, 0.1], {}, [(0, 12)]),  # above what ends it
        ([0.9, 0.1, 0.9, 0.1, 0.1], {}, [(0, 12)]),  # a silence too short to end it
        ([0.9, 0.1, 0.1, 0.9], {}, [(0, 4), (12, 16)]),
        ([0.9, 0.1, 0.1, 0.9, 0.9], {"speech": 0.005}, [(12, 20)]),
        ([0.1, 0.9, 0.1, 0.1, 0.1], {"margin": 0.003}, [(1, 11)]),
        ([0.9, 0.1, 0.1, 0.9], {"margin": 1.0}, [(0, 8), (8, 516)]),
        ([], {}, []),
        ([0.1, 0.2], {}, []),
    ],
)
def test_stretches_are_those_counted_by_hand(
    probabilities: list[float], change: dict[str, Any], wanted: list[tuple[int, int]]
) -> None:
    assert stretches_of(np.array(probabilities, np.float32), replace(PART, **change), 1000) == wanted


def test_speech_is_told_in_seconds_within_the_sound() -> None:
    samples = np.zeros(30, np.float32)
    samples[8:17] = 0.7
    (speech,) = detector(replace(PART, constants={"rate": 1000}, slack=0.0)).detect(samples, threshold=0.6)
    assert (speech.start, speech.end) == (0.008, 0.03)  # the sum of all pieces keeps it above
    with pytest.raises(InputError, match="floats"):
        detector().stream().push(np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="carries values"):
        detector().feed(samples)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"carried": (Carried(input="x", output="t", shape=(1, 2, 3)),)}, "carried with the shape"),
        ({"carried": (Carried(input="s", output="t", shape=(1, 3)),)}, "carried with the shape"),
        ({"carried": (Carried(input="s", output="q", shape=(1, 2)),)}, "from the output q"),
        ({"constants": {"speed": 3}}, "become the input speed"),
        ({"output": "q"}, "from the output q"),
    ],
)
def test_what_does_not_fit_the_graph_is_refused(change: dict[str, Any], said: str) -> None:
    task = detector().task
    with pytest.raises(ValueError, match=said):
        check_task(replace(task, answers=Answers(voice=replace(PART, **change))))


def test_a_real_detector_decides_as_a_plain_loop_over_its_pieces_does() -> None:
    folder = DATA / "models" / "silero_vad"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; set EDGEPRESS_DATA to the data folder")
    session = open_on_cpu(folder / "silero_vad_16k_op15.onnx")
    with wave.open(str(folder / "test.wav")) as file:
        samples = np.frombuffer(file.readframes(16_000 * 8), "<i2").astype(np.float32) / 2**15
    edges = (
        Edge("input", "float32", ("batch", "sequence")),
        Edge("state", "float32", (2, "batch", 128)),
        Edge("sr", "int64", ()),
    )
    outputs = (Edge("output", "float32", ("batch", 1)), Edge("stateN", "float32", (2, "batch", 128)))
    carried = (Carried(input="state", output="stateN", shape=(2, 1, 128)),)
    part = Voice(output="output", chunk=512, context=64, carried=carried, constants={"sr": 16_000})
    sound, answers = Sound(input="input", rate=16_000), Answers(voice=part)
    task = Task("voice-activity", edges, outputs, sound=sound, answers=answers)
    check_task(task)
    model = open_task(task, lambda feed: dict(zip(["output", "stateN"], session.run(None, feed), strict=True)), Path())
    assert isinstance(model, VoiceDetector)
    state, before, wanted = np.zeros((2, 1, 128), np.float32), np.zeros(64, np.float32), []
    for start in range(0, samples.size, 512):
        given = np.concatenate([before, samples[start : start + 512]])[None]
        probability, state = session.run(None, {"input": given, "state": state, "sr": np.array(16_000)})
        before = given[0, -64:]
        wanted.append(float(probability[0, 0]))
    np.testing.assert_array_equal(model.probabilities(samples), np.array(wanted, np.float32))
    speech = model.detect(samples)
    assert speech
    pieces = np.arange(len(wanted)) * 512 / 16_000
    inside = np.array([any(one.start <= at < one.end for one in speech) for at in pieces])
    sure = np.array(wanted) >= 0.5
    assert inside[sure].mean() > 0.9  # stretches of less than a quarter of a second are left out
