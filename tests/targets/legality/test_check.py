"""``edgepress check``: a report of every node, as text and JSON, with exit codes."""

import json
from pathlib import Path

import legality_models as models
import onnx
import pytest

from edgepress.cli import main
from edgepress.exporter import export
from edgepress.exporter.graph.passes import find_pass
from edgepress.targets import find_target
from edgepress.targets.legality.check import check_file

SILERO = Path(__file__).parents[3].parent / "shared/data/models/silero_vad/silero_vad_16k_op15.onnx"


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("check") / "bundle"
    export("demo", out=out)
    return out


def test_a_bundle_is_whole_on_the_cpu(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bundle), "--target", "x86-cpu", "--require", "full"]) == 0
    text = capsys.readouterr().out
    count = len(onnx.load_model(bundle / "model.onnx", load_external_data=False).graph.node)
    assert f"{count} of {count} nodes on CPUExecutionProvider" in text
    assert text.count("\n  CPUExecutionProvider  ") == count


def test_what_is_required_and_does_not_hold_is_exit_code_1(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bundle), "--target", "android-nnapi", "--require", "full"]) == 1
    assert main(["check", str(bundle), "--target", "android-nnapi"]) == 0
    assert "why not NnapiExecutionProvider" in capsys.readouterr().out


def test_json_has_every_node_and_all_that_is_known_of_it(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(bundle), "--target", "ios-coreml", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (report,) = answer["models"]
    graph = onnx.load_model(bundle / "model.onnx", load_external_data=False).graph
    assert sorted(placement["op"] for placement in report["placements"]) == sorted(node.op_type for node in graph.node)
    assert answer["full"] is report["full"] is False
    assert report["checked"] == "table"
    for placement in report["placements"]:
        assert bool(placement["reason"]) == (placement["runs_on"] != report["provider"])
        assert bool(placement["change"]) == bool(placement["reason"])


def test_the_pass_that_helps_is_named_and_exists(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["check", str(bundle), "--target", "android-nnapi", "--json"])
    placements = json.loads(capsys.readouterr().out)["models"][0]["placements"]
    fixed = {placement["op"]: placement["fixed_by"] for placement in placements if placement["fixed_by"]}
    assert fixed["GroupQueryAttention"] == "decompose-attention"
    assert "com.microsoft.GroupQueryAttention" in find_pass("decompose-attention").operators
    assert {find_pass(name).name for name in fixed.values()} == set(fixed.values())


def test_every_graph_of_a_bundle_for_the_target_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(models.chain("Erf"), tmp_path)
    (tmp_path / "android-nnapi").mkdir()
    for name, op in (("decode", "Relu"), ("prefill", "Erf")):
        (tmp_path / "android-nnapi" / f"{name}.onnx").write_bytes(models.chain(op).SerializeToString())
    command = ["check", str(tmp_path), "--target", "android-nnapi", "--require", "full"]
    assert main([*command, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [(Path(report["model"]).stem, report["full"]) for report in answer["models"]] == [
        ("decode", True),
        ("prefill", False),
    ]
    assert main(command) == 1
    assert capsys.readouterr().out.count(" on android-nnapi, table") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "android-nnapii"], "did you mean android-nnapi"),
        (["--target", "x86-cpu", "--soc", "sm8650"], "has no chips"),
        (["--target", "qnn-htp", "--soc", "sm1"], "knows no chip 'sm1'"),
        (["--target", "qnn-htp"], "name it with --soc. Known: sm8350 (Snapdragon 888), sm8450 (Snapdragon 8 Gen 1), "),
    ],
)
def test_wrong_usage_is_exit_code_2(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(saved(models.chain("Relu"), tmp_path)), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_broken_file_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(models.convolution(), tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    assert main(["check", str(path), "--target", "x86-cpu"]) == 2
    assert "truncated" in capsys.readouterr().err


def test_a_node_without_kernel_says_that_no_session_can_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [models.value(name, (2,), onnx.TensorProto.BFLOAT16) for name in "xy"]
    path = saved(models.model([models.node("Relu", ["x"], ["y"])], values[:1], values[1:]), tmp_path)
    assert main(["check", str(path), "--target", "x86-cpu", "--require", "full"]) == 1
    assert "1 on no provider: a session cannot be made" in capsys.readouterr().out


def test_an_opset_that_onnxruntime_does_not_take_is_said_of_every_node(tmp_path: Path) -> None:
    model = models.chain("Relu")
    model.opset_import[0].version = onnx.defs.onnx_opset_version()
    report = check_file(saved(model, tmp_path), find_target("x86-cpu"))
    assert [(placement.runs_on, placement.cause) for placement in report.placements] == [("", "version")]


@pytest.mark.parametrize("block", [24, 512])
def test_a_block_that_the_kernel_refuses_has_no_session(tmp_path: Path, block: int) -> None:
    (found,) = check_file(saved(models.matmul_nbits(4, block), tmp_path), find_target("arm64-cpu")).placements
    assert (found.runs_on, found.cause) == ("", "attribute")
    assert f"blocks of {block}" in found.reason


@pytest.mark.skipif(not SILERO.exists(), reason="shared/data is not here")
def test_a_model_of_others_with_branches_and_lstm() -> None:
    def count(graph: onnx.GraphProto) -> int:
        inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
        return len(graph.node) + sum(map(count, inner))

    total = count(onnx.load_model(SILERO).graph)
    cpu = check_file(SILERO, find_target("arm64-cpu"))
    assert cpu.full
    assert len(cpu.placements) == total
    lstm = [placement for placement in cpu.placements if placement.op == "LSTM"]
    assert len(lstm) == 2
    assert all("/If_1/" in placement.node for placement in lstm)
    nnapi = check_file(SILERO, find_target("android-nnapi"))
    assert len({placement.node for placement in nnapi.placements}) == total
    assert all(placement.reason for placement in nnapi.placements if placement.runs_on != nnapi.provider)
