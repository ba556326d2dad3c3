"""The contract of every mixer found on disk: its description, its torch steps and its graph say the same.

Each kind has an oracle in float64 of its own (``mixer_oracles/<kind>.py``), and is held against it on the layers of
tiny models. :class:`Hybrid` is a model whose layers differ, LFM2: most of them have a state that does not grow.
"""

import ast
from collections.abc import Generator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
import torch
import transformers
from oracles_decoder import Oracle, forward, mixer_oracle

from edgepress.bundle.manifest import find_problems, read_manifest
from edgepress.bundle.states import state_bytes
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.files import DATA_FILE
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.model import network, operations
from edgepress.exporter.model.description import Block, Decoder, Mixer
from edgepress.exporter.model.mixers import MixerKind, load_mixer, mixer_names
from edgepress.exporter.model.mixers.shared_attention import SharedAttention
from edgepress.exporter.model.operations import Rotary, Step
from edgepress.exporter.model.parts.primitives import Linear, Source, Weight
from edgepress.exporter.model.parts.tree import every
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.runtime import load
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

TESTS = Path(__file__).parents[1]
EXPORTER = TESTS.parent / "exporter"
TARGET = "arm64-cpu"
CONTEXT = 64
LENGTH = 12  # tokens of a stream
TOKENS = np.random.default_rng(0).integers(3, tiny_models.VOCABULARY, 40)
FLOAT = 1e-5  # of the largest logit; measured: 9e-7
LAYERS = ["conv", "full_attention", "conv", "conv"]
RECIPE = """
before = ["awq", "hadamard"]
accuracy_level = 0
[weights]
method = "gptq"
bits = 8
block_size = 32
[embedding]
method = "rtn"
bits = 8
block_size = 32
[calibration]
tokens = 512
length = 64
"""
HALF = """
[weights]
bits = 8
block_size = 32
[activations]
type = "float16"
"""


class Hybrid:
    """A checkpoint with three layers of short convolutions and one of attention, and bundles of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.checkpoint = tiny_models.save("lfm2", home / "lfm2")
        transformers.logging.set_verbosity_error()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(self.checkpoint, dtype=torch.float32).eval()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """transformers' own, (length, vocabulary)."""
        with torch.inference_mode():
            return self.model(torch.from_numpy(tokens)[None], use_cache=False).logits[0].numpy()

    @cache  # noqa: B019 - one instance, which lives as long as the module
    def bundle(self, recipe: str | Path) -> Path:
        out = self.home / f"bundle-{Path(recipe).stem}"
        export(self.checkpoint, out=out, target=TARGET, recipe=recipe, threads=1, calibration=self.text(), check=True)
        return out

    def text(self) -> list[Path]:
        path = self.home / "text.txt"
        path.write_text(tiny_models.TEXT * 20)
        return [path]

    def recipe(self, name: str, content: str) -> Path:
        path = self.home / f"{name}.toml"
        path.write_text(content)
        return path


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Hybrid:
    return Hybrid(tmp_path_factory.mktemp("hybrid"))


@cache
def _decoder(home: Path, name: str) -> tuple[Decoder, dict[str, torch.Tensor]]:
    """A tiny model's description and its weights in float64, by name."""
    checkpoint = Checkpoint.open(tiny_models.save(name, home / name))
    decoder = read_decoder(checkpoint)
    return decoder, {w.name: torch.from_numpy(read_weight(checkpoint, w)).double() for w in decoder.weights()}


MODELS = (
    "llama",
    "gemma3_text",
    "olmo2",
    "gpt2",
    "phi3-longrope-partial",
    "lfm2",
    "lfm3",
    "granitemoehybrid-groups-biases",
    "qwen3_5_text",
    "jamba",
    "olmoe",
    "gpt_oss",
    "glm4_moe-groups",
    "gemma3n_text",
    "gemma4_text",
    "gemma4_text-experts",
    "cohere-norms",
    "apertus",
    "bitnet",
    "ministral3",
    "minicpm3",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixers")


def mixers(home: Path, name: str) -> list[Mixer]:
    """One of each kind in a model: those of the last layer that has the kind."""
    decoder, _ = _decoder(home, name)
    return list({block.name: block.mixer for block in every(Block, decoder.layers)}.values())


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def relative_rms(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def side(mixer: Mixer, length: int) -> torch.Tensor:
    """What stands beside the last ``length`` tokens of a stream, for mixers that read it."""
    return torch.randn(1, LENGTH, mixer.side, dtype=torch.float64, generator=torch.Generator().manual_seed(4))[
        :, LENGTH - length :
    ]


def steps_of(
    mixer: Mixer, weights: dict[str, torch.Tensor], x: torch.Tensor, ropes: dict[str, Rotary]
) -> Generator[Step, torch.Tensor, torch.Tensor]:
    """The torch steps of a mixer on x (sequences, length, hidden)."""
    kind = load_mixer(mixer.kind)
    if not mixer.side:
        return (yield from kind.steps(mixer, lambda weight: weights[weight.name], x, ropes))
    assert kind.steps_with_side is not None
    before = side(mixer, x.shape[1])
    y, after = yield from kind.steps_with_side(mixer, lambda weight: weights[weight.name], x, ropes, before)
    assert after.shape == before.shape
    return y


def run(mixer: Mixer, weights: dict[str, torch.Tensor], x: torch.Tensor, ropes: dict[str, Rotary]) -> torch.Tensor:
    """What these steps give."""
    return operations.run(steps_of(mixer, weights, x, ropes))


def tables(decoder: Decoder, length: int) -> dict[str, Rotary]:
    found = network.rotaries(decoder, length)
    return {name: replace(table, cos=table.cos.double(), sin=table.sin.double()) for name, table in found.items()}


def stream(decoder: Decoder) -> torch.Tensor:
    return torch.randn(1, LENGTH, decoder.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# ---- every kind ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mixer_names())
def test_a_file_has_one_kind_of_its_name_and_an_oracle(name: str) -> None:
    kind = load_mixer(name)
    assert isinstance(kind, MixerKind)
    assert issubclass(kind.description, Mixer)
    assert kind.description.__module__.endswith(f".{name}")
    assert is_dataclass(kind.description)
    assert kind.description.__dataclass_params__.frozen  # type: ignore[attr-defined]  # dataclasses have no stub for it
    assert (TESTS / "mixer_oracles" / f"{name}.py").is_file()


def test_the_models_here_have_every_kind(home: Path) -> None:
    assert {mixer.kind for name in MODELS for mixer in mixers(home, name)} == set(mixer_names())


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_the_groups_and_compute_what_the_oracle_does(home: Path, name: str) -> None:
    decoder, weights = _decoder(home, name)
    stored = {part.tensor: None for weight in decoder.weights() for part in weight.parts}
    checkpoint = Checkpoint.open(home / name)
    oracle = Oracle({key: checkpoint.rows(key, 0, checkpoint.tensors[key].shape[0]) for key in stored}.__getitem__)
    x = stream(decoder)
    for mixer in mixers(home, name):
        assert [linear for group in mixer.groups() for linear in group] == list(every(Linear, mixer))
        seen: list[Step] = []
        steps = steps_of(mixer, weights, x, tables(decoder, x.shape[1]))
        try:
            seen.append(next(steps))
            while True:
                seen.append(steps.send(seen[-1][1]))
        except StopIteration as end:
            found = end.value[0].numpy()
        assert [linears for linears, _ in seen] == list(mixer.groups())
        assert mixer.scales_input or torch.equal(seen[0][1], x)
        if isinstance(mixer, SharedAttention):
            kept = (
                side(mixer, LENGTH)[0, :, mixer.stored_at :].numpy().reshape(LENGTH, 2, mixer.kv_heads, mixer.head_dim)
            )
            oracle.shared[mixer.stored_at] = kept[:, 0], kept[:, 1]
        oracle.per_layer = side(mixer, LENGTH)[0].numpy()
        assert relative(found, mixer_oracle(mixer.kind)(mixer, oracle, x[0].numpy(), decoder.ropes)) < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_no_token_sees_a_later_one(home: Path, name: str) -> None:
    decoder, weights = _decoder(home, name)
    x = stream(decoder)
    changed = x.clone()
    changed[:, 7:] += 1
    for mixer in mixers(home, name):
        before, after = (run(mixer, weights, y, tables(decoder, x.shape[1])) for y in (x, changed))
        torch.testing.assert_close(after[:, :7], before[:, :7], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(after[:, 7:], before[:, 7:])
        sees_back = not torch.allclose(run(mixer, weights, x[:, 1:], tables(decoder, x.shape[1] - 1)), before[:, 1:])
        carried = bool(mixer.states(0)) or isinstance(mixer, SharedAttention)  # its keys are carried by another layer
        assert sees_back == carried


@pytest.mark.parametrize("name", MODELS)
def test_nothing_but_the_input_projections_reads_the_stream(home: Path, name: str) -> None:
    """In another basis of the stream, with their columns in it too, a mixer gives the same; where it has gains of its
    own by channel, with other channels scaled.
    """
    decoder, weights = _decoder(home, name)
    x, random = stream(decoder), torch.Generator().manual_seed(3)
    turned = torch.randn(decoder.hidden_size, decoder.hidden_size, dtype=torch.float64, generator=random)
    for mixer in mixers(home, name):
        basis = turned.diag().diag() if mixer.scales_input else turned
        names = {linear.weight.name for linear in mixer.input_projections}
        changed = {key: value @ torch.linalg.inv(basis).T if key in names else value for key, value in weights.items()}
        ropes = tables(decoder, x.shape[1])
        before, after = run(mixer, weights, x, ropes), run(mixer, changed, x @ basis, ropes)
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8 * float(before.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_what_multiplies_the_source_can_be_taken_out_behind_it(home: Path, name: str) -> None:
    decoder, weights = _decoder(home, name)
    x, random = stream(decoder), torch.Generator().manual_seed(2)
    for mixer in mixers(home, name):
        source = mixer.source()
        if isinstance(source, str):
            continue
        changed = dict(weights)
        rows, width = source.rows, source.width
        count = (rows.stop - rows.start) // width
        each = torch.rand(count, width, dtype=torch.float64, generator=random) + 0.5
        turned = torch.randn(count, width, width, dtype=torch.float64, generator=random)
        turn = torch.diag_embed(each) if width == 1 or not source.turns else turned
        for weight in every(Weight, source.linear):
            value = weights[weight.name].clone()
            value[rows] = (turn @ value[rows].reshape(count, width, -1)).reshape(value[rows].shape)
            changed[weight.name] = value
        output = mixer.output_projection.weight
        by_block = weights[output.name].reshape(output.shape[0], count, source.repeats, width)
        undone = torch.einsum("obrw,bwv->obrv", by_block, torch.linalg.inv(turn))
        changed[output.name] = undone.reshape(output.shape)
        before, after = (run(mixer, values, x, tables(decoder, x.shape[1])) for values in (weights, changed))
        torch.testing.assert_close(after, before, rtol=1e-8, atol=1e-8 * float(before.abs().max()))
        assert any(not torch.equal(changed[w.name], weights[w.name]) for w in every(Weight, source.linear))


def test_where_nothing_is_linear_a_mixer_says_so(home: Path) -> None:
    reasons = {name: [mixer.source() for mixer in mixers(home, name)] for name in ("gpt2", "llama")}
    assert reasons["gpt2"][1] == "gelu_tanh before it does not pass a scale on"
    assert all(isinstance(source, Source) for source in reasons["llama"])


def _parts(value: object) -> list[object]:
    """A field, or what is in it where it is several projections: a tuple of parts, or a part with projections."""
    if isinstance(value, tuple):
        return [part for item in value for part in _parts(item)]
    if is_dataclass(value) and not isinstance(value, Weight) and not hasattr(value, "weight"):
        return [part for field in fields(value) for part in _parts(getattr(value, field.name))]
    return [value]


@pytest.mark.parametrize("name", MODELS)
def test_every_field_of_a_description_is_walked(home: Path, name: str) -> None:
    """Weights are found in the order of the fields, each once, whatever holds them."""
    for mixer in mixers(home, name):
        direct = [getattr(mixer, field.name) for field in fields(mixer)]  # type: ignore[arg-type]  # a dataclass
        expected = []
        direct = [part for value in direct for part in _parts(value)]
        for value in direct:
            parts = [value] if isinstance(value, Weight) else [getattr(value, key, None) for key in ("weight", "bias")]
            expected += [part for part in parts if part is not None]
        assert list(every(Weight, mixer)) == expected


# ---- a model whose layers differ -------------------------------------------------------------------------------------


def test_the_description_is_that_of_transformers(hybrid: Hybrid) -> None:
    checkpoint = Checkpoint.open(hybrid.checkpoint)
    decoder = read_decoder(checkpoint)
    assert [[block.name for block in layer.blocks] for layer in decoder.layers] == [
        ["attention" if kind == "full_attention" else "short_conv", "mlp"] for kind in LAYERS
    ]
    read = {key: checkpoint.rows(key, 0, tensor.shape[0]) for key, tensor in checkpoint.tensors.items()}
    for length in (1, 2, 40):
        tokens = TOKENS[:length]
        expected = hybrid.logits(tokens)
        assert relative(forward(decoder, read.__getitem__, tokens), expected) < FLOAT
        assert (
            relative(network.logits(decoder, lambda w: torch.from_numpy(read_weight(checkpoint, w)), tokens), expected)
            < FLOAT
        )
        assert relative(Reference(hybrid.checkpoint, keep=False).logits(tokens), expected) < FLOAT


def test_prefill_pieces_and_single_tokens_give_the_logits_of_transformers(hybrid: Hybrid) -> None:
    session = CpuSession(read_config(hybrid.bundle("fp32")), threads=1, context=CONTEXT, prefill_chunk=16)
    expected = hybrid.logits(TOKENS)
    assert relative(session.append(TOKENS, 0), expected) < FLOAT  # in three chunks
    for ends in ([1, 2, 3], [17, 30], list(range(1, len(TOKENS)))):
        session.reset()
        pieces = [session.append(piece, 0).copy() for piece in np.split(TOKENS, ends)]
        assert relative(np.concatenate(pieces), expected) < FLOAT
        assert relative(pieces[-1][-1:], expected[-1:]) < FLOAT


def test_greedy_text_is_that_of_transformers(hybrid: Hybrid) -> None:
    model = load(hybrid.bundle("fp32"), threads=1)
    prompt = tiny_models.TEXT[:60]
    ids = model.tokenizer.encode(prompt)
    with torch.inference_mode():
        expected = hybrid.model.generate(torch.tensor([ids]), max_new_tokens=16, do_sample=False, pad_token_id=0)
    tokens = expected[0, len(ids) :].tolist()
    text = "".join(model.generate(prompt, max_tokens=16))
    assert text == model.tokenizer.decode([token for token in tokens if token != 2])


def test_plan_manifest_and_runtime_have_the_same_states(hybrid: Hybrid) -> None:
    prepared = decide(hybrid.checkpoint, target=TARGET, recipe="fp32")
    bundle = hybrid.bundle("fp32")
    states = read_manifest(bundle).states
    assert [(state.name, state.kind) for state in states] == [
        ("layers.0.conv", "convolution"),
        ("layers.1.key", "key-value"),
        ("layers.1.value", "key-value"),
        ("layers.2.conv", "convolution"),
        ("layers.3.conv", "convolution"),
    ]
    assert states == tuple(prepared.plan.states) == read_config(bundle).states
    assert state_bytes(states, 100) == 4 * (3 * 3 * 64 + 2 * 100 * 2 * 16)  # taps − 1 of 64 channels; 2 heads of 16
    assert find_problems(bundle) == []


def test_methods_change_and_round_what_they_do_not_know(hybrid: Hybrid) -> None:
    """AWQ, rotation and GPTQ name no mixer; the graph computes what the oracle does of the weights that are stored."""
    path = hybrid.recipe("everything", RECIPE)
    bundle, prepared = hybrid.bundle(path), decide(hybrid.checkpoint, target=TARGET, recipe=path)
    assert find_problems(bundle) == []
    schemes = {tensor["name"]: tensor["scheme"] for tensor in read_manifest(bundle).tensors}
    assert schemes["layers.0.short_conv.inputs"] is not None
    assert schemes["layers.3.short_conv.output"] is not None
    assert schemes["layers.0.short_conv.kernel"] is None
    session = CpuSession(read_config(bundle), threads=1, context=CONTEXT, prefill_chunk=16)
    found = session.append(TOKENS, 0)
    stored = StoredWeights(bundle / DATA_FILE, prepared.plan)
    assert relative(found, forward(prepared.decoder, stored, TOKENS)) < FLOAT
    assert 0.001 < relative_rms(found, hybrid.logits(TOKENS)) < 0.1  # 8 bits of random weights; measured: 0.043


def test_float16_activations_leave_the_convolution_in_float32(hybrid: Hybrid) -> None:
    bundle = hybrid.bundle(hybrid.recipe("half", HALF))
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types["layers.0.short_conv.kernel"] == onnx.TensorProto.FLOAT
    assert types["layers.0.short_conv.inputs.scales"] == onnx.TensorProto.FLOAT16
    convolutions = [node for node in model.graph.node if node.op_type == "CausalConvWithState"]
    assert [node.name for node in convolutions] == [f"layers.{index}.short_conv.convolved" for index in (0, 2, 3)]
    session = CpuSession(read_config(bundle), threads=1, context=CONTEXT, prefill_chunk=16)
    assert relative_rms(session.append(TOKENS, 0), hybrid.logits(TOKENS)) < 0.1


@pytest.mark.parametrize("name", ["granitemoehybrid", "falcon_h1", "nemotron_h", "mamba"])
def test_methods_change_and_round_state_spaces(hybrid: Hybrid, name: str, tmp_path: Path) -> None:
    """Behind a norm that attention shares, alone in a layer, and in models without attention."""
    path, checkpoint = hybrid.recipe("everything", RECIPE), tiny_models.save(name, tmp_path / "checkpoint")
    bundle = tmp_path / "bundle"
    export(checkpoint, out=bundle, target=TARGET, recipe=path, threads=1, calibration=hybrid.text(), check=True)
    prepared = decide(checkpoint, target=TARGET, recipe=path)
    session = CpuSession(read_config(bundle), threads=1, context=CONTEXT, prefill_chunk=16)
    found = session.append(TOKENS, 0)
    assert relative(found, forward(prepared.decoder, StoredWeights(bundle / DATA_FILE, prepared.plan), TOKENS)) < FLOAT
    kept = session.snapshot()
    after = session.append(TOKENS[:3], 0)
    session.restore(kept)
    assert (session.append(TOKENS[:3], 0) == after).all()


def test_static_targets_refuse_it_before_anything_is_read(hybrid: Hybrid) -> None:
    with pytest.raises(InputError, match=r"qnn-htp: short_conv has no static form: a static call is padded to its len"):
        decide(hybrid.checkpoint, target="qnn-htp", recipe="int8-static-a16")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("heads", r"heads prunes the Attention of every layer, and layer 0 of this model has short_conv and mlp"),
        ("hidden", r"hidden cannot prune lfm2: the width of its short_conv is the hidden size, inside too"),
    ],
)
def test_pruning_steps_refuse_what_they_cannot_cut(hybrid: Hybrid, step: str, words: str) -> None:
    path = hybrid.recipe(step, f'prune = ["{step}"]\n[weights]\nbits = 8\nblock_size = 32\n')
    with pytest.raises(InputError, match=words):
        decide(hybrid.checkpoint, target=TARGET, recipe=path)


# ---- nobody else knows them ------------------------------------------------------------------------------------------

NAMING = {
    "graph/models/encoder_decoder.py": "writes encoders and attention to a source, which are no decoder's mixers",
    "methods/shrink/experts.py": "removes experts of mixtures",
    "methods/shrink/heads.py": "removes heads of attention",
    "methods/shrink/mlp_width.py": "removes channels of MLPs",
}


def _names_a_mixer(path: Path) -> bool:
    """Whether a file imports a mixer's own file, or asks for something called as a mixer is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgepress.exporter.model.mixers."):
            return True
        if isinstance(node, ast.Attribute) and node.attr in mixer_names():
            return True
    return False


def test_only_architectures_and_steps_about_a_mixer_name_one() -> None:
    """The engine, plan, methods and graph walk blocks: a new mixer is one file."""
    files = {path.relative_to(EXPORTER).as_posix(): path for path in EXPORTER.rglob("*.py")}
    own = (
        "model/mixers/",
        "model/architectures/",
        "model/encoder_decoders/",
        "demo/",
    )  # demo/train.py trains transformers' own model
    naming = {name for name, path in files.items() if not name.startswith(own) and _names_a_mixer(path)}
    assert naming == set(NAMING)
