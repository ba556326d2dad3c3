"""What onnxruntime opens, check says runs; what it does not open, check places nowhere. onnxruntime is the oracle."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgepress.errors import InputError
from edgepress.onnx_graph.files import gather_external_data, read_model
from edgepress.onnx_graph.functions import MOST_NODES
from edgepress.targets import find_target
from edgepress.targets.legality.check import check_file

Opsets = Sequence[tuple[str, int]]
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
X, Y = (helper.make_tensor_value_info(name, FLOAT, ["b", 4]) for name in "xy")
ML = ("ai.onnx.ml", 3)
OURS = ("own.domain", 1)  # of the functions


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] = (X,),
    outputs: Sequence[onnx.ValueInfoProto] = (Y,),
    opsets: Opsets = (("", 17),),
    functions: Sequence[onnx.FunctionProto] = (),
    ir_version: int = 8,
) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs))
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_model(graph, ir_version=ir_version, opset_imports=imports, functions=list(functions))


def opens(path: Path) -> bool:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:
        return False
    return True


def runs(path: Path, target: str = "arm64-cpu") -> bool:
    try:
        return all(placement.runs_on for placement in check_file(path, find_target(target)).placements)
    except InputError:
        return False


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def agree(proto: onnx.ModelProto, folder: Path, expected: bool) -> None:
    path = saved(proto, folder)
    assert opens(path) is expected  # the case is what it says
    assert runs(path) is expected


# ---- domains that a model does not name ------------------------------------------------------------------------------


@pytest.mark.parametrize("ir_version", [3, 8, 13])
@pytest.mark.parametrize(
    ("node", "named"),
    [
        (helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml"), ""),
        (helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"), ""),
        (helper.make_node("Relu", ["x"], ["y"]), "ai.onnx.ml"),
    ],
)
def test_a_domain_that_the_model_does_not_name_runs_where_onnxruntime_knows_it(
    tmp_path: Path, node: onnx.NodeProto, named: str, ir_version: int
) -> None:
    version = 17 if named == "" else 1
    path = saved(model([node], opsets=[(named, version)], ir_version=ir_version), tmp_path)
    assert opens(path)
    assert runs(path)


# ---- nodes that fit no schema ----------------------------------------------------------------------------------------

WHOLE = helper.make_tensor_value_info("i", INT64, ["b", 4])
TABLE_AND_CPU = ["arm64-cpu", "ios-coreml", "android-nnapi"]


@pytest.mark.parametrize("target", TABLE_AND_CPU)
@pytest.mark.parametrize(
    ("node", "opset", "reason"),
    [
        (helper.make_node("Relu", ["x"], ["y"], slope=3), 17, "no attribute 'slope'"),
        (helper.make_node("Relu", ["x", "x"], ["y"]), 17, "has 1 input, not 2"),
        (helper.make_node("Add", ["x"], ["y"]), 17, "2 inputs, not 1"),
        (helper.make_node("Clip", ["x", "", "", ""], ["y"]), 17, "1 to 3 inputs, not 4"),
        (helper.make_node("Relu", ["x"], ["y", "z"]), 17, "has 1 output, not 2"),
        (helper.make_node("Concat", [], ["y"], axis=0), 17, "1 or more inputs, not 0"),
        (helper.make_node("Add", ["x", "i"], ["y"]), 17, "not tensor(float) and tensor(int64)"),
        (helper.make_node("Concat", ["x", "x", "i"], ["y"], axis=0), 17, "not tensor(float) and tensor(int64)"),
        (helper.make_node("Upsample", ["x", "x"], ["y"]), 17, "is deprecated"),
    ],
)
def test_a_node_that_its_schema_refuses_runs_nowhere_on_any_target(
    tmp_path: Path, node: onnx.NodeProto, opset: int, reason: str, target: str
) -> None:
    path = saved(model([node], [X, WHOLE], opsets=[("", opset)]), tmp_path)
    assert not opens(path)
    (placement,) = check_file(path, find_target(target)).placements
    assert not placement.runs_on
    assert reason in placement.reason


@pytest.mark.parametrize("target", TABLE_AND_CPU)
@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Clip", ["x", "", ""], ["y"]),
        helper.make_node("Concat", ["x", "x", "x"], ["y"], axis=0),
        helper.make_node("Where", ["c", "x", "x"], ["y"]),
        helper.make_node("Dropout", ["x"], ["y", "z"]),
    ],
)
def test_a_node_that_its_schema_takes_is_not_refused_for_it(tmp_path: Path, node: onnx.NodeProto, target: str) -> None:
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, ["b", 4])
    path = saved(model([node], [X, condition]), tmp_path)
    assert opens(path)
    (placement,) = check_file(path, find_target(target)).placements
    assert placement.runs_on


# ---- types that are no tensors ---------------------------------------------------------------------------------------


def mapped(key: int, value: int) -> onnx.TypeProto:
    return helper.make_map_type_proto(key, helper.make_tensor_type_proto(value, ()))


def classified(labels: str, key: int) -> onnx.ModelProto:
    values: dict[str, list[int] | list[str]] = {"ints": [0, 1], "strings": ["a", "b"]}
    ids, names = values[labels], {"ints": "classlabels_int64s", "strings": "classlabels_strings"}[labels]
    linear = helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "p"],
        domain=ML[0],
        coefficients=[1.0] * 8,
        intercepts=[0.0, 0.0],
        **{f"classlabels_{labels}": ids},
    )
    zipped = helper.make_node("ZipMap", ["p"], ["z"], domain=ML[0], **{names: ids})
    label = helper.make_tensor_value_info("label", key, ["b"])
    maps = helper.make_value_info("z", helper.make_sequence_type_proto(mapped(key, FLOAT)))
    return model([linear, zipped], outputs=[label, maps], opsets=[("", 17), ML])


@pytest.mark.parametrize(("labels", "key"), [("ints", INT64), ("strings", TensorProto.STRING)])
def test_sklearns_zipmap_runs(tmp_path: Path, labels: str, key: int) -> None:
    agree(classified(labels, key), tmp_path, True)


@pytest.mark.parametrize(("key", "expected"), [(INT64, True), (TensorProto.INT32, False)])
def test_maps_are_held_to_the_kernels_types(tmp_path: Path, key: int, expected: bool) -> None:
    vectorized = helper.make_node("DictVectorizer", ["m"], ["y"], domain=ML[0], int64_vocabulary=[1, 2])
    proto = model([vectorized], [helper.make_value_info("m", mapped(key, FLOAT))], opsets=[("", 17), ML])
    agree(proto, tmp_path, expected)


def test_a_sparse_input_runs(tmp_path: Path) -> None:
    product = helper.make_node("SparseToDenseMatMul", ["s", "x"], ["y"], domain="com.microsoft")
    sparse = helper.make_value_info("s", helper.make_sparse_tensor_type_proto(FLOAT, [4, 4]))
    agree(model([product], [sparse, X], opsets=[("", 17), ("com.microsoft", 1)]), tmp_path, True)


# ---- functions -------------------------------------------------------------------------------------------------------


def function(
    body: Sequence[onnx.NodeProto], opsets: Opsets, name: str = "F", domain: str = OURS[0]
) -> onnx.FunctionProto:
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    return helper.make_function(domain, name, ["a"], ["c"], list(body), imports)


def called(*functions: onnx.FunctionProto, opsets: Opsets = (("", 17), OURS)) -> onnx.ModelProto:
    node = helper.make_node("F", ["x"], ["y"], domain=OURS[0])
    return model([node], opsets=opsets, functions=functions)


@pytest.mark.parametrize("opset", [1, 6, 11, 13, 17, 21, 26, 27, 28])
@pytest.mark.parametrize("op", ["Relu", "Softmax", "Dropout", "Gelu"])
def test_a_function_of_any_opset_runs_where_onnxruntime_runs_it(tmp_path: Path, op: str, opset: int) -> None:
    path = saved(called(function([helper.make_node(op, ["a"], ["c"])], [("", opset)])), tmp_path)
    assert runs(path) is opens(path)


def test_a_function_may_use_domains_that_the_model_does_not_name(tmp_path: Path) -> None:
    body = [helper.make_node("Gelu", ["a"], ["c"], domain="com.microsoft")]
    agree(called(function(body, [("", 13), ("com.microsoft", 1)])), tmp_path, True)


def test_a_function_may_call_another_of_another_opset(tmp_path: Path) -> None:
    inner = function([helper.make_node("Softmax", ["a"], ["c"])], [("", 11)], "G")
    body = [helper.make_node("G", ["a"], ["b"], domain=OURS[0]), helper.make_node("Relu", ["b"], ["c"])]
    agree(called(inner, function(body, [("", 13), OURS])), tmp_path, True)


def test_a_functions_domain_must_be_named(tmp_path: Path) -> None:
    proto = called(function([helper.make_node("Relu", ["a"], ["c"])], [("", 13)]), opsets=[("", 17)])
    agree(proto, tmp_path, False)
    with pytest.raises(InputError, match=r"names no opset for 'own\.domain'"):
        read_model(tmp_path / "model.onnx")


def chain(count: int, calls: int) -> list[onnx.FunctionProto]:
    """Functions F0 … that call the next ``calls`` times each; the last is a Relu."""
    names = ["F", *(f"F{index}" for index in range(1, count))]
    made = []
    for name, following in pairwise(names):
        values = ["a", *(f"v{index}" for index in range(1, calls)), "c"]
        body = [helper.make_node(following, [left], [right], domain=OURS[0]) for left, right in pairwise(values)]
        made.append(function(body, [("", 17), OURS], name))
    return [*made, function([helper.make_node("Relu", ["a"], ["c"])], [("", 17)], names[-1])]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        pytest.param([function([helper.make_node("F", ["a"], ["c"], domain=OURS[0])], [("", 17), OURS])],
                     "calls itself", id="itself"),
        pytest.param([function([helper.make_node("G", ["a"], ["c"], domain=OURS[0])], [("", 17), OURS], "F"),
                      function([helper.make_node("F", ["a"], ["c"], domain=OURS[0])], [("", 17), OURS], "G")],
                     "calls itself", id="each other"),
        pytest.param(chain(40, 2), f"at most {MOST_NODES:,}", id="bomb"),
        pytest.param(chain(30, 100), f"at most {MOST_NODES:,}", id="larger bomb"),
        pytest.param(chain(5000, 1), "more than 100 deep", id="deep"),
    ],
)  # fmt: skip
def test_functions_that_never_end_are_refused_at_once(
    tmp_path: Path, functions: list[onnx.FunctionProto], message: str
) -> None:
    """Written out, the bombs are 2 ** 39 and 10 ** 58 nodes: no machine would come to the end."""
    with pytest.raises(InputError, match=message):
        read_model(saved(called(*functions), tmp_path))


# ---- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 26, 27, 28, 99])
def test_opsets_that_onnxruntime_does_not_read_run_nowhere(tmp_path: Path, opset: int) -> None:
    path = saved(model([helper.make_node("Relu", ["x"], ["y"])], opsets=[("", opset)]), tmp_path)
    for target in ("arm64-cpu", "ios-coreml", "android-nnapi", "android-xnnpack", "openvino-npu"):
        assert runs(path, target) is opens(path), target


@pytest.mark.parametrize("ir_version", [3, 8, 13, onnx.IR_VERSION])
def test_ir_versions_that_onnxruntime_does_not_read_run_nowhere(tmp_path: Path, ir_version: int) -> None:
    path = saved(model([helper.make_node("Relu", ["x"], ["y"])], ir_version=ir_version), tmp_path)
    for target in ("arm64-cpu", "ios-coreml", "android-nnapi", "android-xnnpack", "openvino-npu"):
        assert runs(path, target) is opens(path), target


@pytest.mark.parametrize("domain", ["ai.onnx.ml", "com.microsoft", "ai.onnx.training", "nobody.knows"])
@pytest.mark.parametrize("version", [1, 9])
def test_versions_of_other_domains_are_asked_too(tmp_path: Path, domain: str, version: int) -> None:
    path = saved(model([helper.make_node("Relu", ["x"], ["y"])], opsets=[("", 17), (domain, version)]), tmp_path)
    assert runs(path) is opens(path)


def test_the_newest_opset_that_is_read_is_said(tmp_path: Path) -> None:
    path = saved(model([helper.make_node("Relu", ["x"], ["y"])], opsets=[("", 999)]), tmp_path)
    (placement,) = check_file(path, find_target("ios-coreml")).placements
    newest = int(placement.reason.rsplit(" ", 1)[1])
    assert opens(saved(model([helper.make_node("Relu", ["x"], ["y"])], opsets=[("", newest)]), tmp_path))
    assert not opens(saved(model([helper.make_node("Relu", ["x"], ["y"])], opsets=[("", newest + 1)]), tmp_path))


# ---- large and strange -----------------------------------------------------------------------------------------------


def test_names_that_all_nodes_share_take_no_longer_than_others(tmp_path: Path) -> None:
    """Quadratic once: each node's name was counted up from the first."""
    count = 20_000
    values = ["x", *(f"v{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("Relu", [left], [right], name="same") for left, right in pairwise(values)]
    report = check_file(saved(model(nodes), tmp_path), find_target("arm64-cpu"))
    names = [placement.node for placement in report.placements]
    assert len({*names}) == count
    assert names[:2] == ["same", "same#2"]


def test_a_cycle_of_many_nodes_is_found(tmp_path: Path) -> None:
    count = 20_000
    values = [f"v{index}" for index in range(count)]
    nodes = [helper.make_node("Relu", [left], [right]) for left, right in pairwise([*values, values[0]])]
    nodes.append(helper.make_node("Relu", ["v0"], ["y"]))
    with pytest.raises(InputError, match=f"cycle of {count} nodes"):
        read_model(saved(model(nodes), tmp_path))


@pytest.mark.parametrize(("offset", "length"), [(-5, 64), (-5, 2), (8, -4)])
def test_external_data_at_negative_places_is_refused(tmp_path: Path, offset: int, length: int) -> None:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])])
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", str(offset)), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    proto.graph.initializer.append(weight)
    (tmp_path / "w.bin").write_bytes(bytes(64))
    with pytest.raises(InputError, match="negative offset or length"):
        read_model(saved(proto, tmp_path))


# ---- where the hub's cache and links put files -----------------------------------------------------------------------


def multiplied(folder: Path) -> tuple[Path, Path]:
    """A model with its weight in a data file of its own, both in ``folder``."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])])
    proto.graph.initializer.append(weight)
    path = folder / "model.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save_model(proto, path, save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    return path, folder / "model.onnx_data"


def cached(folder: Path, repository: str = "models--org--tiny") -> Path:
    """The same as huggingface_hub leaves it: two links into blobs."""
    root = folder / repository
    snapshot = root / "snapshots" / "0123abcd" / "onnx"
    snapshot.mkdir(parents=True)
    for number, file in enumerate(multiplied(root / "blobs")):
        blob = file.rename(file.with_name(str(number) * 40))
        (snapshot / file.name).symlink_to(f"../../../blobs/{blob.name}")
    return snapshot / "model.onnx"


def test_a_model_in_the_hubs_cache_runs_as_onnxruntime_runs_it(tmp_path: Path) -> None:
    path = cached(tmp_path)
    assert opens(path)
    assert runs(path)


def test_a_cache_whose_blobs_are_on_another_disk_is_read(tmp_path: Path) -> None:
    path = cached(tmp_path / "cache")
    blobs = tmp_path / "cache" / "models--org--tiny" / "blobs"
    blobs.symlink_to(blobs.rename(tmp_path / "disk"))
    assert runs(path) is opens(path) is True


def test_a_link_to_a_model_needs_its_data_beside_the_link(tmp_path: Path) -> None:
    real, data = multiplied(tmp_path / "real")
    (tmp_path / "link").mkdir()
    link = tmp_path / "link" / "model.onnx"
    link.symlink_to(real)
    assert runs(link) is opens(link) is False
    (tmp_path / "link" / data.name).symlink_to(data)
    assert runs(link) is opens(link) is True


def test_data_of_another_repository_is_refused(tmp_path: Path) -> None:
    path, other = cached(tmp_path), cached(tmp_path, "models--org--other")
    (path.parent / "model.onnx_data").unlink()
    (path.parent / "model.onnx_data").symlink_to(other.parent / "model.onnx_data")
    with pytest.raises(InputError, match="a link that leads outside"):
        read_model(path)


def test_a_copy_finds_the_data_of_the_hubs_cache(tmp_path: Path) -> None:
    """A compiler is asked about a changed copy of the model, in a folder of its own."""
    path = cached(tmp_path)
    proto = read_model(path)
    folder = gather_external_data(path, proto)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x)
