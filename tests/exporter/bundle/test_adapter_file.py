"""Bundles with slots for adapters, held against the models that peft merges the same adapters into."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from adapters import TOKENS, factors, lora, peft_adapter, write_adapter
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from sessions import genai_tokens, graph_logits
from tiny_models import LONG_FROM, VARIANTS, save

from edgepress.bundle.adapter_file import adapter_for
from edgepress.bundle.adapter_slots import AdapterSlots, Slot, SlotPart, adapter_version, model_version
from edgepress.bundle.manifest import read_manifest
from edgepress.cli import main
from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.bundle.adapter_file import slot_values
from edgepress.exporter.bundle.adapter_file import write_adapter as write_file
from edgepress.exporter.bundle.written.readback import StoredWeights
from edgepress.exporter.decide import instructions
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.exporter.model.network import logits
from edgepress.exporter.model.parts.primitives import Weight
from edgepress.exporter.source.adapters import WEIGHTS, read_adapter
from edgepress.runtime import load
from edgepress.runtime.measures.counting.machine import count
from edgepress.runtime.sessions.cpu import CpuSession

Q_PROJ, V_PROJ = (f"model.layers.0.self_attn.{name}_proj" for name in "qv")
SOME = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", SOME),
        ("qwen2", {"r": 8, "target_modules": "all-linear", "use_rslora": True, "alpha_pattern": {"up_proj": 3}}),
        ("llama", {"r": 3, "target_modules": ["lm_head", "o_proj"], "rank_pattern": {"o_proj": 5}, "whole": False}),
        ("phi3", {"r": 4, "target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("gpt2", {"r": 4, "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
        ("lfm2", {"r": 4, "target_modules": ["in_proj", "q_proj", "w1"]}),
    ],
    ids=["some", "all-rslora", "head", "fused", "transposed", "hybrid"],
)
def test_the_logits_are_those_of_pefts_merge(name: str, config: dict[str, object], tmp_path: Path) -> None:
    base, folder, out, file = save(name, tmp_path / "base"), tmp_path / "a", tmp_path / "bundle", tmp_path / "a.file"
    merged = peft_adapter(base, folder, **config)
    export(base, adapter_slots=[folder], recipe="fp32", out=out, threads=1, target="x86-cpu", check=True)
    write_file(out, folder, file)
    model = load(out, prepared=False)
    found, plain = (m.session.append(TOKENS, 0).copy() for m in (model.with_adapter(file), model))
    assert np.abs(found - merged).max() <= 1e-4 * np.abs(merged).max()
    assert np.abs(plain - merged).max() > 1e-3 * np.abs(merged).max()  # it does something


@st.composite
def products(draw: st.DrawFn) -> tuple[Slot, dict[str, int]]:
    """A slot, and the rows of each tensor whose rows it has."""
    columns, names = draw(st.integers(1, 9)), "abc"[: draw(st.integers(1, 3))]
    rows = {f"{name}.weight": draw(st.integers(1, 7)) for name in names}
    if len(rows) == 2 and draw(st.booleans()):
        count = min(rows.values())
        parts = [SlotPart(name, 0, count, first, 2) for first, name in enumerate(rows)]
        return Slot("s", columns, 2 * count, tuple(parts)), dict.fromkeys(rows, count)
    parts, first = [], draw(st.integers(0, 3))  # rows before them are of a tensor that no adapter changes
    for name in draw(st.permutations(list(rows))):
        parts.append(SlotPart(name, 0, rows[name], first))
        first += rows[name]
    return Slot("s", columns, first + draw(st.integers(0, 3)), tuple(parts)), rows


@given(product=products(), ranks=st.lists(st.integers(1, 5), min_size=3, max_size=3), seed=st.integers(0, 999))
def test_values_are_the_adapters_of_all_tensors_side_by_side(
    tmp_path_factory: pytest.TempPathFactory, product: tuple[Slot, dict[str, int]], ranks: list[int], seed: int
) -> None:
    slot, rows = product
    pairs = {name: factors(rows[name], slot.columns, rank, seed) for name, rank in zip(rows, ranks, strict=False)}
    modules = {name: lora(*pair, name.removesuffix(".weight")) for name, pair in pairs.items()}
    tensors = {name: tensor for module in modules.values() for name, tensor in module.items()}
    folder = write_adapter(tmp_path_factory.mktemp("one") / "a", tensors)
    values = slot_values(read_adapter(folder).factors(rows), AdapterSlots(5, (slot,)))
    expected = np.zeros((slot.rows, slot.columns))
    for part in slot.parts:
        a, b = pairs[part.tensor]
        for row in range(part.start, part.stop):
            expected[part.first + part.step * (row - part.start)] += 8 / len(a) * (b[row].astype(np.float64) @ a)
    made = values[slot.a].astype(np.float64) @ values[slot.b]
    np.testing.assert_allclose(made.T, expected, rtol=1e-5, atol=1e-5)


class Made:
    """A tiny Llama in int4: a bundle with slots, one without, and two adapters with their files."""

    def __init__(self, home: Path) -> None:
        self.base, self.slots, self.plain = save("llama", home / "base"), home / "slots", home / "plain"
        export(self.base, out=self.plain, recipe="int4", threads=1)
        export(self.base, out=self.slots, recipe="int4", threads=1, adapter_slots=["4:q_proj,v_proj,down_proj"])
        self.folders, self.files = [home / "one", home / "two"], [home / "one.file", home / "two.file"]
        for seed, (folder, file) in enumerate(zip(self.folders, self.files, strict=True)):
            peft_adapter(self.base, folder, seed=seed, **SOME)
            write_file(self.slots, folder, file)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("slots"))


GRAPHS = ("model.onnx", "model_fp16.onnx")


@pytest.mark.parametrize("prepared", [False, True], ids=["bundle", "prepared"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_an_empty_slot_changes_no_bit(made: Made, graph: str, prepared: bool) -> None:
    with_slots, without = (load(path, graph=graph, prepared=prepared) for path in (made.slots, made.plain))
    assert (with_slots.session.prepared.directory is not None) == prepared
    for first in (TOKENS, TOKENS[:1]):
        found, expected = (model.session.append(first, 0).copy() for model in (with_slots, without))
        np.testing.assert_array_equal(found, expected)
    data = [(path / "model.onnx.data").read_bytes() for path in (made.slots, made.plain)]
    assert data[0] == data[1]


def test_an_adapter_stands_beside_rounded_weights(made: Made, tmp_path: Path) -> None:
    """The logits of the description with the bundle's own weights and what peft's factors add to them in float64."""
    recipe = tmp_path / "exact.toml"  # products in float32, so that activations are not rounded
    recipe.write_text("accuracy_level = 1\n[weights]\nbits = 4\nblock_size = 32\n")
    out, file = tmp_path / "bundle", tmp_path / "a.file"
    export(made.base, out=out, recipe=recipe, threads=1, adapter_slots=[made.folders[0]])
    write_file(out, made.folders[0], file)
    prepared = decide(made.base, recipe=recipe, target="arm64-cpu")
    stored, tensors = StoredWeights(out / "model.onnx.data", prepared.plan), load_file(made.folders[0] / WEIGHTS)

    def value(weight: Weight) -> torch.Tensor:
        found = stored.value(weight).astype(np.float64)
        first = 0
        for part in weight.parts:
            module, count = f"base_model.model.{part.tensor.removesuffix('.weight')}", part.stop - part.start
            if f"{module}.lora_A.weight" in tensors:
                a, b = (tensors[f"{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
                found[first : first + count] += 8 / 4 * (b @ a)[part.start : part.stop]
            first += count
        return torch.from_numpy(found.astype(np.float32))

    expected = logits(prepared.decoder, value, TOKENS)
    for graph, bound in zip(GRAPHS, (1e-5, 2e-2), strict=True):
        found = load(out, graph=graph, prepared=False).with_adapter(file).session.append(TOKENS, 0)
        assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


def test_others_apply_the_file(made: Made) -> None:
    """onnxruntime-genai, and onnxruntime by its own run options, without our runtime."""
    pytest.importorskip("onnxruntime_genai")
    texts = []
    for file in (None, *made.files):  # of two graphs genai runs the one in float16
        generation = load(made.slots, graph=GRAPHS[1]).with_adapter(file).generate(TOKENS.tolist(), max_tokens=16)
        generation.text()
        texts.append(generation.tokens)
        answer = generation.tokens[:-1] if generation.stop_reason == "end" else generation.tokens
        assert genai_tokens(made.slots, TOKENS, 16, adapter=file) == [*TOKENS, *answer]
    assert texts[0] != texts[1] != texts[2] != texts[0]
    mine = load(made.slots, graph=GRAPHS[0], prepared=False).with_adapter(made.files[0]).session.append(TOKENS)
    theirs = graph_logits(made.slots, [TOKENS], GRAPHS[0], adapter=made.files[0])
    np.testing.assert_allclose(theirs[-1], mine[0], rtol=1e-4, atol=1e-4)


def test_conversations_with_different_adapters_share_the_weights(made: Made) -> None:
    def alone(file: Path | None) -> list[np.ndarray]:
        session = load(made.slots, prepared=False).with_adapter(file).session
        return [session.append(TOKENS[:5])[0].copy(), *(session.append([t])[0].copy() for t in TOKENS[5:9])]

    base, files = load(made.slots, prepared=False), (None, *made.files)
    sessions = [base.with_adapter(file).session for file in files]
    rows = [[session.append(TOKENS[:5])[0].copy()] for session in sessions]
    for token in TOKENS[5:9]:
        for session, row in zip(sessions, rows, strict=True):
            row.append(session.append([token])[0].copy())
    for file, row in zip(files, rows, strict=True):
        np.testing.assert_array_equal(row, alone(file))
    assert isinstance(base.session, CpuSession)
    assert all(isinstance(one, CpuSession) and one.open_graph is base.session.open_graph for one in sessions)
    assert base.session.position == 0


def test_texts_over_one_longrope_graph_have_a_table_each(tmp_path: Path) -> None:
    name = next(name for name, variant in VARIANTS.items() if "long_factor" in str(variant.config))
    export(save(name, tmp_path / "base"), out=tmp_path / "b", recipe="fp32", adapter_slots=["2"], target="x86-cpu")
    model = load(tmp_path / "b", prepared=False)
    long, short = np.arange(3, 3 + LONG_FROM + 4), np.arange(3, 9)

    def alone(tokens: np.ndarray) -> np.ndarray:
        session = load(tmp_path / "b", prepared=False).session
        session.append(tokens)
        return session.append([5])[0].copy()

    one, two = model.with_adapter(None).session, model.with_adapter(None).session
    one.append(long)
    two.append(short)
    np.testing.assert_array_equal(one.append([5])[0], alone(long))
    np.testing.assert_array_equal(two.append([5])[0], alone(short))


SQUARE = factors(64, 64)


def infinite(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[0, 0] = np.inf
    return changed


BAD_FOLDERS: dict[str, tuple[dict[str, np.ndarray], dict[str, object], str]] = {
    "other-target": (lora(*SQUARE, Q_PROJ.replace("q_proj", "o_proj")), {}, "slots for down_proj, q_proj, v_proj"),
    "other-layer": (lora(*SQUARE, Q_PROJ.replace("0", "9")), {}, "where no adapter can be taken"),
    "rank": (lora(*factors(64, 64, 5), Q_PROJ), {"r": 5}, "has rank 5 .*takes at most 4"),
    "wide": (lora(*factors(64, 96), Q_PROJ), {}, r"is \[64, 64\] in the bundle.*made for another model"),
    "long": (lora(*factors(96, 64), Q_PROJ), {}, "made for another model"),
    "uneven": (lora(SQUARE[0], factors(64, 64, 3)[1], Q_PROJ), {}, r"has factors \[64, 3\] and \[4, 64\]"),
    "flat": (lora(SQUARE[0][0], SQUARE[1], Q_PROJ), {}, "needs two matrices"),
    "no-rank": (lora(SQUARE[0][:0], SQUARE[1][:, :0], Q_PROJ), {}, "needs two matrices"),
    "twice": (
        lora(*SQUARE, Q_PROJ) | lora(*SQUARE, Q_PROJ.replace("model", "model.language_model")),
        {},
        "is changed twice",
    ),
    "not-finite": (lora(infinite(SQUARE[0]), SQUARE[1], Q_PROJ), {}, "not finite"),
    "dora": (
        lora(*SQUARE, Q_PROJ) | {f"{Q_PROJ}.lora_magnitude_vector": np.ones(64, np.float32)},
        {"use_dora": True},
        r"magnitudes \(DoRA\)",
    ),
    "whole": (lora(*SQUARE, Q_PROJ) | {"model.norm.weight": np.ones(64, np.float32)}, {}, "model.norm.weight whole"),
    "embedding": (
        {"model.embed_tokens.lora_embedding_A": SQUARE[0], "model.embed_tokens.lora_embedding_B": SQUARE[1]},
        {},
        "where no adapter can be taken",
    ),
    "other-kind": (lora(*SQUARE, Q_PROJ), {"peft_type": "IA3"}, "peft_type"),
}


@pytest.mark.parametrize(("tensors", "config", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_an_adapter_that_no_slot_takes_is_refused(
    made: Made, tensors: dict[str, np.ndarray], config: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder, out = write_adapter(tmp_path / "a", tensors, **config), tmp_path / "out.file"
    with pytest.raises(InputError, match=message):
        write_file(made.slots, folder, out)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def write_values(path: Path, values: dict[str, np.ndarray], model: int) -> Path:
    file = onnxruntime.AdapterFormat()
    file.set_model_version(model)
    file.set_adapter_version(adapter_version(values))
    file.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in values.items()})
    file.export_adapter(str(path))
    return path


NAME_A, NAME_B = "layers.0.attention.qkv.lora_A", "layers.0.attention.qkv.lora_B"
A, B = np.ones((64, 4), np.float32), np.ones((4, 128), np.float32)
BAD_FILES: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "nothing": ({}, "holds no factor"),
    "no-slot": ({"layers.0.mlp.up.lora_A": A}, "has layers.0.mlp.up.lora_A, and the bundle's slots are for"),
    "half": ({NAME_A: A}, "needs both"),
    "ranks": ({NAME_A: A, NAME_B: B[:3]}, "it is of another model"),
    "columns": ({NAME_A: A[:63], NAME_B: B}, "it is of another model"),
    "rows": ({NAME_A: A, NAME_B: B[:, :127].copy()}, "it is of another model"),
    "rank-0": ({NAME_A: A[:, :0], NAME_B: B[:0]}, "has rank 0"),
    "rank-9": (
        {NAME_A: np.ones((64, 9), np.float32), NAME_B: np.ones((9, 128), np.float32)},
        "has rank 9, and the bundle takes 1 to 4 for each of 2 tensors",
    ),
    "float16": ({NAME_A: A.astype(np.float16), NAME_B: B.astype(np.float16)}, "float16"),
    "axes": ({NAME_A: A[None], NAME_B: B}, "it is of another model"),
    "not-finite": ({NAME_A: infinite(A), NAME_B: B}, "not finite"),
}


@pytest.mark.parametrize(("values", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_no_slot_takes_is_refused(
    made: Made, values: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    file = write_values(tmp_path / "a.file", values, model_version(read_manifest(made.slots).source))
    with pytest.raises(InputError, match=message):
        adapter_for(made.slots, file)


def test_a_file_of_another_checkpoint_is_refused(made: Made, tmp_path: Path) -> None:
    other = save("qwen3", tmp_path / "base")
    export(other, out=tmp_path / "b", recipe="int4", threads=1, adapter_slots=["4"], target="x86-cpu")
    with pytest.raises(InputError, match="was made for another checkpoint"):
        load(tmp_path / "b").with_adapter(made.files[0])
    with pytest.raises(InputError, match="takes no adapters; export it with --adapter-slots"):
        load(made.plain).with_adapter(made.files[0])
    with pytest.raises(InputError, match="takes no adapters"):
        write_file(made.plain, made.folders[0], tmp_path / "a.file")


def test_one_file_fits_every_bundle_of_a_checkpoint(made: Made, tmp_path: Path) -> None:
    export(made.base, out=tmp_path / "b", recipe="int8", threads=1, adapter_slots=[made.folders[0]], target="x86-cpu")
    model = load(tmp_path / "b", prepared=False)
    found, plain = (m.session.append(TOKENS)[0].copy() for m in (model.with_adapter(made.files[0]), model))
    coarse = load(made.slots, graph=GRAPHS[0]).with_adapter(made.files[0]).session.append(TOKENS)[0]
    assert np.linalg.norm(found - coarse) < 0.5 * np.linalg.norm(found - plain)


@given(place=st.integers(0, 10**9), flip=st.integers(1, 255), cut=st.booleans())
def test_a_file_that_was_changed_is_refused_or_says_the_same(made: Made, place: int, flip: int, cut: bool) -> None:
    data, other = made.files[0].read_bytes(), made.files[0].with_name("changed.file")
    at = place % len(data)
    other.write_bytes(data[:at] if cut else data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
    whole = adapter_for(made.slots, made.files[0])
    try:
        found = adapter_for(made.slots, other)
    except InputError:
        return
    assert found.values.keys() == whole.values.keys()  # padding, which nothing reads
    for name, value in found.values.items():
        np.testing.assert_array_equal(value.numpy(), whole.values[name].numpy())


BAD_SLOTS: dict[str, tuple[list[str], str, str, str]] = {  # slots, what the recipe begins with, target, message
    "word": (["many"], "", "arm64-cpu", "give RANK"),
    "zero": (["0"], "", "arm64-cpu", "the rank is 0"),
    "huge": (["999999999"], "", "arm64-cpu", "adapters have 1 to 4096"),
    "name": (["4:k_proj,z_proj"], "", "arm64-cpu", "no projection is called 'z_proj'; there are down_proj"),
    "qnn": (["4"], "", "qnn-htp", "target qnn-htp: its graphs are compiled"),
    "transform": (["4"], 'before = ["hadamard"]\n', "arm64-cpu", "--adapter-slots with hadamard"),
    "pruning": (["4"], 'prune = ["depth"]\n', "arm64-cpu", "--adapter-slots with depth"),
}


@pytest.mark.parametrize(("asked", "start", "target", "message"), BAD_SLOTS.values(), ids=BAD_SLOTS)
def test_slots_that_cannot_be_are_refused_by_plan_and_export(
    made: Made,
    asked: list[str],
    start: str,
    target: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"{start}[weights]\nbits = 4\n")
    arguments = [str(made.base), "--recipe", str(recipe), "--target", target]
    arguments += [f"--adapter-slots={one}" for one in asked]
    for verb in (["plan"], ["export", "--out", str(tmp_path / "out")]):
        assert main([*verb, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_projection_of_the_layers_has_a_slot_unless_some_are_named(made: Made) -> None:
    every = decide(made.base, target="arm64-cpu", recipe="int4", adapter_slots=["2"])
    slots = every.plan.adapter_slots
    assert slots is not None
    assert {slot.name.split(".", 2)[2] for slot in slots.slots} == {
        "attention.qkv", "attention.output", "mlp.gate", "mlp.up", "mlp.down"
    }  # fmt: skip
    assert slots.largest_bytes == sum(
        4 * 2 * n * (k + m) for n, k, m in 3 * [(3, 64, 128), (1, 64, 64), (1, 64, 96), (1, 64, 96), (1, 96, 64)]
    )
    told = plan_to_json(every)["adapter_slots"]
    assert isinstance(told, dict)
    assert (told["rank"], len(told["slots"]), told["largest_bytes"]) == (2, 15, slots.largest_bytes)
    assert "adapters     of rank 2 and less for q_proj, k_proj, v_proj, o_proj" in format_plan(every)
    both = decide(made.base, target="arm64-cpu", recipe="int4", adapter_slots=["2:lm_head", made.folders[0]])
    together = both.plan.adapter_slots
    assert together is not None
    assert (together.rank, together.targets) == (4, ("q_proj", "v_proj", "down_proj", "lm_head"))


def test_estimates_are_of_the_graph_without_slots() -> None:
    with_slots, without = (
        decide("demo", target="arm64-cpu", recipe="int4", adapter_slots=asked) for asked in (["4"], [])
    )
    assert instructions.estimates(with_slots) == instructions.estimates(without) != []
    told = "what slots for adapters take, which is not in it"
    assert told in format_plan(with_slots)
    assert told not in format_plan(without)


def test_the_commands(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.onnx_adapter"
    assert main(["adapter", str(made.slots), str(made.folders[1]), "--out", str(file)]) == 0
    assert "9 weights; 6 slots have factors" in capsys.readouterr().out
    assert file.read_bytes() == made.files[1].read_bytes()
    assert main(["adapter", str(made.slots), str(made.folders[0]), "--out", str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["adapter", str(made.slots), str(made.folders[0]), "--out", str(file), "--force"]) == 0
    assert file.read_bytes() == made.files[0].read_bytes()
    capsys.readouterr()
    text = ["run", str(made.slots), "--prompt", "To be", "--max-tokens", "12"]
    spoken = []
    for more in ([], ["--adapter", str(made.files[0])], ["--adapter", str(made.files[1])]):
        assert main([*text, *more]) == 0
        spoken.append(capsys.readouterr().out)
    assert len(set(spoken)) == 3
    (tmp_path / "t.txt").write_text("To be, or not to be, that is the question. " * 9)
    scores = []
    for more in ([], ["--adapter", str(file)]):
        words = ["eval", str(made.slots), "--text", str(tmp_path / "t.txt"), "--context", "32", "--stride", "16"]
        assert main([*words, "--json", *more]) == 0
        scores.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
    assert scores[0] != scores[1]
    assert main(["verify", str(made.slots), "--adapter", str(file)]) == 0
    assert "fits the bundle" in capsys.readouterr().out
    file.write_bytes(file.read_bytes()[:-9])
    assert main(["verify", str(made.slots), "--adapter", str(file)]) == 1
    assert main([*text, "--adapter", str(file)]) == 2
    assert main([*text, "--adapter", str(tmp_path / "none")]) == 2
    assert "is no file" in capsys.readouterr().err
    assert main(["inspect", str(made.slots)]) == 0
    assert "adapters     of rank 4 and less for q_proj, v_proj, down_proj, beside 6 products" in capsys.readouterr().out
    assert main(["inspect", str(made.slots), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]["adapter_slots"]["rank"] == 4
    assert main(["check", str(made.slots), "--target", "arm64-cpu"]) == 0


def test_what_is_counted_may_have_an_adapter(made: Made) -> None:
    asked = {"bundle": str(made.slots), "graph": GRAPHS[0], "context": 16, "prompt": None, "max_tokens": 1}
    asked |= {"calls": [(1, 4)], "by_operator": True, "adapter": str(made.files[0])}
    told, _ = count(asked, {})
    assert told["calls"][0]["operators"]["MatMul"]["nodes"] == 2 * 6


def test_a_target_with_files_of_its_own_keeps_the_slots(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export(made.base, out=out, recipe="int4", threads=1, adapter_slots=[made.folders[0]], target="android-cpu")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(out / "android-cpu" / "model.ort", options)
    names = {value.name for value in session.get_overridable_initializers()}
    assert adapter_for(out, made.files[0]).values.keys() <= names
