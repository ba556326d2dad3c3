"""Encoder-decoders on an accelerator: what the simulated chip computes of both graphs is what the CPU does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import encoder_decoders
import numpy as np
import onnxruntime
import pytest

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.decide.encoder_decoder import decide_encoder_decoder
from edgepress.exporter.graph.static.encoder_decoder import write_static_pair
from edgepress.runtime.placement import Place
from edgepress.runtime.sequences.opening import open_session
from edgepress.runtime.sequences.static import StaticEncoderDecoder
from edgepress.runtime.sequences.targets import SequenceSession
from edgepress.runtime.sessions.session import ON_CPU
from edgepress.sessions import open_on_cpu

CHIP, LENGTH = "sm8650", 16
HALF = 0.02  # of the largest logit, in float16; measured: 0.001 to 0.008, largest where T5's scores are
EXACT = 1e-5  # in float32; measured: 2e-6


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with encoder_decoders.on_one_thread():
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("static-pair")


def session_of(bundle: Path, on: str) -> SequenceSession:
    manifest = read_manifest(bundle)
    assert manifest.task is not None
    return open_session(bundle, manifest.task, manifest.states, threads=1, on=on, soc=None if on == "cpu" else CHIP)


def logits_of(session: SequenceSession) -> np.ndarray:
    """Of a target in pieces, then of three side by side that go on from one another: (rows, vocabulary)."""
    session.encode(encoder_decoders.source_of(session))
    found = [session.append(tokens).copy() for tokens in ([3, 40, 50], [60])]
    session.spread(3)
    found += [*session.step(np.array([41, 40, 42])).copy()]
    session.reorder(np.array([1, 0, 0]))
    found += [*session.step(np.array([50, 51, 52])).copy()]
    return np.array(found)


@pytest.mark.parametrize("name", ["t5", "whisper"])
def test_the_simulated_accelerator_computes_what_the_cpu_does(name: str, home: Path) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs the wheel onnxruntime-qnn: pip install 'edgepress[qnn]'")
    bundle, checkpoint = home / f"{name}-bundle", encoder_decoders.save(name, home / name)
    export(checkpoint, out=bundle, target=["x86-cpu", "qnn-htp"], recipe="fp32", context_length=LENGTH, threads=1)
    assert find_problems(bundle) == []
    truth, there = (session_of(bundle, on) for on in ("cpu", "qnn-htp"))
    assert (there.ran_on.soc, there.ran_on.simulated) == (CHIP, True)
    expected = logits_of(truth)
    np.testing.assert_allclose(logits_of(there), expected, rtol=0, atol=HALF * np.abs(expected).max())


class OnCpu:
    """A place whose graphs the CPU computes in float32, for what a chip's arithmetic would hide."""

    def __init__(self, bundle: Path, folder: Path, source: int | None) -> None:
        folder.mkdir()
        write_static_pair(bundle, folder, source=source, context=LENGTH)
        self.folder, self.context, self.ran_on = folder, LENGTH, ON_CPU
        self.shapes = {} if source is None else {"source": source}

    def open_graph(self, name: str) -> onnxruntime.InferenceSession:
        return open_on_cpu(self.folder / name)


def both(home: Path, name: str) -> tuple[SequenceSession, StaticEncoderDecoder]:
    """A float32 bundle's own graphs, and static ones of it, of 16 positions where there is a choice."""
    bundle, checkpoint = home / f"{name}-float", encoder_decoders.save(name, home / f"{name}-checkpoint")
    manifest = export(checkpoint, out=bundle, target="x86-cpu", recipe="fp32", threads=1)
    assert manifest.task is not None
    assert manifest.task.sequences is not None
    place = OnCpu(bundle, home / f"{name}-static", None if name == "whisper" else LENGTH)
    static = StaticEncoderDecoder(cast("Place", place), manifest.task.sequences, manifest.states)
    return encoder_decoders.opened(bundle), static


@pytest.mark.parametrize("name", ["marian", "t5-gated-untied", "whisper"])
def test_static_graphs_compute_what_the_bundle_does(name: str, home: Path) -> None:
    plain, static = both(home, name)
    expected = logits_of(plain)
    np.testing.assert_allclose(logits_of(static), expected, rtol=0, atol=EXACT * np.abs(expected).max())
    # a target that fills the context, whose last token has no slot, and all logits at once
    feed = encoder_decoders.source_of(plain) | {"decoder_input_ids": np.arange(3, 3 + LENGTH)[None]}
    expected, found = (session.compute(feed)["logits"] for session in (plain, static))
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT * np.abs(expected).max())
    with pytest.raises(InputError, match=r"1 tokens for 1 targets do not fit.*has 16 positions"):
        static.append([3])
    if name == "whisper":
        for layer in (0, 1):
            for told, right in zip(
                static.asked(np.arange(3, 9), layer), plain.asked(np.arange(3, 9), layer), strict=True
            ):
                np.testing.assert_allclose(told, right, rtol=0, atol=EXACT * np.abs(right).max())
    else:
        with pytest.raises(InputError, match="a source of 17 tokens is longer than the 16"):
            static.encode({"input_ids": np.full((1, 17), 5)})


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("moonshine", {"recipe": "fp16"}, "normalizes over the whole length of a sound"),
        ("t5", {"recipe": "int8"}, "takes integers everywhere or none"),
        ("marian", {"recipe": "fp16", "context_length": 65}, "context_length 65 is more than the model's 64"),
        ("marian", {"recipe": "fp16", "context_length": 1}, "takes a context of 2 tokens or more here, not 1"),
        ("marian", {"recipe": "fp16", "socs": ["sm8350"]}, "sm8350 cannot compute in float16"),
        ("marian", {"target": "x86-cpu", "context_length": 8}, "--context has no effect on CPUs"),
        ("marian", {"target": "android-nnapi"}, "takes no encoder-decoders as yet"),
    ],
)
def test_what_has_no_static_form(name: str, asked: dict[str, Any], message: str, home: Path) -> None:
    checkpoint = encoder_decoders.save(name, home / f"{name}-refused")
    with pytest.raises(InputError, match=message):
        decide_encoder_decoder(checkpoint, **{"target": "qnn-htp", **asked})


def test_the_command_line_runs_and_measures_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime_qnn", reason="needs the wheel onnxruntime-qnn: pip install 'edgepress[qnn]'")
    bundle, place = str(home / "t5-bundle"), ["--on", "qnn-htp", "--soc", CHIP]
    assert main(["run", bundle, *place, "--prompt", "hello", "--max-tokens", "2"]) == 0
    capsys.readouterr()
    assert main(["bench", bundle, *place, "--decode-tokens", "2", "--repetitions", "1"]) == 0
    out = capsys.readouterr().out
    assert f"qnn-htp {CHIP}, simulated" in out
    assert "for a source of 16" in out
    assert main(["check", bundle, "--target", "qnn-htp", "--soc", CHIP, "--require", "full"]) == 0
