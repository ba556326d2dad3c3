"""Attention of heads together gives what onnx's reference gives of heads moved apart; and what stays apart."""

import copy

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from pass_models import Case, moved_attention, node, normal, order, run

from edgepress.exporter.graph.editing import set_nodes


def operators(model: onnx.ModelProto) -> list[str]:
    return [one.op_type for one in model.graph.node]


def joined(case: Case) -> onnx.ModelProto:
    """What the pass makes of it, once; by the reference, of the graph as it was."""
    made = copy.deepcopy(case.model)
    assert order("heads-together").run(made) == {"heads-together": 1}
    onnx.checker.check_model(made, full_check=True)
    (expected,) = ReferenceEvaluator(case.model).run(None, case.feeds)
    (found,) = run(made, case.feeds)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    return made


@settings(max_examples=40, deadline=None)
@given(
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    lengths=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    mask=st.sampled_from(["", "float", "bool"]),
    axes=st.sampled_from([(1, 1), (2, 1), (1, 0), (2, 0), (0,), ()]),
    causal=st.integers(0, 1),
    softcap=st.sampled_from([0.0, 2.0]),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 99),
)
def test_attention_of_any_shape(
    kv_heads: int,
    group: int,
    sizes: tuple[int, int],
    lengths: tuple[int, int],
    mask: str,
    axes: tuple[int, ...],
    causal: int,
    softcap: float,
    scale: float | None,
    seed: int,
) -> None:
    """Masks of all axes that broadcast: of texts and heads (0 is as many as there are), of heads, of tokens alone."""
    heads, added = kv_heads * group, None
    if mask:
        shape = (*(size or heads for size in axes), *lengths)
        added = normal(seed, *shape) if mask == "float" else np.random.default_rng(seed).random(shape) < 0.6
        if mask == "bool":
            added[..., 0] = True  # of nothing at all there is no mean
    case = moved_attention(
        heads=heads,
        kv_heads=kv_heads,
        size=sizes[0],
        value_size=sizes[1],
        lengths=lengths,
        mask=added,
        is_causal=causal,
        softcap=softcap,
        seed=seed,
        **({} if scale is None else {"scale": scale}),
    )
    made = joined(case)
    assert operators(made) == ["Attention", "Neg"]
    assert {one.name: one.i for one in made.graph.node[0].attribute if "num_heads" in one.name} == {
        "q_num_heads": heads,
        "kv_num_heads": kv_heads,
    }


def test_one_product_is_split_once() -> None:
    made = joined(moved_attention(packed=True, mask=normal(3, 5, 5)))
    assert operators(made) == ["Split", "Attention", "Neg"]


@pytest.mark.parametrize("last", [(-1, 16), (0, 0, 2, 8), (10, 4, 4)])
def test_results_may_be_brought_to_another_shape(last: tuple[int, ...]) -> None:
    assert operators(joined(moved_attention(last=last))) == ["Attention", "Reshape", "Neg"]


def changed(case: Case, **replaced: onnx.NodeProto | list[onnx.NodeProto]) -> onnx.ModelProto:
    """The case with other nodes in place of those that make these values."""
    made, nodes = copy.deepcopy(case.model), list[onnx.NodeProto]()
    for one in made.graph.node:
        new = replaced.get(one.output[0], one)
        nodes += new if isinstance(new, list) else [new]
    set_nodes(made.graph, nodes)
    return made


def apart() -> dict[str, onnx.ModelProto]:
    """Graphs in which heads stay apart, by the reason."""
    case, packed = moved_attention(), moved_attention(packed=True)
    given = copy.deepcopy(case.model)
    given.graph.output.append(onnx.helper.make_tensor_value_info("attended", 1, ["texts", 4, "tokens", 4]))
    unknown = copy.deepcopy(case.model)
    for one in unknown.graph.input:
        for size in one.type.tensor_type.shape.dim:
            size.Clear()
    past = copy.deepcopy(case.model)
    past.graph.input.extend(onnx.helper.make_tensor_value_info(n, 1, ["texts", 4, "past", 4]) for n in ("pk", "pv"))
    heads = ["q_heads", "k_heads", "v_heads"]
    packed.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1]), "minus"))
    return {
        "its result is given": given,
        "shapes are not known": unknown,
        "it has a past": changed(
            Case(past, {}), attended=node("Attention", [*heads, "", "pk", "pv"], ["attended", "ck", "cv"])
        ),
        "it gives its keys": changed(case, attended=node("Attention", heads, ["attended", "keys"])),
        "queries are computed with apart": changed(
            case,
            q_heads=[
                node("Transpose", ["q_view"], ["q_moved"], perm=[0, 2, 1, 3]),
                node("Tanh", ["q_moved"], ["q_heads"]),
            ],
        ),
        "tokens come first": changed(case, q_heads=node("Transpose", ["q_view"], ["q_heads"], perm=[0, 2, 3, 1])),
        "it stays in the order of heads": changed(case, by_token=node("Identity", ["attended"], ["by_token"])),
        "a size is that of heads": moved_attention(last=(-1, 20, 0)).model,
        "parts lie otherwise": changed(packed, turned=node("Transpose", ["view"], ["turned"], perm=[2, 0, 1, 3, 4])),
        "the last part is told from the end": changed(
            packed, v_cut=node("Slice", ["turned", "minus", "v_to", "first"], ["v_cut"])
        ),
    }


@pytest.mark.parametrize("why", apart())
def test_what_stays_apart(why: str) -> None:
    model = apart()[why]
    onnx.checker.check_model(model)
    before = operators(model)
    assert order("heads-together").run(model) == {"heads-together": 0}, why
    assert operators(model) == before


def test_who_asks_how_many_tokens_there_are_asks_the_product() -> None:
    """As a mask does that gets a row for each query; who asks how many heads there are keeps them apart."""
    case = moved_attention(mask=normal(1, 5, 5))
    for start, kept in ((0, False), (1, True), (2, False)):
        made = copy.deepcopy(case.model)
        made.graph.node.insert(2, node("Shape", ["q_heads"], ["size"], start=start, end=start + 1))
        made.graph.output.append(onnx.helper.make_tensor_value_info("size", onnx.TensorProto.INT64, [1]))
        order("heads-together").run(made)
        assert operators(made).count("Transpose") == kept
        y, size = run(made, case.feeds)
        np.testing.assert_array_equal(size, [[2, 4, 5][start]])
        np.testing.assert_array_equal(y, run(case.model, case.feeds)[0])
