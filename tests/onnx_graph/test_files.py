"""Any file: a model is read, everything else is one clear InputError."""

import os
from pathlib import Path

import legality_models as models
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from edgepress.errors import InputError
from edgepress.onnx_graph import files
from edgepress.onnx_graph.files import read_model
from edgepress.targets import find_target
from edgepress.targets.legality.check import check_file, find_models

WHOLE = models.convolution().SerializeToString()


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def external(folder: Path, location: str, offset: int = 0, length: int = 432) -> Path:
    """A model whose weights are in an external data file at ``location``."""
    model = models.convolution()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return saved(model, folder)


def test_a_model_is_read_whole(tmp_path: Path) -> None:
    assert read_model(saved(models.convolution(), tmp_path)) == models.convolution()


def test_a_bundle_means_its_model(tmp_path: Path) -> None:
    path = saved(models.convolution(), tmp_path)
    assert find_models(tmp_path, "qnn-htp") == [path]
    assert find_models(path, "qnn-htp") == [path]


def test_a_bundle_with_graphs_for_the_target_means_those(tmp_path: Path) -> None:
    saved(models.convolution(), tmp_path)
    (tmp_path / "qnn-htp" / "sm8650").mkdir(parents=True)
    own = [saved(models.chain("Relu"), tmp_path / "qnn-htp", name) for name in ("decode.onnx", "prefill.onnx")]
    saved(models.chain("Relu"), tmp_path / "qnn-htp" / "sm8650", "decode.onnx")
    assert find_models(tmp_path, "qnn-htp") == own
    assert find_models(tmp_path, "arm64-cpu") == [tmp_path / "model.onnx"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing.onnx", "does not exist"),
        (lambda folder: folder, "has no model.onnx"),
        (lambda _: Path(os.devnull), "no regular file"),
    ],
)
def test_a_path_without_a_model_is_refused(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_models(make(tmp_path), "x86-cpu")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (WHOLE[: len(WHOLE) // 2], "truncated"),
        (b"not a model at all, but text", "no ONNX model"),
        (b"PK\x03\x04 and so on", "zip archive"),
        (b"\x10\x00\x00\x00ORTM" + bytes(64), "ORT format"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no IR version, graph or nodes"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_model(path)


def test_a_real_model_in_ort_format_is_refused(tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(WHOLE, options, providers=["CPUExecutionProvider"])
    with pytest.raises(InputError, match="ORT format"):
        read_model(tmp_path / "model.ort")


def test_a_file_over_protobufs_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(files.PROTOBUF_LIMIT + 1)  # a hole: no byte is written
    with pytest.raises(InputError, match=r"2,147,483,648 bytes, more than protobuf's .* external data"):
        read_model(path)


def test_an_ir_version_of_the_future_is_refused(tmp_path: Path) -> None:
    model = models.convolution()
    model.ir_version = 999
    with pytest.raises(InputError, match="IR version 999"):
        read_model(saved(model, tmp_path))


def test_a_model_without_opset_is_refused(tmp_path: Path) -> None:
    model = models.convolution()
    model.ClearField("opset_import")
    with pytest.raises(InputError, match="names no opset"):
        read_model(saved(model, tmp_path))


def test_external_data_beside_the_model_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(432))
    assert read_model(external(tmp_path, "weights.bin")).graph.initializer[0].raw_data == b""


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("weights.bin", "missing"),
        ("/etc/passwd", "absolute path"),
        ("C:\\weights.bin", "absolute path"),
        ("../outside.bin", "outside the model's folder"),
        ("inside/../../outside.bin", "outside the model's folder"),
        ("", "names no file"),
        ("a\0b", "names no file"),
        ("x" * 5000, "name too long|missing"),
    ],
)
def test_external_data_that_is_not_beside_the_model_is_refused(tmp_path: Path, location: str, message: str) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(432))
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=f"(?i){message}"):
        read_model(external(tmp_path / "model", location))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.bin").write_bytes(bytes(432))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(InputError, match="a link that leads outside"):
        read_model(external(tmp_path / "model", "weights.bin"))


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(InputError, match=r"weights\.bin"):
        read_model(external(tmp_path, "weights.bin"))


@pytest.mark.parametrize(("offset", "length"), [(1, 432), (0, 433), (10**30, 1)])
def test_external_data_that_is_too_short_is_refused(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "weights.bin").write_bytes(bytes(432))
    with pytest.raises(InputError, match="which has 432"):
        read_model(external(tmp_path, "weights.bin", offset, length))


def test_external_data_of_a_subgraph_is_checked_too(tmp_path: Path) -> None:
    inner = models.convolution().graph
    inner.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    inner.initializer[0].external_data.add(key="location", value="../secret")
    del inner.input[:]
    branch = models.node("If", ["go"], ["y"], then_branch=inner, else_branch=inner)
    inputs = [models.value("go", (), onnx.TensorProto.BOOL), models.value("x", (1, 3, 8, 8))]
    with pytest.raises(InputError, match="outside the model's folder"):
        read_model(saved(models.model([branch], inputs, [models.value("y", None)]), tmp_path))


def test_a_cycle_is_named(tmp_path: Path) -> None:
    nodes = [models.node("Add", ["x", "c"], ["a"]), models.node("Relu", ["a"], ["b"]), models.node("Abs", ["b"], ["c"])]
    model = models.model(nodes, [models.value("x", (2,))], [models.value("c", (2,))])
    with pytest.raises(InputError, match=r"a cycle of 3 nodes: .*_node → .*_node → .*_node"):
        read_model(saved(model, tmp_path))


def test_nodes_out_of_order_are_no_cycle(tmp_path: Path) -> None:
    model = models.chain("Relu", "Abs")
    first, second = model.graph.node
    swapped = models.model([second, first], model.graph.input, model.graph.output)
    report = check_file(saved(swapped, tmp_path), find_target("x86-cpu"))
    assert report.full
    onnxruntime.InferenceSession(swapped.SerializeToString(), providers=["CPUExecutionProvider"])  # it sorts them too


def test_a_long_chain_in_reverse_order_is_sorted_at_once(tmp_path: Path) -> None:
    count = 4000
    model = models.chain(*["Relu"] * count)
    nodes = list(reversed(model.graph.node))
    report = check_file(
        saved(models.model(nodes, model.graph.input, model.graph.output), tmp_path), find_target("x86-cpu")
    )
    assert [placement.node for placement in report.placements] == [f"v{index}_node" for index in range(count)]
    assert report.partitions == 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Relu", ["nobody"], ["y"]), "reads 'nobody', which nothing makes"),
        (helper.make_node("Magic", ["x"], ["y"]), "'Magic', which neither ONNX nor onnxruntime defines"),
        (helper.make_node("Relu", ["x"], ["y"], domain="org.unknown"), "unknown domain 'org.unknown'"),
        (
            helper.make_node("Adagrad", ["x"] * 5, ["y"] * 2, domain="ai.onnx.preview.training"),
            "whose opset the model does not name",
        ),
        (helper.make_node("GroupNormalization", ["x", "x", "x"], ["y"]), "new in opset 18"),
    ],
)
def test_a_node_that_no_runtime_could_run_is_refused(tmp_path: Path, node: onnx.NodeProto, message: str) -> None:
    model = models.model([node], [models.value("x", (2,))], [models.value("y", (2,))])
    with pytest.raises(InputError, match=message):
        read_model(saved(model, tmp_path))


def test_a_value_that_two_nodes_make_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])]
    with pytest.raises(InputError, match="'y' is made by two nodes"):
        read_model(saved(models.model(nodes, [models.value("x", (2,))], [models.value("y", (2,))]), tmp_path))


def test_an_output_that_nothing_makes_is_refused(tmp_path: Path) -> None:
    model = models.chain("Relu")
    model.graph.output[0].name = "elsewhere"
    with pytest.raises(InputError, match="output 'elsewhere' is made by nothing"):
        read_model(saved(model, tmp_path))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(WHOLE.replace(b"\x04test", b"\x04te\xf4t"))
    with pytest.raises(InputError, match="no UTF-8 text"):
        check_file(path, find_target("x86-cpu"))


def test_functions_of_the_model_are_inlined(tmp_path: Path) -> None:
    model = models.model([helper.make_node("Twice", ["x"], ["y"], domain="mine")], [models.value("x", (2,))], [])
    model.graph.output.append(models.value("y", (2,)))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, opsets))
    assert [node.op_type for node in read_model(saved(model, tmp_path)).graph.node] == ["Add"]


def branching() -> bytes:
    """A model with subgraphs, quantization, external data and computed shapes: many places for a damaged byte."""
    quantized = models.quantized_convolution()
    inner = models.chain("Relu").graph
    del inner.input[:]
    inner.node[0].input[0] = "y"
    extra = [
        models.node("Shape", ["y"], ["s"]),
        models.node("Reshape", ["y", "s"], ["r"]),
        models.node("If", ["go"], ["z"], then_branch=inner, else_branch=inner),
    ]
    inputs = [*quantized.graph.input, models.value("go", (), onnx.TensorProto.BOOL)]
    model = models.model([*quantized.graph.node, *extra], inputs, [models.value("z", None), models.value("r", None)])
    model.graph.initializer.extend(quantized.graph.initializer)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "weights")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "8"), ("length", "108")):
        weights.external_data.add(key=key, value=value)
    return model.SerializeToString()


BRANCHING = branching()


def test_the_model_that_is_damaged_is_sound(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(BRANCHING)
    (tmp_path / "weights.bin").write_bytes(bytes(116))
    assert check_file(tmp_path / "model.onnx", find_target("x86-cpu")).full
    onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, len(BRANCHING)) | st.just(len(BRANCHING)),
    flips=st.lists(st.tuples(st.integers(0, len(BRANCHING) - 1), st.integers(0, 255)), max_size=6),
    target=st.sampled_from(["x86-cpu", "android-nnapi", "ios-coreml", "vitisai-npu"]),
)
def test_a_damaged_file_is_refused_or_reported(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]], target: str
) -> None:
    data = bytearray(BRANCHING)
    for at, byte in flips:
        data[at] = byte
    path = tmp_path_factory.mktemp("damaged") / "model.onnx"
    (path.parent / "weights.bin").write_bytes(bytes(116))
    path.write_bytes(data[:cut])
    try:
        report = check_file(path, find_target(target))
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert report.placements
    assert not refusal or str(path) in refusal


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", "git-lfs pointer.* 12,345 bytes"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file of llama.cpp, not an ONNX model"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{\"w\": {}}", "a safetensors file, weights without a graph"),
        (b"\x1c\x00\x00\x00TFL3", "a TensorFlow Lite model, not an ONNX model"),
        (b"\x80\x02}q\x00.", "a pickle, not an ONNX model"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [64, files.PROTOBUF_LIMIT + 1])
def test_a_file_of_another_kind_is_named(tmp_path: Path, head: bytes, message: str, size: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(head)
    os.truncate(path, max(size, len(head)))
    with pytest.raises(InputError, match=message):
        read_model(path)


def test_a_data_file_that_git_lfs_left_out_is_named(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 432\n")
    with pytest.raises(InputError, match=r"weights\.bin is a git-lfs pointer"):
        read_model(external(tmp_path, "weights.bin"))
