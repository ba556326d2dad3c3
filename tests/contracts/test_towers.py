"""The contract of text towers: the text model of a whole is exported, and gives the whole's logits of text.

The whole is transformers' own class; nothing of it is used but its tokens in and its logits out.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from sessions import graph_logits
from tiny_wrappers import WRAPPERS, save_wrapper
from variants import VOCABULARY

from edgepress.errors import InputError
from edgepress.exporter import decide, export
from edgepress.exporter.decide.report import format_plan, plan_to_json
from edgepress.exporter.model.architectures import describe
from edgepress.exporter.model.network import logits
from edgepress.exporter.model.reading import read_decoder
from edgepress.exporter.model.reference import Reference
from edgepress.exporter.model.weights import read_weight
from edgepress.exporter.source.checkpoint import Checkpoint
from edgepress.exporter.source.towers import text_config, text_model

TOLERANCE = 1e-5  # of the largest logit
PROMPT, STEPS = 28, 32
TOKENS = np.random.default_rng(0).integers(3, VOCABULARY, PROMPT + STEPS)
EXPORTED = (
    "gemma3",
    "gemma4",
    "qwen3_vl",
    "llava-version5-tied",
    "qwen2_vl-flat",
)  # each way of naming tensors and configs


class Wholes:
    """Makes each whole once."""

    def __init__(self, home: Path) -> None:
        self.home = home
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()

    @cache  # noqa: B019 - lives as long as the session
    def made(self, name: str) -> tuple[Path, np.ndarray]:
        """Its folder, and the logits of ``TOKENS`` from transformers' model."""
        folder = self.home / name
        folder.mkdir()
        model = save_wrapper(name, folder)
        with torch.inference_mode():
            found = model(input_ids=torch.from_numpy(TOKENS)[None], use_cache=False).logits[0].numpy()
        return folder, found


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Wholes:
    return Wholes(tmp_path_factory.mktemp("wholes"))


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_text_model_gives_the_logits_of_the_whole(wholes: Wholes, name: str) -> None:
    folder, expected = wholes.made(name)
    checkpoint = Checkpoint.open(folder)
    decoder = read_decoder(checkpoint)
    found = logits(decoder, lambda weight: torch.from_numpy(read_weight(checkpoint, weight)), TOKENS)
    assert relative(found, expected) < TOLERANCE
    assert relative(Reference(folder).logits(TOKENS), expected) < TOLERANCE, "what --check compares with"
    assert checkpoint.left_out


@pytest.mark.parametrize("name", EXPORTED)
def test_a_bundle_of_it_prefills_and_decodes_as_the_whole(wholes: Wholes, name: str, tmp_path: Path) -> None:
    folder, expected = wholes.made(name)
    manifest = export(folder, out=tmp_path / "bundle", target="arm64-cpu", recipe="fp32", threads=1, check=True)
    pieces = [TOKENS[:PROMPT], *np.split(TOKENS[PROMPT:], STEPS)]
    assert relative(graph_logits(tmp_path / "bundle", pieces), expected) < TOLERANCE
    assert any(note.startswith(f"the text model of {WRAPPERS[name].model_type}") for note in manifest.notes)


def test_the_plan_lists_what_is_left_out(wholes: Wholes) -> None:
    folder, _ = wholes.made("qwen2_5_vl")
    prepared = decide(folder, target="arm64-cpu", recipe="int4")
    found = plan_to_json(prepared)["text_of"]
    names = transformers.AutoModelForMultimodalLM.from_pretrained(folder).state_dict()
    visual = [name for name in names if ".visual." in name]
    assert found == {
        "model_type": "qwen2_5_vl",
        "left_out": {"visual": {"tensors": len(visual), "bytes": found["left_out"]["visual"]["bytes"]}},
    }
    assert found["left_out"]["visual"]["bytes"] == sum(
        tensor.nbytes for tensor in Checkpoint.open(folder).left_out.values()
    )
    printed = format_plan(prepared)
    assert f"left out, as text does not need it: visual ({len(visual)} tensors" in printed
    assert "mrope_section = [2, 3, 3]: a token of text has the same position in every axis" in printed


def test_a_text_model_of_any_name_is_found() -> None:
    whole = {"model_type": "someones_vl", "text_config": {"model_type": "someones", "hidden_size": 8}}
    found = text_model(whole)
    assert found is not None
    assert (found.whole, found.section, found.config["model_type"]) == ("someones_vl", "text_config", "someones")


def test_a_message_names_the_section(wholes: Wholes) -> None:
    folder, _ = wholes.made("smolvlm")
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.where == f"{folder / 'config.json'}: text_config"


@pytest.mark.parametrize("name", ["Gemma3ForSequenceClassification", "ColPaliForRetrieval", "CLIPModel"])
def test_what_writes_no_text_is_no_tower(name: str) -> None:
    values = {"architectures": [name], "model_type": "some", "text_config": {"model_type": "llama"}}
    assert text_model(values) is None
    assert text_config(values) is values


@pytest.mark.parametrize(
    ("outer", "inner", "tied"),
    [(True, False, True), (False, True, True), (False, None, False), (None, True, True), (None, None, None)],
)
def test_either_config_ties_the_head(outer: bool | None, inner: bool | None, tied: bool | None) -> None:
    values = {
        "model_type": "llava",
        "tie_word_embeddings": outer,
        "text_config": {"model_type": "llama", "tie_word_embeddings": inner},
    }
    assert text_config(values).get("tie_word_embeddings") is tied


def test_a_head_that_no_config_speaks_of_is_tied_when_there_is_none() -> None:
    found = text_model({"model_type": "llava", "text_config": {"model_type": "llama"}})
    assert found is not None
    assert found.with_head(["model.embed_tokens.weight"]).config["tie_word_embeddings"] is True
    assert found.with_head(["model.embed_tokens.weight", "lm_head.weight"]).config["tie_word_embeddings"] is False


def test_what_the_whole_does_not_do_behind_its_head_is_noted() -> None:
    granite = {"model_type": "granite", "logits_scaling": 8.0}
    found = text_model({"model_type": "llava_next", "text_config": granite})
    assert found is not None
    assert found.config["logits_scaling"] == 1.0
    assert found.notes[0].startswith("logits_scaling = 8.0: transformers' class of llava_next does not apply it")
    capped = {"model_type": "gemma4_text", "final_logit_softcapping": 30.0}
    assert text_config({"model_type": "gemma4", "text_config": capped})["final_logit_softcapping"] == 30.0


def test_paligemma_is_refused_as_its_prompts_are_attended_both_ways() -> None:
    values = text_config({"model_type": "paligemma", "text_config": {"model_type": "gemma"}})
    with pytest.raises(InputError, match="use_bidirectional_attention = True"):
        describe(values, ())


def test_how_a_whole_is_quantized_is_how_its_text_model_is() -> None:
    how = {"quant_method": "gptq", "bits": 4}
    values = {"model_type": "llava", "quantization_config": how, "text_config": {"model_type": "llama"}}
    assert text_config(values)["quantization_config"] == how
