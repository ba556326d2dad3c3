"""Static prefill and decode graphs compute what the bundle's own graph and a float64 oracle compute."""

import shutil
from pathlib import Path

import genai_builder
import numpy as np
import onnx
import pytest
import tiny_models
from oracles_decoder import forward
from static_graphs import CONTEXT, SEQUENCE, cpu, difference, logits, static_session

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.graph.static import write_static
from edgepress.runtime.config import read_config
from edgepress.runtime.model import Model, load
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.static import StaticSession

TOKENS = np.random.default_rng(5).integers(3, tiny_models.VOCABULARY, 90)  # past windows, into longrope's long table
RECIPES = {  # every form that a projection may have in a bundle
    "fp16": "[weights]\nbits = 16\n",
    "int4": "[weights]\nbits = 4\n",
    "int2": "[weights]\nbits = 2\nsymmetric = false\nblock_size = 16\n",
    "int8 channel": "[weights]\nbits = 8\nblock_size = 'channel'\nsymmetric = false\n",
    "int4 in float16": "[weights]\nbits = 4\n[activations]\ntype = 'float16'\n",
    "dynamic": "[weights]\nbits = 8\nblock_size = 'channel'\n[embedding]\nblock_size = 32\n"
    "[activations]\ntype = 'uint8'\n",
    "static": "[weights]\nbits = 8\nblock_size = 'channel'\n[embedding]\nblock_size = 32\n"
    "[activations]\ntype = 'uint16'\nranges = 'minmax'\n[calibration]\ntokens = 128\nlength = 64\n",
    "rotated": "before = ['hadamard']\n[weights]\nbits = 32\n[calibration]\ntokens = 128\nlength = 64\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("static")


def checkpoint(home: Path, name: str) -> Path:
    return home / name if (home / name).exists() else tiny_models.save(name, home / name)


def bundle(home: Path, name: str) -> Path:
    """With caches of all tokens, as bundles for targets with static graphs have them."""
    out, recipe = home / f"{name}.bundle", home / "whole.toml"
    if not out.exists():
        recipe.write_text("weights.bits = 32\ncache.windows = false\n", encoding="utf-8")
        export(checkpoint(home, name), out=out, recipe=recipe)
    return out


HYBRIDS = ("lfm3",)  # states of fixed size are refused, see test_sessions.py


@pytest.mark.parametrize("name", [name for name in tiny_models.METHOD_VARIANTS if name not in HYBRIDS])
def test_every_architecture_gives_the_logits_and_the_text_of_its_bundle(home: Path, tmp_path: Path, name: str) -> None:
    made = bundle(home, name)
    session, config = static_session(made, tmp_path), read_config(made)
    assert (session.context, session.prefill_chunk, session.vocab_size) == (CONTEXT, SEQUENCE, config.vocab_size)
    own = CpuSession(config, threads=1, context=CONTEXT, prepared=False)
    assert difference(logits(session, TOKENS, 20), logits(own, TOKENS, 20)) < 1e-5
    prompt = [int(token) for token in TOKENS[:37]]  # two whole calls and a padded one; then past longrope's limit
    static = Model(config, session).generate(prompt, max_tokens=40)
    plain = load(made, threads=1, context=CONTEXT, prepared=False).generate(prompt, max_tokens=40)
    assert static.text() == plain.text()
    assert static.tokens == plain.tokens


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["qwen2", "llama-biases-head_dim", "gpt2"])
def test_every_form_of_weights_is_dequantized_exactly(home: Path, tmp_path: Path, name: str, recipe: str) -> None:
    path, out = tmp_path / "recipe.toml", tmp_path / "bundle"
    path.write_text(RECIPES[recipe], encoding="utf-8")
    text = tmp_path / "text.txt"
    text.write_text(tiny_models.TEXT * 20, encoding="utf-8")
    calibration = [text] if "calibration" in RECIPES[recipe] else []
    export(checkpoint(home, name), out=out, recipe=path, calibration=calibration)
    prepared = decide(checkpoint(home, name), target="arm64-cpu", recipe=path, calibration=calibration)
    expected = forward(prepared.decoder, StoredWeights(out / DATA_FILE, prepared.plan), TOKENS)
    assert difference(logits(static_session(out, tmp_path / "static"), TOKENS, 20), expected) < 1e-5


BUILT = [(name, precision) for name in ("qwen2", "qwen3", "mistral-window") for precision in ("fp32", "int4")]


@pytest.fixture(scope="module")
def built(home: Path) -> Path:
    """A folder with what onnxruntime-genai's builder makes of each of ``BUILT``, NAME.PRECISION."""
    for name, precision in BUILT:
        words = ["-e", "cpu", "-p", precision, "-i", checkpoint(home, name), "-o", home / f"{name}.{precision}"]
        options = ["--extra_options", "accuracy_level=1", "block_size=16"] if precision == "int4" else []
        genai_builder.build(*words, "-c", home / "cache", *options)
    return home


@pytest.mark.parametrize(("name", "precision"), BUILT)
def test_the_graphs_of_onnxruntime_genai_s_builder_have_a_static_form(
    built: Path, tmp_path: Path, name: str, precision: str
) -> None:
    made = built / f"{name}.{precision}"
    own = cpu(made / "model.onnx")
    heads, head_dim = 2, 32 if name == "qwen3" else 16
    past = [value.name for value in own.get_inputs() if value.name.startswith("past")]
    feeds = {"input_ids": TOKENS[None], "attention_mask": np.ones((1, TOKENS.size), np.int64)}
    feeds |= {name: np.zeros((1, heads, 0, head_dim), np.float32) for name in past}
    expected = own.run(["logits"], feeds)[0][0]
    assert difference(logits(static_session(made, tmp_path / "static"), TOKENS, 20), expected) < 1e-5


def test_inputs_and_outputs_are_named_and_shaped_as_said(home: Path, tmp_path: Path) -> None:
    prefill, decode = write_static(bundle(home, "gemma3_text") / "model.onnx", tmp_path, context=50, sequence=8)
    for path, length in ((prefill, 8), (decode, 1)):
        session = cpu(path)
        found = {value.name: (value.type, value.shape) for value in session.get_inputs()}
        cache = {
            f"past_key_values.{layer}.{part}": ("tensor(float)", [1, 2, 49, 32])
            for layer in range(3)
            for part in ("key", "value")
        }
        masks = {name: ("tensor(float)", [1, 1, length, 49 + length]) for name in ("mask", "mask.sliding")}
        ids = {name: ("tensor(int32)", [1, length]) for name in ("input_ids", "position_ids")}
        assert found == ids | masks | cache
        outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
        rows = {name.replace("past_key_values", "present"): ("tensor(float)", [1, 2, length, 32]) for name in cache}
        assert outputs == {"logits": ("tensor(float)", [1, length, tiny_models.VOCABULARY])} | rows
        graph = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(path, full_check=True)
        assert {node.domain for node in graph.graph.node} == {""}
        moved = {node.op_type for node in graph.graph.node} - {"Add", "Mul", "MatMul", "Gather", "Concat", "Split"}
        assert moved == {"Reshape", "Transpose", "Unsqueeze", "RMSNormalization", "Softmax", "Sub", "Gelu"}


def test_both_graphs_read_the_same_bytes_once(home: Path, tmp_path: Path) -> None:
    paths = write_static(bundle(home, "qwen2") / "model.onnx", tmp_path, context=50)
    regions: list[dict[str, tuple[str, ...]]] = []
    for path in paths:
        initializers = onnx.load(path, load_external_data=False).graph.initializer
        external = [tensor for tensor in initializers if tensor.data_location == onnx.TensorProto.EXTERNAL]
        regions.append({tensor.name: tuple(entry.value for entry in tensor.external_data) for tensor in external})
        assert all(tensor.ByteSize() < 2048 for tensor in initializers)
    assert regions[0] == regions[1]
    stored = {(int(offset), int(length)) for _, offset, length in regions[0].values()}
    assert len(stored) == len(regions[0])
    assert sum(length for _, length in stored) <= (tmp_path / "weights.bin").stat().st_size
    again = tmp_path / "again"
    again.mkdir()
    write_static(bundle(home, "qwen2") / "model.onnx", again, context=50)
    for path in (*paths, tmp_path / "weights.bin"):
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_a_window_beyond_the_context_is_none(home: Path, tmp_path: Path) -> None:
    session = static_session(bundle(home, "mistral-window"), tmp_path, context=12)
    assert "mask.sliding" not in {value.name for value in cpu(tmp_path / "decode.onnx").get_inputs()}
    own = CpuSession(read_config(bundle(home, "mistral-window")), threads=1, context=12)
    assert difference(logits(session, TOKENS[:12], 5), logits(own, TOKENS[:12], 5)) < 1e-5


def test_a_text_may_fill_the_context_and_no_more(home: Path, tmp_path: Path) -> None:
    session = static_session(bundle(home, "qwen2"), tmp_path, context=40)
    own = CpuSession(read_config(bundle(home, "qwen2")), threads=1, context=40)
    for decoded in (0, 1, 39):
        assert difference(logits(session, TOKENS[:40], decoded), logits(own, TOKENS[:40], decoded)) < 1e-5
        with pytest.raises(InputError, match=r"1 tokens after 40 in the cache do not fit in the context of 40"):
            session.append([3])
    session.reset()
    with pytest.raises(InputError, match="41 tokens do not fit in the context of 40"):
        session.append(TOKENS[:41])


def test_what_was_forgotten_is_not_seen(home: Path, tmp_path: Path) -> None:
    session = static_session(bundle(home, "qwen2"), tmp_path)
    first = logits(session, TOKENS[:20], 4)
    logits(session, TOKENS[20:90], 4)
    np.testing.assert_array_equal(logits(session, TOKENS[:20], 4), first)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (1, "context is 1 and sequence 64; they must be at least 2 and 1"),
        (129, r"a context of 129 is asked for, and the model has 128 positions"),
    ],
)
def test_a_context_that_cannot_be_is_refused(home: Path, tmp_path: Path, context: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_static(bundle(home, "qwen2") / "model.onnx", tmp_path, context=context)


def test_what_is_no_decoder_is_refused(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(InputError, match="cannot be read"):
        write_static(path, tmp_path, context=20)
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match="is no ONNX model"):
        write_static(path, tmp_path, context=20)
    shutil.copy(bundle(home, "qwen2") / "model.onnx", path)
    with pytest.raises(InputError, match=r"is in 'model\.onnx\.data', which is missing"):
        write_static(path, tmp_path, context=20)
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(InputError, match="the data file is truncated"):
        write_static(path, tmp_path, context=20)
    x = onnx.helper.make_tensor_value_info("x", 1, [1])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [onnx.helper.make_tensor_value_info("y", 1, [1])]
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)]), path)
    with pytest.raises(InputError, match="has no GroupQueryAttention"):
        write_static(path, tmp_path, context=20)


def test_a_session_that_is_not_static_is_refused(home: Path, tmp_path: Path) -> None:
    static_session(bundle(home, "qwen2"), tmp_path)
    plain = cpu(bundle(home, "qwen2") / "model.onnx")
    with pytest.raises(InputError, match="no static graph of edgepress"):
        StaticSession(plain, plain)
    prefill = cpu(tmp_path / "prefill.onnx")
    with pytest.raises(InputError, match="the decode graph takes 16 tokens a call, not 1"):
        StaticSession(prefill, prefill)
