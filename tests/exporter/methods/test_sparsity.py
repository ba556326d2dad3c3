"""Sparse methods against Optimal Brain Surgeon with explicit inverses, exhaustive search and least squares in numpy."""

from collections.abc import Callable
from itertools import combinations
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter.arrays.codes import Codes
from edgepress.exporter.arrays.moments import Moments
from edgepress.exporter.arrays.scheme import BITS, BLOCK_SIZES, Scheme
from edgepress.exporter.methods import nearest_plane as columns
from edgepress.exporter.methods.kinds import LinearMethod, load_method, method_names
from edgepress.exporter.methods.nearest_plane import cholesky_factor, nearest_plane, visiting_order
from edgepress.exporter.methods.options import read_options
from edgepress.exporter.methods.round.gptq import METHOD as GPTQ
from edgepress.exporter.methods.round.sparsegpt import keep_salient
from edgepress.exporter.methods.round.wanda import input_norms
from edgepress.exporter.methods.sparsity import Sparsity, read_sparsity

SPARSE = [
    name
    for name in method_names()
    if isinstance(method := load_method(name), LinearMethod) and "sparsity" in method.options
]
PATTERNS = {"2:4": (2, 4), "1:4": (1, 4), "4:8": (4, 8), "3:16": (3, 16), "1:2": (1, 2)}


def moments_of(inputs: np.ndarray) -> Moments:
    moments = Moments(inputs.shape[1])
    moments.add(torch.from_numpy(inputs.astype(np.float32)))
    return moments


def correlated(seed: int, columns: int, tokens: int = 400) -> np.ndarray:
    """Inputs (tokens, columns) whose columns differ in size and are mixed with each other."""
    draw = np.random.default_rng(seed)
    mix = np.eye(columns) + draw.standard_normal((columns, columns)) / np.sqrt(columns)
    return draw.standard_normal((tokens, columns)) @ mix * np.exp(draw.standard_normal(columns))


def normal(seed: int, rows: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))


def asked(name: str, **changed: object) -> dict[str, object]:
    return {**load_method(name).options, **changed}


def loss(weight: torch.Tensor, codes: Codes, inputs: np.ndarray) -> float:
    return float(np.square((weight - codes.dequantize()).double().numpy() @ inputs.T).mean())


Choose = Callable[[np.ndarray, int], np.ndarray]


def surgeon(
    w: np.ndarray, hessian: np.ndarray, scale: float, top: int, *, size: int, choose: Choose
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and mask of all rows (rows, columns), the last column first, with an explicit inverse at each (OBS).

    ``choose(prices, start)`` says which weights of ``size`` columns from ``start`` on stay, (rows, size); the prices
    are w² / [H⁻¹]_cc, H that of the columns up to c.
    """
    w = w.astype(np.float64).copy()
    rows, columns = w.shape
    steps, mask = np.zeros((rows, columns)), np.ones((rows, columns), bool)
    for start in range(0, columns, size)[::-1]:
        stop = min(start + size, columns)
        inverses = [np.linalg.inv(hessian[: c + 1, : c + 1])[c, c] for c in range(start, stop)]
        mask[:, start:stop] = choose(w[:, start:stop] ** 2 / np.array(inverses), start)
        for c in reversed(range(start, stop)):
            inverse = np.linalg.inv(hessian[: c + 1, : c + 1])
            nearest = np.clip(np.round(w[:, c] / scale), -(top + 1) // 2, top // 2)
            steps[:, c] = np.where(mask[:, c], nearest, 0)
            w[:, : c + 1] -= (w[:, c] - steps[:, c] * scale)[:, None] / inverse[c, c] * inverse[None, :, c]
    return steps, mask


def plain_keeps(scores: np.ndarray, sparsity: Sparsity) -> np.ndarray:
    """What stays of each set, by sorting; (sets, candidates)."""
    kept = np.zeros(scores.shape, bool)
    for row, of_row in zip(kept, scores, strict=True):
        size = len(of_row) if sparsity.group == 1 else sparsity.group
        for start in range(0, len(of_row), size):
            piece = of_row[start : start + size]
            count = len(piece) - int(sparsity.share * len(piece) + 1e-9) if sparsity.group == 1 else sparsity.kept
            row[start + np.argsort(-piece, kind="stable")[:count]] = True
    return kept


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 16),
    rows=st.integers(1, 4),
    bits=st.sampled_from([2, 4, 8]),
    block=st.sampled_from([16, 64]),
    choice=st.sampled_from([4, 8, 16]),
    sparsity=st.sampled_from([Sparsity(0.0), Sparsity(0.5), Sparsity(0.5, 2, 4), Sparsity(0.75, 1, 4)]),
)
def test_sparsegpt_gives_the_mask_and_codes_of_optimal_brain_surgeon(
    seed: int, n: int, rows: int, bits: int, block: int, choice: int, sparsity: Sparsity
) -> None:
    inputs, w = correlated(seed, n, 40), normal(seed + 1, rows, n).double()
    top, scale = (1 << bits) - 1, float(1.5 * w.abs().max()) / (1 << (bits - 1))
    hessian = inputs.T @ inputs
    damped = hessian + 0.01 * hessian.diagonal().mean() * np.eye(n)
    alone = np.random.default_rng(seed).random((n, rows)) >= sparsity.share  # only its number in each block counts

    def choose(prices: np.ndarray, start: int) -> np.ndarray:
        if sparsity.group > 1:
            return plain_keeps(prices, sparsity)
        by_column = prices.T.ravel()
        stays = np.zeros(by_column.shape, bool)
        stays[np.argsort(-by_column, kind="stable")[: alone[start : start + choice].sum()]] = True
        return stays.reshape(prices.T.shape).T

    expected, mask = surgeon(w.numpy(), damped, scale, top, size=choice, choose=choose)
    factor, chosen = cholesky_factor(torch.from_numpy(hessian), 0.01), torch.zeros(n, rows, dtype=torch.bool)
    by_price = keep_salient(sparsity, torch.from_numpy(alone))

    def keep(at: slice, *arrays: torch.Tensor) -> torch.Tensor:
        chosen[at] = by_price(at, *arrays)
        return chosen[at]

    middle = torch.full((n, rows), float(1 << (bits - 1)), dtype=torch.float64)
    with mock.patch.object(columns, "_BLOCK", block), mock.patch.object(columns, "_CHOICE", choice):
        codes = nearest_plane(w.T.contiguous(), factor, torch.full_like(middle, scale), middle, top=top, keep=keep)
    np.testing.assert_array_equal(chosen.numpy().T, mask)
    np.testing.assert_array_equal(codes.numpy().T.astype(float) - (1 << (bits - 1)), expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), kept=st.integers(1, 10), gone=st.integers(1, 10))
def test_what_stays_is_the_least_squares_solution_on_the_mask(seed: int, kept: int, gone: int) -> None:
    """Zeros first: then all that stays can make up for them, and what comes out is the best that the mask allows.

    The weights are made so that this solution has codes.
    """
    draw = np.random.default_rng(seed)
    inputs = correlated(seed, kept + gone, 60)
    steps, scale = draw.integers(-100, 100, kept), 0.01
    pruned = draw.standard_normal(gone)
    shift = np.linalg.lstsq(inputs[:, :kept], inputs[:, kept:] @ pruned, rcond=None)[0]
    w = np.concatenate([steps * scale - shift, pruned])
    best = np.linalg.lstsq(inputs[:, :kept], inputs @ w, rcond=None)[0]
    np.testing.assert_allclose(best, steps * scale, atol=1e-8)
    factor = cholesky_factor(torch.from_numpy(inputs.T @ inputs), 0.0)
    mask = (torch.arange(kept + gone) < kept)[:, None]
    middle = torch.full((kept + gone, 1), 128.0, dtype=torch.float64)
    codes = nearest_plane(
        torch.from_numpy(w)[:, None],
        factor,
        torch.full_like(middle, scale),
        middle,
        top=255,
        keep=lambda block, *_: mask[block],
    )
    np.testing.assert_array_equal(codes[:, 0].numpy().astype(int) - 128, [*steps, *[0] * gone])


def best_loss(w: np.ndarray, hessian: np.ndarray, count: int) -> float:
    """Least ‖(w − ŵ) X‖² over all masks that keep ``count`` weights, each with its least-squares solution."""
    least = np.inf
    for gone in combinations(range(len(w)), len(w) - count):
        # what is gone costs w_Pᵀ ([H⁻¹]_PP)⁻¹ w_P (Hassibi & Stork 1993, for several weights at once)
        inverse = np.linalg.inv(hessian)[np.ix_(gone, gone)]
        least = min(least, float(w[list(gone)] @ np.linalg.solve(inverse, w[list(gone)])))
    return least


@pytest.mark.parametrize(("n", "share"), [(8, 0.25), (10, 0.5), (12, 0.5)])
def test_one_row_is_near_the_best_of_all_masks(n: int, share: float) -> None:
    ratios: dict[str, list[float]] = {}
    for seed in range(24):
        draw = np.random.default_rng(seed)
        inputs = draw.standard_normal((60, n)) @ (np.eye(n) + 0.3 * draw.standard_normal((n, n)) / np.sqrt(n))
        w, moments = normal(seed + 100, 1, n), moments_of(inputs)
        best = best_loss(w[0].double().numpy(), inputs.T @ inputs, n - int(share * n))
        for name, more in (("sparsegpt", {}), ("magnitude", {"then": "rtn"})):
            options = asked(name, sparsity=share, damping=1e-6, **more)
            codes = load_method(name).quantize(w, Scheme(name, 8, 16), moments, options)
            ratios.setdefault(name, []).append(loss(w, codes, inputs) * len(inputs) / best)
    assert min(ratios["sparsegpt"]) >= 1 - 1e-3, "no mask is better than the best"
    assert np.median(ratios["sparsegpt"]) <= 1.3
    assert np.median(ratios["sparsegpt"]) < np.median(ratios["magnitude"])


schemes = st.builds(
    Scheme,
    st.just("sparse"),
    st.sampled_from(BITS),
    st.sampled_from(BLOCK_SIZES),
    symmetric=st.booleans(),
    per_channel=st.booleans(),
)


@pytest.mark.parametrize("name", SPARSE)
@settings(max_examples=30, deadline=None)
@given(
    scheme=schemes,
    rows=st.integers(1, 6),
    columns=st.integers(1, 200),
    pattern=st.sampled_from(["unstructured", *PATTERNS]),
    share=st.floats(0, 0.99),
    act_order=st.booleans(),
    then=st.sampled_from(["gptq", "rtn"]),
    seed=st.integers(0, 2**16),
)
def test_as_many_codes_mean_0_as_asked_and_every_group_keeps_its_pattern(
    name: str,
    scheme: Scheme,
    rows: int,
    columns: int,
    pattern: str,
    share: float,
    act_order: bool,
    then: str,
    seed: int,
) -> None:
    kept, group = PATTERNS.get(pattern, (1, 1))
    share = share if group == 1 else 1 - kept / group
    options = asked(name, sparsity=share, pattern=pattern, act_order=act_order)
    options |= {"then": then} if "then" in options else {}
    w = normal(seed, rows, columns)
    codes = load_method(name).quantize(w, scheme, moments_of(correlated(seed, columns, 40)), options)
    assert codes.codes.shape == (rows, columns)
    restored = codes.dequantize()
    assert bool(torch.isfinite(restored).all())
    zero = codes.codes == codes.zero_points.repeat_interleave(scheme.block_size, dim=1)[:, :columns]
    assert bool((restored[zero] == 0).all())
    if group == 1:
        by_row = rows * int(share * columns + 1e-9)
        assert int(zero.sum()) >= (int(share * rows * columns + 1e-9) if name == "magnitude" else by_row)
    for start in range(0, columns, group) if group > 1 else ():
        stays = ~zero[:, start : start + group]
        assert int(stays.sum(1).max()) <= kept


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_without_zeros_it_is_gptq_bit_for_bit(name: str, act_order: bool, symmetric: bool) -> None:
    w, moments = normal(0, 24, 150), moments_of(correlated(1, 150))
    scheme = Scheme(name, 4, 32, symmetric)
    found = load_method(name).quantize(w, scheme, moments, asked(name, sparsity=0.0, act_order=act_order))
    expected = GPTQ.quantize(w, scheme, moments, {"damping": 0.01, "act_order": act_order})
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)
    assert torch.equal(found.zero_points, expected.zero_points)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 70)),
    share=st.floats(0, 0.999),
    pattern=st.sampled_from([(1, 1), *PATTERNS.values()]),
    ties=st.booleans(),
)
def test_the_largest_are_those_that_sorting_finds(
    seed: int, shape: tuple[int, int], share: float, pattern: tuple[int, int], ties: bool
) -> None:
    scores = np.abs(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)
    scores = np.round(scores) if ties else scores
    sparsity = Sparsity(share if pattern[1] == 1 else 1 - pattern[0] / pattern[1], *pattern)
    found = sparsity.keeps(torch.from_numpy(scores)).numpy()
    np.testing.assert_array_equal(found, plain_keeps(scores, sparsity))


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_wanda_keeps_what_its_equation_keeps_and_rounds_it_as_rtn_does(pattern: str) -> None:
    inputs, w = correlated(3, 90), normal(4, 7, 90)
    scheme = Scheme("wanda", 8, 32)
    codes = load_method("wanda").quantize(w, scheme, moments_of(inputs), asked("wanda", pattern=pattern, then="rtn"))
    scores = np.abs(w.numpy()) * np.sqrt(np.square(inputs.astype(np.float32)).sum(axis=0))
    kept = plain_keeps(scores, Sparsity(0.5) if pattern == "unstructured" else Sparsity(0.5, 2, 4))
    error = np.abs(codes.dequantize().numpy() - np.where(kept, w.numpy(), 0))
    steps = codes.scales.abs().repeat_interleave(32, dim=1)[:, :90].numpy()
    assert (error <= 1.01 * steps).all()
    assert (codes.dequantize().numpy()[~kept] == 0).all()


def test_magnitude_compares_all_weights_of_a_projection() -> None:
    w = torch.cat([normal(0, 4, 64), 10 * normal(1, 4, 64)])
    options = asked("magnitude", then="rtn")
    codes = load_method("magnitude").quantize(w, Scheme("m", 8, 32), moments_of(correlated(0, 64)), options)
    threshold = np.sort(np.abs(w.numpy()).ravel())[w.numel() // 2]
    assert bool((codes.dequantize()[w.abs() < float(threshold)] == 0).all())
    assert float((codes.dequantize()[:4] == 0).float().mean()) > 0.8


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_more_a_method_looks_at_the_nearer_is_the_output(pattern: str, bits: int) -> None:
    errors: dict[str, list[float]] = {}
    for seed in range(6):
        inputs, w = correlated(seed, 96), normal(seed + 50, 32, 96)
        ways = {"sparsegpt": {}, "wanda": {"then": "rtn"}, "magnitude": {"then": "rtn"}, "wanda then gptq": {}}
        for way, more in ways.items():
            name = way.partition(" ")[0]
            options = asked(name, pattern=pattern, **more)
            codes = load_method(name).quantize(w, Scheme(name, bits, 32), moments_of(inputs), options)
            errors.setdefault(way, []).append(loss(w, codes, inputs))
    mean = {name: float(np.mean(found)) for name, found in errors.items()}
    assert mean["sparsegpt"] < 0.9 * mean["wanda"]
    assert mean["wanda"] < 0.9 * mean["magnitude"]
    assert mean["sparsegpt"] <= 1.02 * mean["wanda then gptq"] < mean["wanda"]


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_few_columns_at_a_time_are_better_chosen_from_than_many(pattern: str) -> None:
    errors = {}
    for choice in (16, 64):
        found = []
        for seed in range(4):
            inputs, w = correlated(seed, 192), normal(seed + 50, 32, 192)
            with mock.patch.object(columns, "_CHOICE", choice):
                options = asked("sparsegpt", pattern=pattern)
                codes = load_method("sparsegpt").quantize(w, Scheme("s", 4, 32), moments_of(inputs), options)
            found.append(loss(w, codes, inputs) / float(np.square(w.numpy() @ inputs.T).mean()))
        errors[choice] = float(np.mean(found))
    assert errors[16] < errors[64]


def test_the_same_share_of_all_columns_costs_more_when_the_first_ones_matter_most() -> None:
    """SparseGPT's own share for each block, in the order of GPTQ: why ours asks each weight's price first."""
    ours, shared, wanda = 0.0, 0.0, 0.0
    for seed in range(4):
        inputs, w = correlated(seed, 192), normal(seed + 50, 32, 192)
        moments, scheme = moments_of(inputs), Scheme("s", 4, 32)
        power = float(np.square(w.numpy() @ inputs.T).mean())
        ours += loss(w, load_method("sparsegpt").quantize(w, scheme, moments, asked("sparsegpt")), inputs) / power
        wanda += loss(w, load_method("wanda").quantize(w, scheme, moments, asked("wanda", then="rtn")), inputs) / power
        order = visiting_order(moments.mean_square, act_order=True)
        factor = cholesky_factor(columns.in_order(moments.second, order), 0.01)
        half = (torch.arange(192 * 32).reshape(192, 32) % 2).bool()  # half of each block's weights, whatever they are
        start = columns.start_codes(w, scheme, moments)
        codes = columns.compensate(w, start, factor, order, keep_salient(Sparsity(0.5), half))
        shared += loss(w, codes, inputs) / power
    assert ours < wanda < shared


def test_groups_stay_together_in_the_order_of_visit() -> None:
    importance = torch.tensor([1.0, 1, 9, 9, 0, 0, 5, 5, 7])
    assert visiting_order(importance, act_order=True, group=4).tolist() == [4, 5, 6, 7, 0, 1, 2, 3, 8]
    assert visiting_order(importance, act_order=False, group=4).tolist() == [4, 5, 6, 7, 0, 1, 2, 3, 8]
    assert visiting_order(importance, act_order=True).tolist() == [4, 5, 0, 1, 6, 7, 8, 2, 3]
    assert visiting_order(importance, act_order=False).tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("name", ["wanda", "sparsegpt"])
def test_columns_that_are_never_used_become_0_first(name: str) -> None:
    inputs = correlated(0, 32)
    inputs[:, [3, 7, 20]] = 0
    w = normal(0, 3, 32)
    codes = load_method(name).quantize(
        w, Scheme(name, 4, 32), moments_of(inputs), asked(name, sparsity=0.2, damping=1e-6)
    )
    assert bool((codes.dequantize()[:, [3, 7, 20]] == 0).all())
    assert float((codes.dequantize() == 0).float().mean()) < 0.5


@pytest.mark.parametrize("name", SPARSE)
def test_what_cannot_be_computed_is_one_clear_error(name: str) -> None:
    quantize, scheme, w = load_method(name).quantize, Scheme(name, 4, 32), normal(0, 3, 32)
    nothing = moments_of(np.zeros((10, 32)))
    with pytest.raises(InputError, match=r"Hessian of 32 inputs is singular|all 32 inputs are 0"):
        quantize(w, scheme, nothing, asked(name))
    flat = moments_of(np.ones((10, 32)))
    with pytest.raises(InputError, match="with damping 0; raise"):
        quantize(w, scheme, flat, asked(name, damping=0.0))
    w[1, 1] = float("nan")
    with pytest.raises(InputError, match="NaN or infinite weights"):
        quantize(w, scheme, moments_of(correlated(0, 32)), asked(name))


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be at least 0 and less than 1, not 1.0"),
        ({"sparsity": -0.1}, "sparsity must be at least 0"),
        ({"sparsity": float("nan")}, "sparsity must be a finite number, not nan"),
        ({"pattern": "2:5"}, "pattern is '2:5'; it must be \"unstructured\", or n:m"),
        ({"pattern": "4:4"}, "pattern is '4:4'"),
        ({"pattern": "0:4"}, "pattern is '0:4'"),
        ({"pattern": "structured"}, "pattern is 'structured'"),
        ({"pattern": "1:4"}, "pattern 1:4 keeps 1 of 4 weights, and sparsity is 0.5; set sparsity = 0.75"),
    ],
)
def test_what_leaves_nothing_or_says_two_things_is_refused(name: str, changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"options.{name}\\] {message}"):
        load_method(name).zeros(read_options(name, load_method(name).declared, changed))


def test_what_it_asks_for_is_said_in_words() -> None:
    assert str(read_sparsity("wanda", {"sparsity": 0.25, "pattern": "unstructured"})) == "25% zeros"
    assert str(read_sparsity("wanda", {"sparsity": 0.5, "pattern": "2:4"})) == "2:4 zeros"
    assert not str(read_sparsity("wanda", {"sparsity": 0, "pattern": "unstructured"}))


@pytest.mark.parametrize("name", ["wanda", "magnitude"])
def test_zeros_are_kept_by_a_method_that_can(name: str) -> None:
    """Asked when the plan is made, before a weight is read."""
    with pytest.raises(InputError, match=f"options.{name}\\] then = 'sparsegpt': it must be \"gptq\", or a"):
        load_method(name).zeros(asked(name, then="sparsegpt"))


def test_the_norms_are_those_of_the_columns() -> None:
    inputs = correlated(1, 8, 50)
    expected = np.linalg.norm(inputs.astype(np.float32), axis=0) / np.sqrt(50)
    np.testing.assert_allclose(input_norms(moments_of(inputs)), expected, rtol=1e-4)
