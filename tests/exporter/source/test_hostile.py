"""Recipes and configs of strangers: refused in a moment, by what they say, before anything is made of it."""

import json
import struct
from pathlib import Path

import pytest

from edgepress.errors import InputError
from edgepress.exporter.model.architectures import check_layers
from edgepress.exporter.model.rope import rotated_dimensions
from edgepress.exporter.recipe.reading import read_recipe
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.stored import read_header


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a." * 20_000 + "b = 1", "line 1 has more than 200 dots"),
        ("a = " + "[" * 20_000, "is not a TOML recipe"),
        ("promise = " + "[" * 500 + "]" * 500, "nested more than 64 levels deep|is not a TOML recipe"),
        ("a = " + "9" * 5000, "is not a TOML recipe"),
        ("# " + "x" * (1 << 20), "at most 1,048,576 are read"),
    ],
    ids=["dots", "brackets", "nested", "digits", "large"],
)
def test_a_hostile_recipe_is_one_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_recipe(path)


def test_a_message_quotes_little_of_what_it_is_about(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'weights = "{"x" * 100_000}"')
    with pytest.raises(InputError, match=r"recipe\.toml: \[weights\] must be a table") as error:
        read_recipe(path)
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(("model_type", "key"), [("llama", "num_hidden_layers"), ("gpt2", "n_layer")])
def test_more_layers_than_tensors_are_not_described(model_type: str, key: str) -> None:
    with pytest.raises(InputError, match=f"{key} = 1000000000: the checkpoint has only 20 tensors"):
        check_layers({"model_type": model_type, key: 10**9}, 20)
    check_layers({"model_type": model_type, key: 20}, 20)


def test_numbers_that_no_model_has_are_refused() -> None:
    with pytest.raises(InputError, match="vocab_size = 2147483648: must be at most 2147483647"):
        Config({"vocab_size": 2**31}).integer("vocab_size")
    with pytest.raises(InputError, match="65538 dimensions would be rotated; at most 65536 are"):
        rotated_dimensions(Config({}), 65538)


def test_a_header_with_a_key_20000_times_is_one_error(tmp_path: Path) -> None:
    entry = json.dumps({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    header = ("{" + ", ".join(f'"k{number % 7}": {entry}' for number in range(20_000)) + "}").encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="the key 'k0' occurs twice"):
        read_header(path)


def test_a_header_of_too_many_values_is_not_parsed(tmp_path: Path) -> None:
    header = b"{" + b'"k":{},' * 4_000_000 + b'"z":{}}'
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="holds 8,000,002 values, at most 4,000,000 are read"):
        read_header(path)


def test_a_shape_of_thousands_of_dimensions_is_not_multiplied(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**90] * 20_000, "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(InputError, match=r"a has shape .* not a list of numbers") as error:
        read_header(path)
    assert len(str(error.value)) < 2000
