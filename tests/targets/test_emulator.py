"""Emulated arm64 against this machine: models, bundles, and what goes wrong.

How far they agree depends on the form of the weights. Integer graphs (QDQ) are the same bits everywhere. Products with
float activations (``MatMulNBits``) round activations to int8 in each machine's own way: per block, per row, or not
at all. So float32 and int8 say the same text on every processor; at 4 bits a near tie may fall the other way.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from residual_network import IMAGES, residual_network
from safetensors.numpy import load_file, save_file
from two_graphs import FLOAT16_FILE, FLOAT32_FILE

from edgepress.calls.guest import describe
from edgepress.cli import main
from edgepress.commands import emulator as command
from edgepress.errors import CheckFailed, InputError
from edgepress.exporter import export
from edgepress.runtime import load
from edgepress.runtime.measures.emulated import BundleComparison, compare_bundles
from edgepress.targets.emulator import CPUS, Call, Installation, agreement, compare_model, processors, run

TESTED = ["cortex-a53", "cortex-a76", "neoverse-n2"]
RECIPES = ["fp32", "int8", "int4-128", "int4"]
PROMPT = "ROMEO:\n"
TEXT = (
    "Is the day so young? But new struck nine. Ay me! sad hours seem long. Was that my father that went hence so fast?"
)
TOKENS = 16


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("emulated")
    for recipe in RECIPES:
        export("demo", out=folder / recipe, recipe=recipe)
    return {recipe: folder / recipe for recipe in RECIPES}


@pytest.mark.usefixtures("one_start")
@pytest.mark.parametrize("cpu", TESTED)
def test_the_demo_model_says_on_arm64_what_it_says_here(
    emulator: Installation, bundles: dict[str, Path], cpu: str
) -> None:
    found = dict(
        zip(
            RECIPES,
            compare_bundles(
                emulator, list(bundles.values()), [cpu], prompt=PROMPT, max_tokens=TOKENS, documents=[TEXT], context=64
            ),
            strict=True,
        )
    )
    own = FLOAT32_FILE if cpu == "cortex-a53" else FLOAT16_FILE  # what the emulated processor says of itself decides
    for recipe, comparison in found.items():
        print(f"{recipe}: {comparison.describe()}")
        graphs = (None, None) if recipe == "fp32" else (own, FLOAT32_FILE)
        assert (comparison.graph, comparison.host_graph) == graphs
        assert (f"  graph          {own}, here {FLOAT32_FILE}\n" in comparison.describe()) == (recipe != "fp32")
        assert comparison.cpu == cpu
        assert comparison.versions["machine"] == "aarch64"
        assert len(comparison.host_tokens) == TOKENS
        assert (
            comparison.host_text
            == load(bundles[recipe], graph=comparison.host_graph).generate(PROMPT, max_tokens=TOKENS).text()
        )
        vocabulary = load(bundles[recipe]).config.vocab_size
        assert comparison.agreements["decode"].values == TOKENS * vocabulary
        assert comparison.agreements["prefill"].values == (TOKENS + comparison.prompt_tokens - 1) * vocabulary
    for recipe in ("fp32", "int8", "int4-128"):
        if found[recipe].graph == FLOAT16_FILE:
            _check_that_texts_part_at_a_near_tie(found[recipe], bundles[recipe])
            continue
        assert found[recipe].same_text
        assert found[recipe].text == found[recipe].host_text
    _check_agreement(found["fp32"], least_db=110, bits=1e-5)
    for recipe in ("int8", "int4-128", "int4"):
        _check_agreement(found[recipe], least_db=34, bits=0.01)
    _check_that_texts_part_at_a_near_tie(found["int4"], bundles["int4"])


def _check_agreement(comparison: BundleComparison, *, least_db: float, bits: float) -> None:
    for entry in comparison.agreements.values():
        assert entry.sqnr_db > least_db
        assert entry.top1 is not None
        assert entry.top1 >= 0.9
    assert comparison.bits_per_byte == pytest.approx(comparison.host_bits_per_byte, rel=bits)


def _check_that_texts_part_at_a_near_tie(comparison: BundleComparison, bundle: Path) -> None:
    """Where another token is chosen, this machine holds it for as likely as the difference of the logits allows."""
    index = comparison.first_difference
    if index is None:
        return
    model = load(bundle, threads=1, graph=comparison.host_graph)
    logits = model.prefill([*model.tokenizer.encode(PROMPT), *comparison.host_tokens[:index]])
    here, there = comparison.host_tokens[index], comparison.tokens[index]
    assert logits[here] - logits[there] <= 2 * comparison.agreements["decode"].largest_difference


@pytest.mark.usefixtures("one_start")
def test_a_processor_without_float16_computes_attention_in_it_by_casting_and_refuses_products(
    emulator: Installation, bundles: dict[str, Path], tmp_path: Path
) -> None:
    """Products there would be an illegal instruction: on x86-64 and on newer ARM they run."""
    cpus = ["cortex-a53"]
    [found] = compare_bundles(
        emulator, [bundles["int4"]], cpus, prompt=PROMPT, max_tokens=2, graph=FLOAT16_FILE, documents=[TEXT], context=64
    )
    assert found.graph == FLOAT16_FILE
    _check_agreement(found, least_db=34, bits=0.01)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[weights]\nbits = 4\nblock_size = 32\n[activations]\ntype = "float16"\n', encoding="utf-8")
    export("demo", out=tmp_path / "products", recipe=recipe)
    with pytest.raises(CheckFailed, match=r"not on cortex-a53: .*model.onnx computes in float16, and this processor"):
        compare_bundles(emulator, [tmp_path / "products"], cpus, prompt=PROMPT, max_tokens=2)


@pytest.mark.usefixtures("one_start")
def test_attention_that_overflows_float16_is_kept_in_float32_and_would_give_no_number(
    emulator: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ARM adds the products of queries and keys up in float16; an x86-64 host, in float32, would not notice."""
    checkpoint = tiny_models.save("llama", tmp_path / "checkpoint")
    tensors = load_file(checkpoint / "model.safetensors")
    for part in ("q_proj", "k_proj"):
        tensors[f"model.layers.1.self_attn.{part}.weight"] *= 400
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("accuracy_level = 1\n[weights]\nbits = 8\nblock_size = 32\n", encoding="utf-8")
    kept = export(checkpoint, out=tmp_path / "kept", target="arm64-cpu", recipe=recipe).decisions["kept_layers"]
    assert list(kept) == ["layers.1.attention"]  # type: ignore[call-overload] - a mapping, by name
    [found] = compare_bundles(emulator, [tmp_path / "kept"], ["cortex-a76"], prompt="To be, or not", max_tokens=4)
    assert found.graph == FLOAT16_FILE
    assert all(entry.sqnr_db > 34 for entry in found.agreements.values())
    monkeypatch.setattr(importlib.import_module("edgepress.exporter.export"), "find_overflow", lambda *_, **__: {})
    export(checkpoint, out=tmp_path / "forced", target="arm64-cpu", recipe=recipe)
    with pytest.raises(CheckFailed, match="320 are NaN"):
        compare_bundles(emulator, [tmp_path / "forced"], ["cortex-a76"], prompt="To be, or not", max_tokens=4)


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_start")
def test_a_quantized_network_is_bit_equal_on_every_processor(emulator: Installation, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    onnx.save(residual_network(integer=True), path)
    expected = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": IMAGES})[0]
    assert len(np.unique(expected)) > 50  # it is no constant
    for comparison in compare_model(emulator, path, {"image": IMAGES}, TESTED, batch=7):
        assert comparison.bit_equal
        assert np.array_equal(comparison.outputs["logits_q"], expected)
    truth = ReferenceEvaluator(residual_network(integer=False)).run(None, {"image": IMAGES})[0]
    assert agreement(truth, expected).sqnr_db > 20  # it computes what the network does


@pytest.mark.usefixtures("one_start")
def test_a_float_network_is_not_bit_equal_and_close(emulator: Installation, tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(residual_network(integer=False), path)
    [comparison] = compare_model(emulator, path, {"image": IMAGES}, ["cortex-a76"])
    assert not comparison.bit_equal
    assert comparison.agreements["logits"].sqnr_db > 100
    truth = ReferenceEvaluator(onnx.load(path)).run(None, {"image": IMAGES})[0]
    assert agreement(truth, comparison.outputs["logits"]).sqnr_db > 100


@pytest.mark.usefixtures("one_start")
def test_processors_take_different_kernels(emulator: Installation, tmp_path: Path) -> None:
    """Without dot products, and with them, 4-bit products are computed in other ways."""
    generator = np.random.default_rng(7)
    rows, columns = 64, 256
    inputs = ["x", "codes", "scales"]
    node = onnx.helper.make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=columns, N=rows, bits=4, block_size=32, accuracy_level=4
    )
    constants = [
        onnx.numpy_helper.from_array(generator.integers(0, 256, (rows, 8, 16), np.uint8), "codes"),
        onnx.numpy_helper.from_array(generator.uniform(0.5, 1, (rows, 8)).astype(np.float32), "scales"),
    ]
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", columns])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", rows])],
        constants,
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "product.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    x = generator.normal(0, 1, (1, columns)).astype(np.float32)
    old, new = compare_model(emulator, path, {"x": x}, ["cortex-a53", "cortex-a76"])
    assert not np.array_equal(old.outputs["y"], new.outputs["y"])
    assert agreement(old.outputs["y"], new.outputs["y"]).sqnr_db > 30


@pytest.mark.parametrize(
    ("inputs", "batch", "message"),
    [
        ({"picture": IMAGES}, None, "picture"),
        ({"image": IMAGES[0]}, None, "rank"),
        ({"image": IMAGES.astype(np.float64)}, None, "double"),
        ({"image": IMAGES}, 0, "batch is 0"),
    ],
)
def test_what_the_host_cannot_run_is_not_emulated(
    tmp_path: Path, inputs: dict[str, NDArray[np.generic]], batch: int | None, message: str
) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(residual_network(integer=False), path)
    absent = Installation(tmp_path, tmp_path, tmp_path, {})
    with pytest.raises(InputError, match=f"(?i){message}"):
        compare_model(absent, path, inputs, [], batch=batch)


@pytest.mark.usefixtures("one_start")
def test_names_that_a_file_could_not_have_come_back(emulator: Installation, tmp_path: Path) -> None:
    names = ["/layer/out:0", "file"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["a/b"], names[:1]), onnx.helper.make_node("Abs", ["a/b"], names[1:])],
        "names",
        [onnx.helper.make_tensor_value_info("a/b", onnx.TensorProto.INT32, [3])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT32, [3]) for name in names],
    )
    path = tmp_path / "names.onnx"
    opsets = [onnx.helper.make_opsetid("", 21)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    [found] = compare_model(emulator, path, {"a/b": np.array([1, -2, 3], np.int32)}, ["cortex-a53"])
    assert {name: value.tolist() for name, value in found.outputs.items()} == {
        "/layer/out:0": [-1, 2, -3],
        "file": [1, 2, 3],
    }
    assert found.bit_equal


# ---- processors and programs -----------------------------------------------------------------------------------------


def test_it_knows_the_processors_that_are_described(emulator: Installation) -> None:
    assert set(CPUS) <= set(processors(emulator))


def test_an_unknown_processor_names_the_nearest(emulator: Installation) -> None:
    with pytest.raises(InputError, match=r"no processor 'cortex-a77'; did you mean cortex-a7\d\?"):
        run(emulator, "cortex-a77", [Call(describe)])


def test_a_program_that_dies_is_told_with_its_last_words(emulator: Installation) -> None:
    with pytest.raises(CheckFailed, match=r"died on cortex-a53 with exit code 1: .*TypeError"):
        run(emulator, "cortex-a53", [Call(os.abort)])  # type: ignore[arg-type]


def test_a_program_that_takes_too_long_is_ended(emulator: Installation) -> None:
    with pytest.raises(CheckFailed, match=r"did not end on cortex-a53 within 0\.05 s"):
        run(emulator, "cortex-a53", [Call(describe)], timeout=0.05)


def test_the_environment_of_the_host_stays_outside(emulator: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nonexistent")
    monkeypatch.setenv("QEMU_CPU", "no-such-cpu")
    [(told, _)] = run(emulator, "cortex-a53,pmu=off", [Call(describe)])
    assert told["machine"] == "aarch64"


# ---- the command -----------------------------------------------------------------------------------------------------


def edgepress(emulator: Installation, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "edgepress", "emulator", *map(str, words)]
    if not (folder / "emulator").exists():
        (folder / "emulator").symlink_to(emulator.directory)
    environment = {**os.environ, "EDGEPRESS_CACHE": str(folder)}
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False)


def test_the_command_compares_and_holds_to_what_is_required(
    emulator: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, inputs = tmp_path / "float.onnx", tmp_path / "inputs.npz"
    onnx.save(residual_network(integer=False), path)
    np.savez(inputs, image=IMAGES[:2])
    (tmp_path / "emulator").symlink_to(emulator.directory)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))

    def absent() -> None:
        raise InputError("no emulator of whole machines; run: a command")

    monkeypatch.setattr("edgepress.targets.emulator.find_system", absent)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = ["run", str(path), "--inputs", str(inputs), "--cpu", "cortex-a53", "--json", "--count-instructions"]
    code = command.run(parser.parse_args([*words, "--min-sqnr", "100", "--require", "bit-equal"]))
    printed = capsys.readouterr()
    skipped, broken = printed.err.splitlines()  # of the two requirements one is met
    assert code == 1
    assert skipped == "instructions are not counted: no emulator of whole machines; run: a command"
    assert broken.startswith("edgepress: cortex-a53: logits is not bit-equal: SQNR 1")
    [told] = json.loads(printed.out)
    assert told["cpu"] == "cortex-a53"
    assert told["agreements"]["logits"]["sqnr_db"] > 100
    assert told["instructions"] is None


def test_the_command_runs_a_bundle(emulator: Installation, bundles: dict[str, Path], tmp_path: Path) -> None:
    words = ("run", bundles["int8"], "--prompt", PROMPT, "--max-tokens", 4, "--cpu", "cortex-a53")
    good = edgepress(emulator, tmp_path, *words, "--require", "same-text")
    assert good.returncode == 0, good.stderr
    assert "greedy text    the same, 4 tokens" in good.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "BUNDLE"), "needs --prompt"),
        (("run", "BUNDLE", "--prompt", "x", "--inputs", "x.npz"), "takes no --inputs"),
        (("run", "MODEL"), "needs --inputs"),
        (("run", "MODEL", "--inputs", "MODEL"), "is no .npz file"),
        (("run", "MODEL", "--inputs", "x.npz", "--require", "same-text"), "has no text"),
        (("run", "BUNDLE", "--prompt", "x", "--cpu", "z80"), "no processor 'z80'"),
        (("run", "BUNDLE", "--prompt", "x", "--max-tokens", "0"), "max_tokens is 0"),
        (("run", "BUNDLE", "--prompt", "x", "--threads", "0"), "threads is 0"),
    ],
)
def test_wrong_usage_is_said_in_a_line(
    emulator: Installation,
    bundles: dict[str, Path],
    tmp_path: Path,
    words: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = tmp_path / "float.onnx"
    onnx.save(residual_network(integer=False), model)
    (tmp_path / "emulator").symlink_to(emulator.directory)
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    known = {"BUNDLE": bundles["fp32"], "MODEL": model}
    assert main(["emulator", *(str(known.get(word, word)) for word in words)]) == 2
    said = capfd.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("BUNDLE", "--context", "4"), "give --count-instructions with them"),
        (("BUNDLE", "--prompt", "x", "--prefill", "4"), "give --count-instructions with them"),
        (("BUNDLE", "--prompt", "x", "--count-instructions", "--by-operator"), "splits the calls of --context"),
        (("BUNDLE", "--count-instructions"), "which needs --prompt"),
        (("BUNDLE", "--count-instructions", "--context", "4", "--min-sqnr", "0"), "nothing is compared without"),
        (("MODEL", "--inputs", "x.npz", "--count-instructions", "--context", "4"), "takes no --context"),
    ],
)
def test_what_is_counted_of_a_call_goes_with_what_is_run(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    (tmp_path / "model.onnx").touch()
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    known = {"BUNDLE": str(tmp_path), "MODEL": str(tmp_path / "model.onnx")}
    with pytest.raises(InputError, match=message):
        command.run(parser.parse_args(["run", *(known.get(word, word) for word in words)]))


def test_without_an_emulator_the_command_names_the_setup(tmp_path: Path, bundles: dict[str, Path]) -> None:
    line = [sys.executable, "-m", "edgepress", "emulator", "run", str(bundles["fp32"]), "--prompt", "x"]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(tmp_path)}
    result = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 2
    assert "run: edgepress emulator setup" in result.stderr
