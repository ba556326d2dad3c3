"""A bundle runs: cache, pieces of a prompt, text, limits; held against transformers and onnxruntime-genai."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import genai_builder
import numpy as np
import onnxruntime_genai
import pytest
import torch
import transformers
from bundles import sign
from tiny_models import save

from edgepress.bundle.manifest import read_manifest
from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.runtime import Model, load
from edgepress.runtime.config import read_config
from edgepress.runtime.sessions.cpu import CpuSession

PROMPT = [5, 17, 200, 33, 8, 90, 121, 64, 7, 250, 11]
Bundle = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Export a tiny random model, once for each variant and recipe; its checkpoint lies beside it."""
    made: dict[tuple[str, str], Path] = {}

    def make(variant: str, recipe: str) -> Path:
        if (variant, recipe) not in made:
            directory = tmp_path_factory.mktemp("bundle")
            save(variant, directory / "checkpoint")
            export(directory / "checkpoint", out=directory / "bundle", target="x86-cpu", recipe=recipe)  # one graph
            made[variant, recipe] = directory / "bundle"
        return made[variant, recipe]

    return make


def opened(path: Path, **arguments: object) -> Model:
    return load(path, **({"threads": 1, "prepared": False} | arguments))  # type: ignore[arg-type] - keywords of any kind are the point


def reference(path: Path) -> torch.nn.Module:
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent / "checkpoint", dtype=torch.float32).eval()


@pytest.mark.parametrize("variant", ["llama", "gpt2"])
def test_prefill_and_decode_give_the_reference_logits(bundle: Bundle, variant: str) -> None:
    path = bundle(variant, "fp32")
    model, tokens = opened(path), [*PROMPT, 44, 9, 101]
    ours = [model.prefill(PROMPT).copy(), *(model.decode(token).copy() for token in tokens[len(PROMPT) :])]
    with torch.inference_mode():
        expected = reference(path)(torch.tensor([tokens])).logits[0, len(PROMPT) - 1 :].numpy()
    np.testing.assert_allclose(np.stack(ours), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("variant", ["llama", "mistral-window"])
def test_the_size_of_the_pieces_changes_nothing(bundle: Bundle, variant: str) -> None:
    path = bundle(variant, "fp32")
    tokens = np.random.default_rng(0).integers(3, 320, 50).tolist()
    whole = opened(path, prefill_chunk=50).prefill(tokens).copy()
    for chunk in (1, 7, 16, 49):
        np.testing.assert_allclose(opened(path, prefill_chunk=chunk).prefill(tokens), whole, atol=2e-5)


@pytest.mark.parametrize("length", [48, 49, 60])  # longrope changes its table beyond 48
def test_the_pieces_of_a_long_prompt_agree_on_longrope(bundle: Bundle, length: int) -> None:
    path = bundle("llama-longrope", "fp32")
    assert read_config(path).long_from == 48
    tokens = np.random.default_rng(0).integers(3, 320, length).tolist()
    with torch.inference_mode():
        expected = reference(path)(torch.tensor([tokens])).logits[0, -1].numpy()
    model = opened(path, prefill_chunk=16)
    for _ in range(2):  # the second time after a longer text
        model.reset()
        np.testing.assert_allclose(model.prefill(tokens), expected, atol=1e-4 * np.abs(expected).max())
        model.decode(5)


@pytest.mark.parametrize("prepared", [False, True])
def test_scores_of_all_positions_are_those_of_single_steps(
    bundle: Bundle, prepared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path))
    path = bundle("llama", "fp32")
    session = CpuSession(read_config(path), threads=1, context=64, prepared=prepared)
    scores = session.append(PROMPT, 0).copy()  # (length, vocab)
    assert scores.shape == (len(PROMPT), 320)
    session.reset()
    np.testing.assert_allclose(session.append(PROMPT, 4), scores[4:], atol=1e-5)
    model = opened(path)
    steps = np.stack([model.decode(token).copy() for token in PROMPT])
    np.testing.assert_allclose(scores, steps, atol=2e-5)


def test_a_bundle_from_before_there_was_a_list_of_states_runs_as_it_did(bundle: Bundle, tmp_path: Path) -> None:
    listed = bundle("llama", "int4")
    before = shutil.copytree(listed, tmp_path / "before")
    manifest = replace(read_manifest(before), states=(), rotations=None)
    (before / "manifest.json").write_text(manifest.serialize(), encoding="utf-8")
    assert read_config(before).states == read_config(listed).states == read_manifest(listed).states
    np.testing.assert_array_equal(opened(before).prefill(PROMPT), opened(listed).prefill(PROMPT))


def test_a_bundle_of_onnxruntime_genais_builder_runs_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    """Its graph gives the logits of every position at each call, and its bundle has no list of states."""
    ours, built = bundle("qwen3", "fp32"), tmp_path / "built"
    words = ["-e", "cpu", "-p", "fp32", "-i", ours.parent / "checkpoint", "-o", built, "-c", tmp_path / "cache"]
    genai_builder.build(*words)
    theirs, expected = opened(built).session, opened(ours).session
    assert {state.shape for state in theirs.states} == {state.shape for state in expected.states}
    for tokens, first in ((PROMPT, -1), (PROMPT, 0), ([7], -1), (PROMPT, -3)):
        wanted = expected.append(tokens, first)
        np.testing.assert_allclose(theirs.append(tokens, first), wanted, atol=1e-5 * np.abs(wanted).max())
    for session in (theirs, expected):
        session.roll_back(12)
    np.testing.assert_allclose(theirs.append(PROMPT), expected.append(PROMPT), atol=1e-4)


def test_greedy_tokens_are_transformers_own(bundle: Bundle) -> None:
    path = bundle("llama", "fp32")
    generation = opened(path).generate(PROMPT, max_tokens=30)
    generation.text()
    output = reference(path).generate(torch.tensor([PROMPT]), max_new_tokens=30, do_sample=False)
    assert generation.tokens == output[0, len(PROMPT) :].tolist()


def test_greedy_tokens_are_onnxruntime_genais(bundle: Bundle) -> None:
    path = bundle("llama", "int4")
    model = onnxruntime_genai.Model(str(path))
    params = onnxruntime_genai.GeneratorParams(model)
    params.set_search_options(max_length=len(PROMPT) + 30, do_sample=False)
    generator = onnxruntime_genai.Generator(model, params)
    generator.append_tokens(np.array(PROMPT, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    generation = opened(path).generate(PROMPT, max_tokens=30)
    generation.text()
    ended = [token for token in generation.tokens if token not in read_config(path).eos]  # theirs leaves it out
    assert ended == generator.get_sequence(0).tolist()[len(PROMPT) :]


def test_text_streams_and_adds_up(bundle: Bundle) -> None:
    model = opened(bundle("llama", "int4"))
    generation = model.generate("To be, or", max_tokens=25)
    pieces = list(generation)
    assert len(pieces) > 3
    assert all(pieces)
    ended = [token for token in generation.tokens if token not in model.config.eos]
    prompt = model.tokenizer.encode("To be, or")
    assert model.tokenizer.decode(prompt) + "".join(pieces) == model.tokenizer.decode(prompt + ended)
    assert generation.stop_reason in ("max_tokens", "end")
    assert generation.timings.run <= generation.timings.prefill + generation.timings.decode
    assert "prompt" in generation.statistics()


def test_a_stop_string_over_several_tokens_ends_the_text_before_it(bundle: Bundle) -> None:
    model = opened(bundle("llama", "int4"))
    text = model.generate("To be", max_tokens=25).text()
    stop = text[6:12]
    generation = model.generate("To be", max_tokens=25, stop=["never there", stop])
    assert generation.text() == text[: text.index(stop)]
    assert generation.stop_reason == "stop"


def test_a_seed_repeats_a_text_and_another_changes_it(bundle: Bundle) -> None:
    model = opened(bundle("llama", "int4"))

    def text(seed: int) -> str:
        return model.generate("To be", max_tokens=20, temperature=1.5, top_k=50, seed=seed).text()

    assert text(1) == text(1) != text(2)


def test_it_ends_at_an_end_token_and_the_config_may_list_several(bundle: Bundle, tmp_path: Path) -> None:
    path = bundle("llama", "int4")
    free = opened(path).generate(PROMPT, max_tokens=10)
    free.text()
    copy = shutil.copytree(path, tmp_path / "copy")
    config = json.loads((copy / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = [319, free.tokens[4]]
    (copy / "genai_config.json").write_text(json.dumps(config))
    sign(copy)
    generation = opened(copy).generate(PROMPT, max_tokens=10)
    generation.text()
    assert generation.stop_reason == "end"
    assert generation.tokens == free.tokens[: free.tokens.index(free.tokens[4]) + 1]


def test_the_context_is_filled_to_its_last_token_and_no_further(bundle: Bundle) -> None:
    model = opened(bundle("llama", "int4"), context=len(PROMPT) + 5)
    generation = model.generate(PROMPT)
    generation.text()
    if generation.stop_reason == "context":
        assert len(generation.tokens) == 6  # the last one needs no place: nothing comes after it
    with pytest.raises(InputError, match=r"17 tokens do not fit in the context of 16; .*\(the model allows 128\)"):
        model.generate([5] * 17)
    model.reset()
    model.prefill([5] * 16)
    with pytest.raises(InputError, match="1 tokens after 16 in the cache do not fit in the context of 16"):
        model.decode(5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 129}, "context is 129; the model in .* allows at most 128"),
        ({"context": 0}, "context is 0; it must be at least 1"),
        ({"threads": 0}, "threads is 0"),
        ({"prefill_chunk": 0}, "prefill_chunk is 0"),
    ],
)
def test_numbers_out_of_range_are_refused(bundle: Bundle, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(bundle("llama", "int4"), **arguments)


@pytest.mark.parametrize(
    ("prompt", "arguments", "message"),
    [
        ([], {}, "the prompt has no tokens"),
        ("", {}, "the prompt has no tokens"),
        ([5], {"max_tokens": 0}, "max_tokens is 0"),
        ([5], {"stop": "text"}, "give a list"),
        ([5], {"temperature": -1.0}, "temperature is -1.0"),
        ([5, 320], {}, "token 320 is not in the vocabulary of 320"),
        ([-1], {}, "token -1 is not in the vocabulary of 320"),
    ],
)
def test_prompts_and_settings_that_cannot_be_are_refused(
    bundle: Bundle, prompt: str | list[int], arguments: dict[str, object], message: str
) -> None:
    model = opened(bundle("llama", "int4"))
    with pytest.raises(InputError, match=message):
        model.generate(prompt, **arguments).text()  # type: ignore[arg-type] - keywords of any kind are the point


def damage(path: Path, name: str, content: str | None) -> None:
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_text(content)


@pytest.mark.parametrize("filename", ["../llama/model.onnx", "/etc/hostname", "sub/model.onnx"])
def test_a_graph_outside_of_the_bundle_is_refused(bundle: Bundle, tmp_path: Path, filename: str) -> None:
    copy = shutil.copytree(bundle("llama", "int4"), tmp_path / "copy")
    config = json.loads((copy / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = filename
    (copy / "genai_config.json").write_text(json.dumps(config))
    sign(copy)
    with pytest.raises(InputError, match="which is not in"):
        opened(copy)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("genai_config.json", None, r"genai_config\.json is missing"),
        ("genai_config.json", "{", r"genai_config\.json cannot be read: it is not JSON"),
        ("genai_config.json", "{}", r"genai_config\.json has no entry 'model'"),
        ("model.onnx", None, r"model\.onnx is missing, though genai_config\.json names it"),
        ("model.onnx", "not a graph", r"model\.onnx is damaged"),
    ],
)
def test_a_damaged_bundle_is_named(
    bundle: Bundle, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    copy = shutil.copytree(bundle("llama", "int4"), tmp_path / "copy")
    damage(copy, name, content)
    sign(copy)
    with pytest.raises(InputError, match=message):
        opened(copy)


def test_no_directory_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        opened(tmp_path / "none")


def test_a_config_that_names_other_inputs_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle("llama", "int4"), tmp_path / "copy")
    text = (copy / "genai_config.json").read_text().replace('"num_hidden_layers": 3', '"num_hidden_layers": 2')
    (copy / "genai_config.json").write_text(text)
    sign(copy)
    with pytest.raises(InputError, match=r"disagree on past_key_values\.2\.key, past_key_values\.2\.value"):
        opened(copy)


@pytest.mark.parametrize(
    ("section", "key", "value", "named"),
    [
        (None, "vocab_size", 1000, "logits"),
        ("decoder", "num_key_value_heads", 3, r"past_key_values\.0\.key"),
        ("decoder", "head_size", 8, r"past_key_values\.0\.value"),
    ],
)
def test_a_config_with_other_shapes_than_the_graph_is_refused(
    bundle: Bundle, tmp_path: Path, section: str | None, key: str, value: int, named: str
) -> None:
    copy = shutil.copytree(bundle("llama", "int4"), tmp_path / "copy")
    content = json.loads((copy / "genai_config.json").read_text())
    (content["model"] if section is None else content["model"][section])[key] = value
    (copy / "genai_config.json").write_text(json.dumps(content))
    sign(copy)
    with pytest.raises(InputError, match=rf"genai_config\.json disagree on .*{named}"):
        opened(copy)
