"""What a bundle takes to run, against what its prepared form holds and what the plan knows."""

import json
from pathlib import Path

import onnx
import pytest
from tiny_models import save

from edgepress.cli import main
from edgepress.exporter import decide, export
from edgepress.exporter.decide.memory import estimate_memory, estimates_of, prompt_bytes, weight_bytes
from edgepress.runtime.graph_file.form import MODEL
from edgepress.runtime.graph_file.repack import packed_in
from edgepress.runtime.prepared import prepare
from edgepress.runtime.profile.roofline.kernels import kind_of_kernels

PAGE = 4096


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("llama", tmp_path_factory.mktemp("model") / "checkpoint")


def stored(tensor: onnx.TensorProto) -> int:
    """Bytes that a file has of a constant."""
    external = {entry.key: entry.value for entry in tensor.external_data}
    return int(external["length"]) if external else len(tensor.raw_data)


@pytest.mark.parametrize("recipe", ["int4", "int8", "fp32"])
def test_weights_are_what_a_prepared_form_holds(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Its packed regions, each with its last page whole, and what nodes read as it is in the file, but for tables."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "cache"))
    bundle = tmp_path / "bundle"
    export(checkpoint, out=bundle, recipe=recipe, target="x86-cpu")
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    regions = packed_in(prepare(bundle) / MODEL)
    packed = sum(-(-size // PAGE) * PAGE for _, places in regions.values() for _, size in places)
    products = ("MatMulNBits", "FusedMatMul")
    of_products = {name for node in model.graph.node if node.op_type in products for name in node.input[1:]}
    looked_up = [node.input for node in model.graph.node if "Gather" in node.op_type]
    tables = {name for inputs in looked_up for name in inputs if name != inputs[1]}
    vectors = [one for one in model.graph.initializer if one.name not in of_products | tables]
    if kind_of_kernels() == "as stored":
        pytest.skip("onnxruntime packs no weights of 4 bits on this processor")
    assert packed > 0
    assert weight_bytes(model, kind_of_kernels()) == packed + sum(map(stored, vectors))


def test_states_and_nodes_are_counted(checkpoint: Path) -> None:
    prepared = decide(str(checkpoint), target="x86-cpu", recipe="int4")
    [found] = estimates_of(prepared)
    assert found.kernels == "x86-64"
    assert found.states == prepared.plan.cache_bytes
    assert found.total == found.weights + found.states + found.nodes
    [model] = prepared.make_graphs().values()
    more = onnx.ModelProto()
    more.CopyFrom(model)
    more.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["again"]))
    assert estimate_memory(more, found.states, "x86-64", found.tokens).nodes > found.nodes
    # on ARM, KleidiAI keeps a scale in two bytes and no sum of a block
    assert estimate_memory(model, found.states, "arm64", found.tokens).weights < found.weights


def test_a_plan_tells_kinds_of_processors_apart(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"x86-cpu": "as kernels of x86-64 hold them", "arm64-cpu": "as kernels of arm64 hold them"}
    totals = {}
    for target, said in words.items():
        assert main(["plan", str(checkpoint), "--recipe", "int4", "--target", target]) == 0
        assert said in capsys.readouterr().out
        assert main(["plan", str(checkpoint), "--recipe", "int4", "--target", target, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["estimates"]
        [memory] = found["runtime_memory"]
        assert (
            found["runtime_memory_bytes"] == memory["total"] == sum(memory[x] for x in ("weights", "states", "nodes"))
        )
        totals[target] = memory["weights"]
    assert totals["arm64-cpu"] < totals["x86-cpu"]


def test_a_device_adds_the_process(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = 'value = 1e9\nsource = "made up"\ndate = "2026-01-01"\n'
    board = 'name = "B"\nsoc = "X"\ncores = "1"\nkernels = "arm64-i8mm"\n' + "".join(
        f"[{name}]\n{figure}"
        for name in ("bytes_per_second", "int8_operations_per_second", "float32_operations_per_second")
    )
    for process, said in (("", "MB beside the process itself"), (f"[process_bytes]\n{figure}", "1,000 MB of it the")):
        (tmp_path / "board.toml").write_text(board + process)
        command = ["plan", str(checkpoint), "--recipe", "int8", "--device", str(tmp_path / "board.toml")]
        assert main(command) == 0
        assert said in capsys.readouterr().out
        assert main([*command, "--json"]) == 0
        device = json.loads(capsys.readouterr().out)["device"]
        assert device["memory"]["kernels"] == "arm64-i8mm"
        assert device["process_bytes"] == (1e9 if process else None)


def test_a_prompt_takes_rows_and_activations(checkpoint: Path) -> None:
    """A table of a few pages is read whole by a prompt's first tokens; activations grow with it up to a chunk."""
    sizes = json.loads((checkpoint / "config.json").read_text())
    prepared = decide(str(checkpoint), target="x86-cpu", recipe="int4")
    [model] = prepared.make_graphs().values()
    inputs = next(node.input for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    table = sum(stored(one) for one in model.graph.initializer if one.name in inputs and one.name != inputs[1])
    widest = max(
        3 * sizes["intermediate_size"],  # gate, up, and their product
        sizes["hidden_size"] + sizes["intermediate_size"],
        4 * sizes["hidden_size"],  # a norm's two inputs, what it gives and their sum
    )
    for tokens in (100, 128, 500):
        assert prompt_bytes(model, "x86-64", tokens) == table + 4 * min(tokens, 128) * widest
    # of a large table a token reads 64 KiB and no more
    for one in model.graph.initializer:
        if one.name == inputs[0]:
            one.dims[0] *= 100_000
            large = one.dims[0] * one.dims[1]
    rows = prompt_bytes(model, "x86-64", 1) - prompt_bytes(model, "x86-64", 1 << 40) + 4 * 127 * widest
    assert -rows == pytest.approx(large - (64 << 10), rel=1e-3)
