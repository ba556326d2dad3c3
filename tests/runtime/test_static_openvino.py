"""Static graphs on OpenVINO's CPU device: whole, and the CPU provider's logits."""

from pathlib import Path

import numpy as np
import pytest
import tiny_models
from static_graphs import cpu, difference, logits

from edgepress.exporter import export
from edgepress.exporter.graph.static import write_static
from edgepress.runtime.sessions.static import StaticSession
from edgepress.targets.providers import openvino

pytest.importorskip("onnxruntime_ep_openvino", reason="not installed: pip install 'edgepress[openvino]'")


@pytest.mark.usefixtures("openvino_cpu")
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text-version4", "gpt2"])
def test_a_static_decoder_runs_on_openvino_whole_and_right(tmp_path: Path, name: str) -> None:
    export(tiny_models.save(name, tmp_path / name), out=tmp_path / "bundle", recipe="fp32")
    (tmp_path / "static").mkdir()
    model = tmp_path / "bundle" / "model.onnx"
    paths = write_static(model, tmp_path / "static", context=100, sequence=16, further=["decompose-norm"])
    tokens = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, 50)
    sessions = [openvino.open_session(path) for path in paths]
    for session in sessions:
        assert {provider for *_, provider in openvino.assignment(session)} == {openvino.PROVIDER}
    expected = logits(StaticSession(*(cpu(path) for path in paths)), tokens, 9)
    assert difference(logits(StaticSession(*sessions), tokens, 9), expected) < 1e-5
