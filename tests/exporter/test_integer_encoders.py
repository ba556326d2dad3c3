"""An encoder's layer in integer products: its graph as a target's kernels want it, and an oracle in float64."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import Maker
from scipy.special import erf, softmax

from edgepress.bundle.manifest import read_manifest
from edgepress.exporter import export
from edgepress.exporter.bundle.written.inspection import inspect
from edgepress.exporter.graph.linears import compute_in_float
from edgepress.exporter.graph.passes import Context, find_pass
from edgepress.exporter.graph.weights import Weights
from edgepress.onnx_graph.files import read_model
from edgepress.sessions import EXACT_PRODUCTS, UNFUSED, open_on_cpu, session_options
from edgepress.targets import find_target
from edgepress.targets.legality.check import check_file

WIDTH, WIDE = 48, 192
TARGETS = ("x86-cpu", "arm64-cpu")
Arrays = dict[str, np.ndarray]


def layer() -> tuple[onnx.ModelProto, Arrays]:
    """One layer that normalizes after each sum, as BERT's, of one head, and its weights."""
    m = Maker(opset=20)
    x = m.edge("x", ["batch", "tokens", WIDTH])

    def linear(name: str, source: str, rows: int, columns: int) -> str:
        product = m.node("MatMul", [source, m.weight(name, columns, rows)], f"{name}.product")
        return m.node("Add", [product, m.weight(f"{name}.bias", rows)], f"{name}.y")

    def norm(name: str, source: str) -> str:
        m.constant(f"{name}.gain", m.random.uniform(0.5, 2, WIDTH).astype(np.float32))
        return m.node("LayerNormalization", [source, f"{name}.gain", m.weight(f"{name}.shift", WIDTH)], name, axis=-1)

    first = norm("first", x)
    q, k, v = (linear(name, first, WIDTH, WIDTH) for name in ("q", "k", "v"))
    scores = m.node("MatMul", [q, m.node("Transpose", [k], "k.t", perm=[0, 2, 1])], "scores")
    mixed = m.node("MatMul", [m.node("Softmax", [scores], "shares", axis=-1), v], "mixed")
    second = norm("second", m.node("Add", [linear("o", mixed, WIDTH, WIDTH), first], "first.sum"))
    wide = m.node("Gelu", [linear("up", second, WIDE, WIDTH)], "wide")
    norm("y", m.node("Add", [linear("down", wide, WIDTH, WIDE), second], "second.sum"))
    m.given("y", ["batch", "tokens", WIDTH])
    return m.model(), m.constants


def to_uint8(x: np.ndarray) -> np.ndarray:
    """ONNX's DynamicQuantizeLinear and back: one range for the whole tensor, 0 among its values."""
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = (high - low) / np.float32(255)
    zero_point = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(x.astype(np.float32) / scale) + zero_point, 0, 255) - zero_point) * np.float64(scale)


def computed(x: np.ndarray, c: Arrays, *, rounded: bool) -> np.ndarray:
    """The layer in float64; ``rounded`` rounds what goes into products, what gelu gives by the token."""

    def rounding(value: np.ndarray, by_token: bool = False) -> np.ndarray:
        size = np.maximum(value.max(-1, keepdims=True), 0.1701) if by_token else 1.0
        return to_uint8(value / size) * size if rounded else value

    def linear(name: str, value: np.ndarray) -> np.ndarray:
        return value @ c[name].astype(np.float64) + c[f"{name}.bias"]

    def norm(name: str, value: np.ndarray) -> np.ndarray:
        centred = value - value.mean(-1, keepdims=True)
        return (
            centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * c[f"{name}.gain"]
            + c[f"{name}.shift"]
        )

    first = norm("first", x.astype(np.float64))
    q, k, v = (linear(name, rounding(first)) for name in ("q", "k", "v"))
    mixed = softmax(q @ k.swapaxes(1, 2), -1) @ v
    second = norm("second", linear("o", rounding(mixed)) + first)
    up = linear("up", rounding(second))
    wide = up * (1 + erf(up / np.sqrt(2))) / 2
    return norm("y", linear("down", rounding(wide, by_token=True)) + second)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Arrays]:
    folder, (model, constants) = tmp_path_factory.mktemp("encoders"), layer()
    onnx.save(model, folder / "layer.onnx")
    for target in TARGETS:
        export(folder / "layer.onnx", out=folder / target, recipe="int8-dynamic", target=target, check=True, threads=1)
    return folder, constants


def stored(bundle: Path, constants: Arrays) -> Arrays:
    """The constants as the bundle has them, by the layout that the manifest says: (columns, rows) and a scale a row."""
    data, found = (bundle / "model.onnx.data").read_bytes(), dict(constants)

    def region(tensor: dict[str, object], name: str, kind: str) -> np.ndarray:
        offset, size = tensor["regions"][name]  # type: ignore[index]
        return np.frombuffer(data[offset : offset + size], kind)

    for tensor in read_manifest(bundle).tensors:
        if str(tensor["form"]).startswith("dynamic"):
            rows, columns = tensor["shape"]  # type: ignore[misc]
            is_signed = tensor["form"] == "dynamic pairs"
            codes = region(tensor, "values", "i1" if is_signed else "u1").reshape(columns, rows).astype(np.float64)
            found[str(tensor["name"])] = (codes - 128 * (not is_signed)) * region(tensor, "scales", "<f4")
    return found


def feed() -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((2, 9, WIDTH)).astype(np.float32)
    x[0, 3] *= 40
    return x


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("target", TARGETS)
def test_products_are_those_of_an_oracle_with_the_stored_weights(target: str, made: tuple[Path, Arrays]) -> None:
    bundle, x = made[0] / target, feed()
    (found,) = open_on_cpu(bundle / "model.onnx").run(None, {"x": x})
    weights = stored(bundle, made[1])
    rounded = computed(x, weights, rounded=True)
    assert difference(found, rounded) < 5e-3  # a value between two codes may take either
    assert np.abs(found - rounded).mean() < 0.1 * np.abs(computed(x, weights, rounded=False) - rounded).mean()
    assert difference(found, computed(x, made[1], rounded=False)) < 0.1


def test_a_target_gets_the_forms_that_are_faster_there(made: tuple[Path, Arrays]) -> None:
    shared, plain = (inspect(made[0] / target)["operators"] for target in TARGETS)
    assert shared["com.microsoft.MatMulIntegerToFloat"] == 3  # type: ignore[index] # of q, k and v
    assert shared["DynamicQuantizeLinear"] == 1  # type: ignore[index]
    assert shared["com.microsoft.DynamicQuantizeMatMul"] == 3  # type: ignore[index]
    assert shared["Sum"] == 2  # type: ignore[index]
    assert plain["com.microsoft.DynamicQuantizeMatMul"] == 6  # type: ignore[index]
    assert plain["Add"] == 2 + 1  # type: ignore[index] # of norms; behind the one product whose tokens are scaled
    forms = {target: {t["form"] for t in read_manifest(made[0] / target).tensors} for target in TARGETS}
    assert forms == {target: {"float", "dynamic pairs"} for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_no_session_saturates_and_the_option_for_exact_products_changes_no_bit(
    target: str, made: tuple[Path, Arrays]
) -> None:
    file = made[0] / target / "model.onnx"
    assert check_file(file, find_target("x86-cpu")).products == ()
    options = session_options(1)
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    both = [open_on_cpu(file, one).run(None, {"x": feed()})[0] for one in (session_options(1), options)]
    assert np.array_equal(*both)


@pytest.mark.parametrize("how", ["in float", "drop-rounding"])
def test_without_rounding_the_graph_is_that_of_its_weights(how: str, made: tuple[Path, Arrays], tmp_path: Path) -> None:
    bundle = made[0] / "x86-cpu"
    model, weights = read_model(bundle / "model.onnx"), Weights(bundle / "model.onnx")
    if how == "in float":
        compute_in_float(model, 1)
    else:
        assert find_pass(how).apply(model, Context(weights=weights)) > 0
    kinds = {node.op_type for node in model.graph.node}
    assert kinds.isdisjoint({"DynamicQuantizeMatMul", "MatMulIntegerToFloat"})
    weights.write([model], tmp_path / "m.onnx.data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    options = session_options(1)
    options.add_session_config_entry(UNFUSED, "1")  # else onnxruntime rounds what goes into products of stored codes
    (found,) = open_on_cpu(tmp_path / "m.onnx", options).run(None, {"x": feed()})
    assert difference(found, computed(feed(), stored(bundle, made[1]), rounded=False)) < 1e-5
