"""genai_config.json of strangers: numbers and names out of range are refused before anything is made of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepress.errors import InputError
from edgepress.runtime.config import read_config

Change = Callable[[dict[str, Any]], object]


def bundle(folder: Path, change: Change) -> Path:
    decoder = {
        "filename": "model.onnx",
        "head_size": 16,
        "num_key_value_heads": 2,
        "num_hidden_layers": 3,
        "inputs": {"past_key_names": "past.%d.key", "past_value_names": "past.%d.value"},
        "outputs": {"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
    }
    model = {"context_length": 64, "vocab_size": 300, "eos_token_id": [2], "decoder": decoder}
    change(model)
    (folder / "genai_config.json").write_text(json.dumps({"model": model, "search": {}}))
    (folder / "model.onnx").write_bytes(b"")
    return folder


def test_names_have_the_layers_number_in_them(tmp_path: Path) -> None:
    config = read_config(bundle(tmp_path, lambda _: None))
    expected = [(f"past.{layer}.{part}", f"present.{layer}.{part}") for layer in range(3) for part in ("key", "value")]
    assert [(state.input, state.output) for state in config.states] == expected
    assert {(state.shape, state.type, state.kind) for state in config.states} == {
        (("batch", 2, "past", 16), "float32", "key-value")
    }
    assert config.states_from == "genai_config.json"
    assert (config.eos, config.bos, config.long_from) == (frozenset({2}), None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model["decoder"].update(head_size=-1), "model.decoder.head_size: Expected `int` >= 1"),
        (lambda model: model["decoder"].update(num_hidden_layers=10**9), "num_hidden_layers: Expected `int` <= 10000"),
        (lambda model: model["decoder"].update(num_key_value_heads=2**63), "num_key_value_heads"),
        (lambda model: model.update(context_length=10**9), "context_length: Expected `int` <= 16777216"),
        (lambda model: model.update(vocab_size=1.5), "vocab_size: Expected `int`, got `float`"),
        (lambda model: model.update(vocab_size=float("nan")), "NaN is no number"),
        (lambda model: model.update(eos_token_id=["x"]), "eos_token_id"),
        (lambda model: model.update(bos_token_id="\ud800"), "a lone surrogate"),
        (lambda model: model["decoder"]["inputs"].update(past_key_names="%1000000000d"), "inputs.past_key_names"),
        (lambda model: model["decoder"]["inputs"].update(past_key_names="%d" * 2), "inputs.past_key_names"),
        (lambda model: model["decoder"]["inputs"].update(past_value_names="%(x)s"), "inputs.past_value_names"),
        (lambda model: model["decoder"]["outputs"].update(present_key_names="x" * 10**6 + "%d"), "present_key_names"),
        (lambda model: model["decoder"].pop("inputs"), "has no entry 'model.decoder.inputs'"),
        (lambda model: model.update(decoder=[]), "model.decoder: Expected `object`, got `array`"),
    ],
)
def test_what_is_out_of_range_is_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_config(bundle(tmp_path, change))
    assert "genai_config.json" in str(error.value)
    assert str(error.value).endswith("export the bundle again")
