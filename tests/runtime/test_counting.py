"""Counting a bundle's calls, without an emulated machine: what is called, on what text, and what its bytes are."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.measures.counting import BundleCost, count_bundles
from edgepress.runtime.measures.counting.bundle import calls_of, cost_of
from edgepress.runtime.measures.counting.machine import count, made_up_text, state_traffic
from edgepress.runtime.measures.counting.touched import weights_of
from edgepress.targets.emulator import Installation, System


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("counting") / "demo"
    export("demo", out=out, recipe="int4-128")
    return out


@pytest.fixture(scope="module")
def cost(demo: Path) -> BundleCost:
    """What the machine would tell, told here: nanoseconds stand for instructions."""
    calls = calls_of([8, 130], [24])
    asked = {
        "bundle": str(demo),
        "prompt": "ROMEO:",
        "max_tokens": 3,
        "context": None,
        "by_operator": True,
        "graph": None,
        "adapter": None,
    }
    told, arrays = count(asked | {"calls": calls}, {})
    assert not arrays
    return cost_of(str(demo), "here", told, {"a": "1"})


def test_each_context_has_a_token_and_each_prompt() -> None:
    assert calls_of([8, 16], [64, 1]) == [(1, 64), (8, 64), (16, 64), (1, 1), (8, 1), (16, 1)]
    assert calls_of([8], []) == [(8, 0)]
    assert calls_of([], []) == []


def test_parts_of_a_call_are_all_of_it(cost: BundleCost, demo: Path) -> None:
    assert [(call.tokens, call.context) for call in cost.calls] == [(1, 24), (8, 24), (130, 24)]
    assert cost.graph == "model.onnx"
    assert cost.prompt_tokens == len(load(demo).tokenizer.encode("ROMEO:"))
    assert len(cost.decode) == 2
    for call in cost.calls:
        assert sum(call.parts.values()) == call.instructions > call.in_onnxruntime > 0
        assert call.operators is not None
        pieces = 2 if call.tokens == 130 else 1  # of at most 128 tokens
        assert call.operators["GroupQueryAttention"].nodes == 3 * pieces
        assert f"{call.operators['MatMulNBits'].nodes} ×" in call.describe()
    assert "130 tokens after 24" in cost.describe()
    assert cost.to_json()["calls"][0]["operators"]["GroupQueryAttention"]["nodes"] == 3


def test_bytes_are_those_of_the_file_and_of_the_states(cost: BundleCost, demo: Path) -> None:
    states = load(demo).session.states
    one, eight, _ = cost.calls
    a_token = sum(state.bytes_at(1) for state in states)
    assert (one.state_bytes_loaded, one.state_bytes_stored) == (25 * a_token, a_token)
    assert (eight.state_bytes_loaded, eight.state_bytes_stored) == (32 * a_token, 8 * a_token)
    stored = (demo / "model.onnx.data").stat().st_size
    assert stored * 0.9 < one.weight_bytes_loaded < stored * 1.1  # the table's rows are read twice: rows, and the head
    assert one.weight_bytes_loaded < eight.weight_bytes_loaded < one.weight_bytes_loaded * 1.01


def test_a_window_is_read_and_written_as_far_as_it_goes() -> None:
    """A window of 32 tokens in 48 rows: after 48 tokens it is full, the next one leaves 32 and moves them."""
    window = State("a", "past", "present", ("batch", 1, "window", 1), "float32", "window", 32)
    expected = {(1, 10): (11, 1), (1, 47): (48, 1), (1, 48): (32, 32), (1, 49): (33, 1), (8, 45): (36, 36)}
    for (tokens, context), (loaded, stored) in expected.items():
        found = state_traffic([window], tokens, context)
        assert found == {"state_bytes_loaded": 4 * loaded, "state_bytes_stored": 4 * stored}


def test_a_made_up_text_is_one_of_that_length(demo: Path) -> None:
    session = load(demo, context=40).session
    text = made_up_text(session, 24)
    session.restore(text)
    assert session.position == 24
    logits = session.append([1]).copy()
    assert np.isfinite(logits).all()
    session.restore(made_up_text(session, 0))
    assert session.position == 0
    assert not np.allclose(session.append([1]), logits)  # the text before counts


@pytest.mark.parametrize(
    ("prefill", "contexts", "message"),
    [
        ([0], [], "a prompt length is 0; it must be at least 1"),
        ([], [0], "a context is 0; it must be at least 1"),
        ([True], [], "a prompt length is True"),
        ([8], [510], r"8 tokens after 510 do not fit in the context of .*, 512 tokens; give a shorter"),
        ([], [512], "1 token after 512 do not fit"),
    ],
)
def test_lengths_that_do_not_fit_are_said_before_a_boot(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefill: list[int], contexts: list[int], message: str
) -> None:
    monkeypatch.setattr("edgepress.runtime.measures.counting.bundle.check_cpu", lambda *_: None)
    absent = Installation(tmp_path, tmp_path, tmp_path, {}), System(tmp_path, {})
    with pytest.raises(InputError, match=message):
        count_bundles(*absent, [demo], ["cortex-a76"], prefill=prefill, contexts=contexts)


TYPES = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.INT8: 1, TensorProto.INT64: 8}
constants = st.tuples(
    st.sampled_from(sorted(TYPES)), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.booleans(), st.booleans()
)


@given(wanted=st.lists(constants, max_size=6), external=st.booleans(), tokens=st.integers(1, 9))
def test_bytes_of_weights_are_those_of_the_constants_that_are_read(
    wanted: list[tuple[int, list[int], bool, bool]],
    external: bool,
    tokens: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Each constant is read whole by one node, or by rows, or by both, or by two nodes of one operator."""
    weights, nodes, expected = [], [], 0
    for number, (kind, shape, whole, rows) in enumerate(wanted):
        array = np.ones(shape, helper.tensor_dtype_to_np_dtype(kind))
        weights.append(numpy_helper.from_array(array, f"w{number}"))
        if whole:
            nodes += [helper.make_node("Identity", [f"w{number}"], [f"y{number}{again}"]) for again in "ab"]
            expected += array.size * TYPES[kind]
        if rows:
            nodes.append(helper.make_node("Gather", [f"w{number}", "ids"], [f"g{number}"], axis=0))
            expected += tokens * (array.size // shape[0]) * TYPES[kind]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    model = helper.make_model(helper.make_graph(nodes, "g", [ids], [], weights))
    path = tmp_path_factory.mktemp("touched") / "model.onnx"
    onnx.save(model, path, save_as_external_data=external, location="data", size_threshold=0)
    assert weights_of(path).bytes_of(tokens) == expected


def test_constants_that_a_branch_reads_count_too(tmp_path: Path) -> None:
    branches = [
        helper.make_graph([helper.make_node("Identity", [name], [out])], name, [], [onnx.ValueInfoProto(name=out)])
        for name, out in (("a", "x"), ("b", "y"))
    ]
    weights = [numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in (("a", 3), ("b", 5))]
    node = helper.make_node("If", ["c"], ["z"], then_branch=branches[0], else_branch=branches[1])
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [condition], [], weights)), tmp_path / "m.onnx")
    assert weights_of(tmp_path / "m.onnx").bytes_of(1) == 4 * (3 + 5)
