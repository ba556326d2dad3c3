"""cos and sin that the graph computes, against float64; a bundle's bytes do not grow with the context."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
from onnxruntime import InferenceSession, SessionOptions

from edgepress.exporter import export
from edgepress.exporter.graph.builder import FLOAT, FLOAT16, GraphBuilder
from edgepress.exporter.graph.rotary import INT64, LONG_FROM, ROWS, restore_tables, write_rotary
from edgepress.exporter.graph.weights import Weights
from edgepress.exporter.model.parts.primitives import Rope

FREQUENCIES = tuple(float(f) for f in np.float32(1e6) ** (-np.arange(0, 64, 2, dtype=np.float32) / 64))
DEFAULT = Rope(FREQUENCIES)
WIDE = Rope(tuple(float(f) for f in np.float32(1e6) ** (-np.arange(0, 128, 2, dtype=np.float32) / 128)))
LONG = Rope(FREQUENCIES, 1.19, tuple(f / 3 for f in FREQUENCIES), 50)
ULP = 2.0**-23


def graph_of(rope: Rope, *, half: bool = False) -> onnx.ModelProto:
    """The nodes that compute ``rope`` alone, fed as a decoder is, and read in float32 or in float16."""
    g = GraphBuilder("none", lambda _: True)
    g.input("input_ids", INT64, ["batch", "sequence"])
    g.input("attention_mask", INT64, ["batch", "total"])
    one = g.constant("one", np.array([1], np.int64))
    g.node("ReduceSum", ["attention_mask", one], "lengths", keepdims=0)
    g.node("Squeeze", [g.node("Shape", ["attention_mask"], "mask_shape", start=1, end=2)], "total")
    cos, sin, rows = write_rotary(g, "default", rope)
    with g.in_half(half):
        for name in (cos, sin):
            g.output(g.node("Identity", [name], f"{name}.read"), FLOAT16 if half else FLOAT, ["rows", "columns"])
    g.output(rows, INT64, ["rows", "columns"])
    return g.model("rotary", "0")


def computed(rope: Rope, mask: np.ndarray, sequence: int, *, half: bool = False) -> tuple[np.ndarray, np.ndarray, int]:
    """cos and sin of each token of a call, (batch, sequence, pairs), and how many rows the tables have."""
    ids = np.zeros((len(mask), sequence), np.int64)
    options = SessionOptions()
    options.intra_op_num_threads = 1
    graph = InferenceSession(graph_of(rope, half=half).SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": ids, "attention_mask": mask}
    cos, sin, rows = graph.run(["rope.default.cos.read", "rope.default.sin.read", ROWS], feeds)
    return cos[rows], sin[rows], len(cos)


def exact(rope: Rope, positions: np.ndarray, *, long: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """As transformers: the product in float32; cos and sin here in float64."""
    frequencies = np.array(rope.long_inverse_frequencies if long else rope.inverse_frequencies, np.float32)
    angles = (positions[..., None].astype(np.float32) * frequencies).astype(np.float64)
    return np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor


@pytest.mark.parametrize(("total", "sequence"), [(1, 1), (7, 7), (40, 9), (4096, 1), (131_072, 5)])
def test_the_graph_computes_the_rows_of_its_own_tokens(total: int, sequence: int) -> None:
    cos, sin, rows = computed(DEFAULT, np.ones((1, total), np.int64), sequence)
    expected = exact(DEFAULT, np.arange(total - sequence, total)[None])
    np.testing.assert_allclose(cos, expected[0], rtol=0, atol=ULP)
    np.testing.assert_allclose(sin, expected[1], rtol=0, atol=ULP)
    assert rows >= total  # GroupQueryAttention asks for them


@pytest.mark.parametrize("rope", [DEFAULT, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize(("total", "sequence"), [(1, 1), (40, 9), (4096, 1)])
def test_in_float16_they_are_the_same_rounded(rope: Rope, total: int, sequence: int) -> None:
    mask = np.ones((1, total), np.int64)
    cos, sin, rows = computed(rope, mask, sequence, half=True)
    single = computed(rope, mask, sequence)
    assert cos.dtype == np.float16
    np.testing.assert_array_equal(cos, single[0].astype(np.float16))
    np.testing.assert_array_equal(sin, single[1].astype(np.float16))
    assert rows >= total


def test_of_wide_tables_no_padding_is_cast() -> None:
    assert "Pad" not in {node.op_type for node in graph_of(WIDE, half=True).graph.node}
    assert "Pad" in {node.op_type for node in graph_of(WIDE).graph.node}


@pytest.mark.parametrize("total", [49, 50, 51])
def test_longrope_chooses_its_frequencies_by_the_length_of_the_text(total: int) -> None:
    cos, sin, _ = computed(LONG, np.ones((1, total), np.int64), 3)
    expected = exact(LONG, np.arange(total - 3, total)[None], long=total > LONG.long_from)
    np.testing.assert_allclose(cos, expected[0], rtol=0, atol=2 * ULP)
    np.testing.assert_allclose(sin, expected[1], rtol=0, atol=2 * ULP)


def test_rows_of_a_batch_go_on_where_their_own_text_ends() -> None:
    prompt = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    cos, _, _ = computed(DEFAULT, prompt, 4)
    np.testing.assert_allclose(cos, exact(DEFAULT, np.array([[0, 1, 2, 3]] * 2))[0], rtol=0, atol=ULP)
    cos, _, _ = computed(DEFAULT, np.concatenate([prompt, np.ones((2, 1), np.int64)], axis=1), 1)
    np.testing.assert_allclose(cos, exact(DEFAULT, np.array([[4], [2]]))[0], rtol=0, atol=ULP)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("rope", [DEFAULT, WIDE, LONG], ids=["default", "wide", "longrope"])
def test_static_graphs_get_tables_back(rope: Rope, half: bool) -> None:
    model = graph_of(rope, half=half)
    limit = restore_tables(model, Weights(None), 60, "position_ids")
    tables = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    blocks = [exact(rope, np.arange(60))]
    if rope is LONG:
        assert limit == LONG.long_from
        blocks.append(exact(rope, np.arange(60), long=True))
    else:
        assert limit is None
    for part, name in enumerate(("rope.default.cos", "rope.default.sin")):
        np.testing.assert_allclose(tables[name], np.concatenate([b[part] for b in blocks]), rtol=0, atol=2 * ULP)
    assert LONG_FROM not in tables
    assert not any(name in node.output for node in model.graph.node for name in tables)


def test_a_bundle_is_not_larger_for_a_longer_context(tmp_path: Path) -> None:
    checkpoint = tiny_models.save("gemma3_text", tmp_path / "checkpoint")
    sizes = []
    for context in (64, 32_768):
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        config["max_position_embeddings"] = context
        (checkpoint / "config.json").write_text(json.dumps(config), encoding="utf-8")
        out = tmp_path / str(context)
        export(checkpoint, out=out, recipe="int4")
        sizes.append((out / "model.onnx.data").stat().st_size)
    assert sizes[0] == sizes[1]
