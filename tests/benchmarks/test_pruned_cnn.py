"""Real networks without half of their channels compute what the whole ones do with nothing reading these."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from edgepress.exporter.methods.narrower.choose import choose
from edgepress.exporter.methods.narrower.coupling import find_coupling
from edgepress.exporter.methods.narrower.cut import cut, masked, plain
from edgepress.exporter.methods.narrower.importance import scores_of
from edgepress.sessions import open_on_cpu

DATA = Path(os.environ.get("EDGEPRESS_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "models"
# He et al. 2016, section 4.2: a stem, three stages of 18 convolutions that all cost the same but for the first of the
# second and third stage, which reads half of the channels; and the last layer.
_STAGE = 18 * 9 * 16 * 16 * 32 * 32
RESNET56 = 9 * 3 * 16 * 32 * 32 + 3 * _STAGE - 2 * _STAGE // 36 + 64 * 10
NETWORKS = {
    "resnet56": ("resnet", "build_resnet", "resnet_cifar10/resnet56.safetensors", 30, RESNET56),
    "mobilenet_v2": (
        "mobilenet",
        "build_mobilenet",
        "mobilenet_v2/mobilenet_v2_1.0_224_fp32_folded.safetensors",
        25,
        None,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_a_real_network(name: str, tmp_path: Path, import_script: Callable[[str], ModuleType]) -> None:
    script, build, weights, groups, multiply_adds = NETWORKS[name]
    if not (DATA / weights).is_file():
        pytest.skip(f"{DATA / weights} is not there; set EDGEPRESS_DATA to the data folder")
    getattr(import_script(script), build)(DATA / weights, tmp_path / "float.onnx")
    model = plain(onnx.load(tmp_path / "float.onnx"))
    coupling = find_coupling(model)
    assert len(coupling.groups) == groups
    assert {group.kind for group in coupling.groups} == {"channels"}
    whole = coupling.multiply_adds(coupling.all_kept())
    if multiply_adds is not None:
        assert whole == multiply_adds
    scores = scores_of(model, coupling, coupling.groups, "weights", (), seed=0)
    settings = {"share": 0.5, "of": "multiply_adds", "uniform": False, "multiple": 1, "priced": False}
    kept = choose(coupling, coupling.groups, scores, method="channels", **settings)
    assert 0.49 * whole < coupling.multiply_adds(kept) <= 0.5 * whole
    (value,) = model.graph.input
    shape = [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]
    feed = {value.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    found, expected = (
        open_on_cpu(m.SerializeToString()).run(None, feed)[0]
        for m in (cut(model, coupling, kept), masked(model, coupling, kept))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_table_says_what_was_lost(import_script: Callable[[str], ModuleType]) -> None:
    report = import_script("pruned_cnn").report
    first = {"model": "resnet20", "what": "float", "parameters": 200, "multiply_adds": 40_000_000, "top1": 0.9}
    second = first | {"what": "outputs, retrained", "parameters": 100, "multiply_adds": 20_000_000, "top1": 0.885}
    more = {"steps": 1200, "batch": 128, "seen": 250, "microseconds": 412.4, "instructions": {"cortex-a76": 7_040_000}}
    lines = report([first, second | more]).splitlines()
    assert lines[2] == "| resnet20 (200 weights) | float | 40.0 M | 200 |  | 90.00 % |  |  |  |"
    measured = "1,200 steps of 128, 250 images | 88.50 % | 1.50 | 412 | 7.0 M"
    assert lines[3] == f"| resnet20 (200 weights) | outputs, retrained | 20.0 M | 100 | {measured} |"
