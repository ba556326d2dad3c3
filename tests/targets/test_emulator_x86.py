"""A processor with AVX2 and no VNNI, emulated on any x86-64 host: integer products saturate there, and not with us.

The same wheel of onnxruntime runs there as here, so only its kernels differ.
"""

import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import product_models as made
import pytest
from guests import Guests
from qdq_models import block, block_feed
from residual_network import IMAGES, residual_network

from edgepress.calls.guest import Arrays, describe, products
from edgepress.errors import InputError
from edgepress.exporter.graph.qdq import WIDTHS, calibrate, quantize
from edgepress.exporter.recipe.recipe import Activations
from edgepress.targets.emulator import Agreement, Call, Installation, agreement, machine, processors, run
from edgepress.targets.emulator.model import run_model

ROOT = Path(__file__).resolve().parents[2]
QUANTIZE = "tests/exporter/graph/qdq/test_quantize.py"
WITHOUT_VNNI = "Haswell-noTSX"
ARM = ["cortex-a53", "cortex-a76"]  # without and with dot products
PRODUCTS = ["MatMulInteger", "MatMul in QDQ", "Conv in QDQ", "MatMul in QDQ, a shared weight"]
on_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="runs this machine's own Python, which is not x86-64"
)


@on_x86
def test_a_processor_without_avx2_has_another_kernel_that_is_exact(emulator: Installation) -> None:
    [(said, _)] = run(emulator, "SandyBridge", [Call(products)])
    assert said == {"saturate": False}


@on_x86
def test_the_tests_of_arithmetic_pass_there(emulator: Installation) -> None:
    """Every operator's product, plain and by our sessions; decoders in QDQ against their float models."""
    picked = "products or saturates or option or decoder"
    chosen = ["tests/test_sessions.py", f"{QUANTIZE}::test_a_decoder_stays_near_its_float_model[a8w8-15]"]
    options = ["--assert=plain", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    command = [*machine.x86_python(emulator, WITHOUT_VNNI), "-m", "pytest", *options, "-k", picked, *chosen]
    environment = {**machine.os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # importing takes most of the time
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counts = re.search(r"(\d+) passed, (\d+) skipped", done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert counts is not None
    unrepaired = sum(not make().repaired for make in made.CASES.values())
    assert int(counts[1]) > 50
    assert int(counts[2]) == unrepaired  # there the products were found to saturate


class Compared(NamedTuple):
    """Each model's outputs on each processor against those here; what the processor without VNNI says of itself."""

    models: dict[str, dict[str, Agreement]]
    said: list[dict[str, Any]]


@pytest.fixture(scope="module")
def compared(emulator: Installation, _guests: Guests, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """One start of a processor for all that is asked of it."""
    folder = tmp_path_factory.mktemp("compared")
    feeds: dict[str, Arrays] = {"network": {"image": IMAGES}, "decoder": dict(block_feed(3))}
    onnx.save(residual_network(integer=True, top=127), folder / "network.onnx")
    path = block(folder / "float.onnx")
    ranges = calibrate(path, map(block_feed, range(60)), Activations("uint8", "minmax"))
    onnx.save(quantize(path, ranges, WIDTHS["a8w8"]), folder / "decoder.onnx")
    for name in PRODUCTS:
        case = made.CASES[name]()
        (folder / f"{name}.onnx").write_bytes(case.model)
        feeds[name] = case.feed
    asked = {name: {"model": str(folder / f"{name}.onnx"), "batch": None, "threads": 1} for name in feeds}
    here = {name: run_model(asked[name], feeds[name])[1] for name in feeds}
    calls = [Call(run_model, asked[name], feeds[name]) for name in feeds]
    answers = {cpu: _guests.run(emulator, cpu, calls) for cpu in ARM}
    said: list[dict[str, Any]] = []
    if platform.machine() == "x86_64":
        first, second, *answers[WITHOUT_VNNI] = run(emulator, WITHOUT_VNNI, [Call(products), Call(describe), *calls])
        said = [first[0], second[0]]
    found: dict[str, dict[str, Agreement]] = {name: {} for name in feeds}
    for cpu, answered in answers.items():
        for name, (_, outputs) in zip(feeds, answered, strict=True):
            found[name] |= {f"{cpu}, {key}": agreement(here[name][key], outputs[key]) for key in outputs}
    return Compared(found, said)


@on_x86
def test_sums_saturate_there_and_what_runs_there_is_what_runs_here(compared: Compared) -> None:
    said, told = compared.said
    assert said == {"saturate": True}
    assert told == describe({}, {})[0]


@pytest.mark.parametrize("name", [*PRODUCTS, "network", "decoder"])
def test_products_are_those_of_arm_bit_by_bit(name: str, compared: Compared) -> None:
    """Of single products, of a network with weights of all eight bits, and of a decoder in QDQ."""
    assert len(compared.models[name]) >= len(ARM)
    for where, found in compared.models[name].items():
        assert found.bit_equal, f"{where}: {found.describe()}"


@on_x86
def test_without_our_options_the_same_model_is_wrong_there(
    emulator: Installation, compared: Compared, tmp_path: Path
) -> None:
    """What a user's own session gives there, from a script of theirs, and what ours gives."""
    case = made.CASES["MatMulInteger"]()
    model, feed, plain = tmp_path / "m.onnx", tmp_path / "feed.npz", tmp_path / "plain.npy"
    model.write_bytes(case.model)
    np.savez(feed, **case.feed)
    script = (
        "import numpy as np, onnxruntime as ort, sys\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "np.save(sys.argv[3], session.run(None, dict(np.load(sys.argv[2])))[0])\n"
    )
    command = [*machine.x86_python(emulator, WITHOUT_VNNI), "-c", script, model, feed, plain]
    subprocess.run(command, check=True)
    wrong = np.load(plain)
    assert agreement(case.expected, wrong).sqnr_db < 3
    right = run_model({"model": str(model), "batch": None, "threads": 1}, case.feed)[1]["y"]
    np.testing.assert_array_equal(right, case.expected)
    assert compared.models["MatMulInteger"][f"{WITHOUT_VNNI}, y"].bit_equal


def test_x86_processors_are_for_x86_hosts(emulator: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert WITHOUT_VNNI not in processors(emulator)
    with pytest.raises(InputError, match="needs an x86-64 machine, and this is aarch64"):
        run(emulator, WITHOUT_VNNI, [Call(products)])
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")
    assert WITHOUT_VNNI in processors(emulator)


@on_x86
def test_the_command_runs_this_python_there(emulator: Installation, tmp_path: Path) -> None:
    (tmp_path / "emulator").symlink_to(emulator.directory)
    line = [sys.executable, "-m", "edgepress", "emulator", "python"]
    ask = "from edgepress.sessions import saturates; raise SystemExit(40 + saturates())"
    environment = {**machine.os.environ, "EDGEPRESS_CACHE": str(tmp_path)}
    done = subprocess.run([*line, "--", "-c", ask], capture_output=True, env=environment, check=False)
    assert done.returncode == 41, done.stderr
    done = subprocess.run(
        [*line, "--cpu", "cortex-a53", "--", "-c", ""], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert b"cortex-a53 is no x86-64 processor" in done.stderr
