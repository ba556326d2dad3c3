"""Which channels stay: the loss is that of the best of all choices within the budget, but for one block."""

from itertools import product

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.exporter.methods.narrower.choose import choose, find_groups
from edgepress.exporter.methods.narrower.coupling import find_coupling

WIDTH, INNER, SIDES = 4, 6, (8, 4, 2)


def residual() -> onnx.ModelProto:
    """A residual block at each of three sizes, so that a channel costs 16, 4 and 1 times as much."""
    random = np.random.default_rng(0)
    nodes, constants, x = [], [], "x"
    for block, _ in enumerate(SIDES):
        y = x
        for name, shape in (("a", (INNER, WIDTH, 3, 3)), ("b", (WIDTH, INNER, 3, 3))):
            weight = random.normal(size=shape).astype(np.float32)
            constants.append(numpy_helper.from_array(weight, f"{name}{block}.weight"))
            out = f"{name}{block}"
            nodes.append(helper.make_node("Conv", [y, f"{out}.weight"], [out], name=out, pads=[1, 1, 1, 1]))
            y = out
            if name == "a":
                nodes.append(helper.make_node("Relu", [y], [f"{y}.relu"], name=f"{y}.relu"))
                y = f"{y}.relu"
        nodes.append(helper.make_node("Add", [y, x], [f"sum{block}"], name=f"sum{block}"))
        x = f"pool{block}"
        pooling = {"kernel_shape": [2, 2], "strides": [2, 2]}
        nodes.append(helper.make_node("AveragePool", [f"sum{block}"], [x], name=x, **pooling))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH, side, side])
        for name, side in (("x", SIDES[0]), (x, SIDES[-1] // 2))
    ]
    graph = helper.make_graph(nodes, "residual", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_what_goes_by_its_price_is_the_best_choice_but_for_one_block(share: float, seed: int) -> None:
    coupling = find_coupling(residual())
    groups = find_groups(coupling, ("channels",), "a*", "", "channels")
    scores = [np.random.default_rng((seed, index)).exponential(size=INNER) for index in range(len(groups))]
    how = {"share": share, "of": "multiply_adds", "uniform": False, "multiple": 1, "method": "channels"}
    kept = choose(coupling, groups, scores, priced=True, **how)  # type: ignore[arg-type] # of several types
    found = sum(score[~kept[group.channels]].sum() for group, score in zip(groups, scores, strict=True))
    costs = [2 * 9 * WIDTH * side**2 for side in SIDES]
    whole = INNER * sum(costs)
    least = min(
        sum(np.sort(score)[: INNER - stay].sum() for score, stay in zip(scores, stays, strict=True))
        for stays in product(range(1, INNER + 1), repeat=len(groups))
        if sum(stay * cost for stay, cost in zip(stays, costs, strict=True)) <= share * whole
    )
    assert coupling.multiply_adds(kept) <= share * whole
    assert least - 1e-9 <= found <= least + max(score.max() for score in scores)


def test_without_prices_the_least_scores_go() -> None:
    coupling = find_coupling(residual())
    groups = find_groups(coupling, ("channels",), "a*", "", "channels")
    scores = [np.arange(INNER) + place / 10 for place in range(len(groups))]
    how = {"share": 0.5, "of": "channels", "uniform": False, "multiple": 1, "method": "channels"}
    kept = choose(coupling, groups, scores, priced=False, **how)  # type: ignore[arg-type] # of several types
    assert [kept[group.channels].tolist() for group in groups] == [[False] * 3 + [True] * 3] * 3
