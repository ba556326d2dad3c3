"""What the benchmarks measure against is the same model: its logits, as other tools compute them."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_models import save

from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.source.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("import_script")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TOKENS = np.random.default_rng(0).integers(3, 300, 60)


@pytest.mark.parametrize("name", ["llama", "qwen2", "demo"])
def test_a_gguf_is_the_checkpoints_model(name: str, tmp_path: Path) -> None:
    """Grouped heads, tied and untied heads, biases, both orders of rotation; what each tensor is stored as."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is absent: pip install 'edgepress[bench]'")
    from peers import llama_cpp

    model = resolve_model("demo") if name == "demo" else save(name, tmp_path / "checkpoint")
    checkpoint = Checkpoint.open(model)
    path = llama_cpp.write_gguf(checkpoint, tmp_path / "f32.gguf")
    peer = llama_cpp.open_peer(path, checkpoint)
    expected = Reference(model).logits(TOKENS)
    for length in (60, 7, 60):  # each text from its start, whatever came before
        logits = peer.source.logits(TOKENS[:length])
        assert np.abs(logits - expected[:length]).max() < 1e-3
    assert peer.bits_per_weight == 32
    assert list(peer.types) == ["F32"]


def test_a_quantized_gguf_is_counted_as_it_is_stored(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is absent: pip install 'edgepress[bench]'")
    from peers import llama_cpp

    checkpoint = Checkpoint.open(resolve_model("demo"))
    source = llama_cpp.write_gguf(checkpoint, tmp_path / "f32.gguf")
    peer = llama_cpp.open_peer(llama_cpp.quantize(source, tmp_path / "q8.gguf", "Q8_0"), checkpoint)
    sizes = [math.prod(tensor.shape) for tensor in checkpoint.tensors.values()]
    gains = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values() if len(tensor.shape) == 1)
    bits = 8.5 * (sum(sizes) - gains) + 32 * gains  # 32 codes of 8 bits and a scale of 16; norms in float32
    assert peer.bits_per_weight == pytest.approx(bits / sum(sizes))
    assert peer.note == "22 Q8_0"


@pytest.fixture(name="built", scope="module")
def _built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        from peers import genai_builder

        checkpoint = Checkpoint.open(resolve_model("demo"))
        return genai_builder.build(checkpoint, tmp_path_factory.mktemp("genai") / "out", "rtn")


def test_the_builders_model_is_the_checkpoints(built: Path) -> None:
    """Rounded to 4 bits, so near it only; bits counted by hand: codes, float32 scales, norms, a tied head once."""
    from peers import genai_builder

    checkpoint = Checkpoint.open(resolve_model("demo"))
    peer = genai_builder.open_peer(built, checkpoint)
    expected = Reference(checkpoint.directory).logits(TOKENS)
    logits = peer.source.logits(TOKENS)
    assert logits.shape == expected.shape
    assert np.corrcoef(logits.ravel(), expected.ravel())[0, 1] > 0.98
    sizes = [math.prod(tensor.shape) for tensor in checkpoint.tensors.values()]
    gains = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values() if len(tensor.shape) == 1)
    assert peer.bits_per_weight == pytest.approx((5 * (sum(sizes) - gains) + 32 * gains) / sum(sizes))
    assert peer.note == "16 4-bit symmetric block 32"


def test_rotary_embedding_outside_of_attention_is_the_same_model(built: Path) -> None:
    """Only for heads that onnxruntime cannot rotate inside; shown on heads that it rotates either way."""
    from peers import genai_builder

    config = json.loads((built.parent / "genai_config.json").read_text())["model"]["decoder"]
    path = built.with_name("outside.onnx")
    onnx.save(genai_builder.rotary_outside(onnx.load(built), config), path)
    outside = genai_builder.Logits(path, config["head_size"]).logits(TOKENS)
    assert np.abs(outside - genai_builder.Logits(built, config["head_size"]).logits(TOKENS)).max() < 1e-4
