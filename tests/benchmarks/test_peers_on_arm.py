"""What peers are counted by on emulated ARM, without an emulated machine: what is asked, added up and taken off."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from tiny_models import save

from edgepress.exporter.model.reading import resolve_model
from edgepress.exporter.source.checkpoint import Checkpoint

pytestmark = pytest.mark.usefixtures("import_script")


@pytest.fixture(name="llama_cpp_arm")
def _llama_cpp_arm() -> ModuleType:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is absent: pip install 'edgepress[bench]'")
    from peers import llama_cpp_arm

    return llama_cpp_arm


def test_a_node_computed_apart_is_told_without_what_that_takes(llama_cpp_arm: ModuleType) -> None:
    def kind(op: str, nodes: int, instructions: int, weights: str = "", head: bool = False) -> dict[str, object]:
        return {"op": op, "type": weights, "head": head, "nodes": nodes, "instructions": instructions}

    nodes = [
        kind("VIEW", 3, 240),
        kind("RESHAPE", 1, 160),  # 400 of 4 nodes that compute nothing: 100 each
        kind("MUL_MAT", 2, 1200, "q4_0"),
        kind("MUL_MAT", 1, 900, "q6_K", True),
        kind("ADD", 5, 490),  # less than its share: nothing, not less than nothing
    ]
    found = llama_cpp_arm.operators(nodes)
    assert found == {"MUL_MAT q4_0": 1000, "MUL_MAT q6_K (head)": 800, "ADD": 0}


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_a_gguf_are_of_what_a_token_reads(llama_cpp_arm: ModuleType, tmp_path: Path, tied: bool) -> None:
    """A tied embedding is the head; an untied one is looked up in. Keys and values are counted in float16."""
    from peers import llama_cpp

    checkpoint = Checkpoint.open(save("qwen2" if tied else "llama", tmp_path / "checkpoint"))
    config, shapes = checkpoint.config, {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    assert config["tie_word_embeddings"] is tied
    weights, row = llama_cpp_arm.bytes_of(llama_cpp.write_gguf(checkpoint, tmp_path / "f32.gguf"))
    numbers = 0
    for name, shape in shapes.items():
        if tied or name != "model.embed_tokens.weight":
            numbers += shape[0] * (shape[1] if len(shape) > 1 else 1)
    assert weights == 4 * numbers
    keys = shapes["model.layers.0.self_attn.k_proj.weight"][0]
    assert row == config["num_hidden_layers"] * 2 * keys * 2


def test_each_processor_runs_builds_that_there_are(llama_cpp_arm: ModuleType) -> None:
    """``FORMS`` is every file with every build; one without int8 matrix products gets none that has them."""
    builds = set(llama_cpp_arm.ARCHITECTURES)
    assert {form.split()[1] for form in llama_cpp_arm.FORMS} == builds
    for cpu, names in llama_cpp_arm.RUNS_ON.items():
        assert set(names) <= builds
        assert cpu != "cortex-a76" or all("i8mm" not in llama_cpp_arm.ARCHITECTURES[name] for name in names)


def test_a_source_that_is_another_is_refused(
    llama_cpp_arm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgepress.errors import InputError

    def download(command: list[str]) -> str:
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(parents=True)
        (folder / "llama_cpp_python.tar.gz").write_bytes(b"another")
        return ""

    monkeypatch.setattr(llama_cpp_arm, "_FOLDER", tmp_path)
    monkeypatch.setattr(llama_cpp_arm, "_run", download)
    with pytest.raises(InputError, match=llama_cpp_arm.SHA256):
        llama_cpp_arm.source()
    assert not (tmp_path / "source").exists()


def test_calls_fit_the_model(import_script: Callable[[str], ModuleType]) -> None:
    import_script("arm_instructions")
    from peers.counted import asked

    how = asked(Checkpoint.open(resolve_model("demo")))  # 512 tokens
    assert how["pairs"] == [(64, 1), (64, 128)]
    assert len(how["tokens"]) == 192
    assert max(how["tokens"]) < Checkpoint.open(resolve_model("demo")).config["vocab_size"]


def test_onnxruntime_genai_is_told_by_operator(tmp_path: Path) -> None:
    """Counted on this machine, in nanoseconds: every run of the model belongs to a call, and its nodes are told."""
    pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is absent: pip install 'edgepress[genai]'")
    from peers import genai_builder
    from peers.in_machine import ROUNDS, run_genai

    path = genai_builder.build(Checkpoint.open(resolve_model("demo")), tmp_path / "bundle", "rtn")
    calls = [(3, 1), (70, 1), (70, 5)]  # from 3 to 70 in two pieces
    told, arrays = run_genai({"bundle": str(path.parent), "pairs": calls, "tokens": list(range(3, 103))}, {})
    assert not arrays
    assert told["load"] > 0
    assert [(call["context"], call["tokens"]) for call in told["calls"]] == calls
    products = {node.op_type for node in onnx.load(path, load_external_data=False).graph.node} & {"MatMulNBits"}
    for call in told["calls"]:
        assert len(call["instructions"]) == ROUNDS["decode" if call["tokens"] == 1 else "prefill"]
        assert products <= set(call["operators"])


def _counted(tool: str, form: str, layers: int, instructions: int, operators: dict[str, int]) -> dict[str, object]:
    """A decoded token after 1,024, of a model of 10 layers."""
    whole = {"model": "qwen2.5-0.5b", "of_layers": 10, "cpu": "cortex-a76", "tokens": 1, "context": 1024}
    figures = {"instructions": instructions, "weight_bytes_loaded": 10 * layers, "state_bytes_loaded": 0}
    return {**whole, "tool": tool, "form": form, "layers": layers, "operators": operators, **figures}


def test_peers_stand_beside_us_and_by_class(import_script: Callable[[str], ModuleType]) -> None:
    """Each tool scaled to all its layers first, from whichever depths it was counted at."""
    script = import_script("arm_peers_tables")
    samples = [
        _counted("edgepress", "int4-128", 1, 2_000_000, {"MatMulNBits": 1_500_000, "between operators": 500_000}),
        _counted("edgepress", "int4-128", 2, 3_000_000, {"MatMulNBits": 2_500_000, "between operators": 500_000}),
        _counted("llama.cpp", "Q4_K_M fp16", 2, 4_000_000, {"MUL_MAT q4_K": 3_000_000, "MUL_MAT q6_K (head)": 10**6}),
        _counted("llama.cpp", "Q4_K_M fp16", 4, 8_000_000, {"MUL_MAT q4_K": 6_000_000, "FLASH_ATTN_EXT": 2_000_000}),
    ]
    beside, by_class = script.beside(samples).splitlines(), script.by_class(samples).splitlines()
    # 2 + 9 · 1 = 11 million of ours; 4 + 4 · 4 = 20 of theirs; 100 bytes of either
    assert beside[2:] == [
        "| qwen2.5-0.5b shape, random weights | cortex-a76 | llama.cpp | Q4_K_M fp16 | float32 | 1.82 × | – | 1.00 × |"
    ]
    half = [
        _counted("edgepress", "int4-128 float16", layers, layers * 1_000_000, {"MatMulNBits": layers * 1_000_000})
        for layers in (1, 2)
    ]
    [row] = script.beside([*samples, *half]).splitlines()[2:]
    assert "| float16 | 2.00 × |" in row  # 1 + 9 · 1 = 10 million of the graph that such a processor runs
    ours, theirs = ([cell.strip() for cell in row.split("|")[5:-1]] for row in by_class[2:])
    assert ours == ["int4-128", "10.50", "0.00", "0.00", "0.00", "0.50"]
    assert theirs == ["Q4_K_M fp16", "12.00", "8.00", "0.00", "0.00", "0.00"]


def test_what_a_large_vocabulary_takes_more_is_added(
    import_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tool whose head is the same after every text and layer, what is told is what the whole model would take."""
    script = import_script("arm_instructions")
    from make_checkpoint import SHAPES
    from peers import genai_arm

    asked, contexts = [], script.CONTEXTS

    def cost(layers: int, vocab: int, context: int, tokens: int) -> object:
        head, layer = 7 * vocab * tokens, layers * tokens * (1000 + context)
        parts = {"MatMulNBits": head + layer, **({"Split": layers} if layers > 1 else {})}
        return genai_arm._Cost(sum(parts.values()) + 5, parts, 3 * vocab + 11 * layers, 40 * layers)

    def counted(_cpu: str, checkpoint: str, _form: str, found: tuple[int, ...]) -> dict[tuple[int, int], object]:
        layers, vocab = (int(word) for word in checkpoint.split("-"))
        asked.append((layers, vocab, found))
        return {(at, tokens): cost(layers, vocab, at, tokens) for at in found for tokens in (1, *script.PREFILL)}

    monkeypatch.setattr(genai_arm, "_counted", counted)
    monkeypatch.setattr(genai_arm, "_made", lambda _model, layers, vocab: f"{layers}-{vocab}")
    monkeypatch.setattr(genai_arm, "versions_of", lambda *_, **more: more)
    vocab = SHAPES["qwen2.5-0.5b"].vocab
    subject = script.Subject("qwen2.5-0.5b", 2, 24, "")
    found = list(genai_arm.count((None, None), "cortex-a76", subject, ["rtn"]))
    assert asked == [(1, vocab, contexts[:1]), (1, genai_arm.FEW_TOKENS, contexts), (2, genai_arm.FEW_TOKENS, contexts)]
    assert len(found) == len(contexts) * (1 + len(script.PREFILL))
    for one in found:
        whole = cost(2, vocab, one.context, one.tokens)
        assert one.instructions == whole.instructions
        assert one.operators == {**whole.parts, "outside": 5}
        assert one.weight_bytes_loaded == whole.weight_bytes
        assert one.state_bytes_stored == whole.cache_row * one.tokens
