"""JSON of strangers: each way to be hostile is one InputError that names the file, soon and in little memory."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from edgepress.errors import InputError
from edgepress.schema import (
    DEEPEST,
    convert,
    parse_json,
    parse_object,
    read_as,
    read_bytes,
    read_config_object,
    read_object,
)

REMEDY = "get another"


@dataclass(frozen=True)
class Shape:
    rows: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    name: str = ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": [-Infinity]}', "-Infinity is no number"),
        ('{"a": 1e999}', "1e999 is too large a number"),
        (f'{{"a": {"9" * 5000}}}', "a number has 5000 digits"),
        ('{"a": "\\ud800"}', "a lone surrogate"),
        ('{"\\udfff": 1}', "a lone surrogate"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
        ("{" + '"a": 0, ' * 20_000 + '"b": 1}', "the key 'a' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested more than 64 levels deep"),
        ("[" + "0," * 4_000_000 + "0]", "holds 4,000,001 values"),
        ("", "Expecting value"),
        ('{"a": 1} x', "Extra data"),
    ],
    ids=lambda value: value[:12] if len(value) > 40 else "",
)
def test_what_python_lets_through_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"config.json .*{message}.*; get another$") as error:
        parse_json(text.encode(), "config.json", REMEDY)
    assert len(str(error.value)) < 500


def test_what_configs_hold_is_read() -> None:
    text = '\ufeff{"model_max_length": 1000000000000000019884624838656, "a": "\\ud83d\\ude00", "b": [1e-5, null, true]}'
    found = parse_object(text.encode(), "config.json", REMEDY)
    assert found == json.loads(text.removeprefix("\ufeff"))
    level = "[" * DEEPEST + "]" * DEEPEST
    assert parse_json(level.encode(), "x", REMEDY) == json.loads(level)


def test_infinity_is_read_in_configs_alone(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_config_object(path, REMEDY) == {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    with pytest.raises(InputError, match="Infinity is no number"):
        read_object(path, REMEDY)
    path.write_text('{"time_step_limit": [-Infinity, NaN]}')
    with pytest.raises(InputError, match="-Infinity is no number"):
        read_config_object(path, REMEDY)


def test_a_schema_names_the_entry_and_what_it_must_be() -> None:
    assert convert({"rows": 3, "more": 1}, Shape, "x.json", REMEDY) == Shape(3)
    for value, message in [
        ({"rows": -1}, r"x.json: rows: Expected `int` >= 1; get another"),
        ({"rows": 2**70}, r"x.json: rows: .*; get another"),
        ({"rows": True}, r"x.json: rows: Expected `int`, got `bool`; get another"),
        ({"rows": 1.5}, r"x.json: rows: Expected `int`, got `float`; get another"),
        ({"rows": 1, "name": None}, r"x.json: name: Expected `str`, got `null`; get another"),
        ({}, r"x.json has no entry 'rows'; get another"),
    ]:
        with pytest.raises(InputError, match=f"^{message}$"):
            convert(value, Shape, "x.json", REMEDY)


def test_only_plain_files_up_to_a_size_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"rows": 5}')
    assert read_as(path, Shape, REMEDY) == Shape(5)
    assert read_bytes(path, REMEDY, largest=11) == b'{"rows": 5}'
    with pytest.raises(InputError, match=r"has 11 bytes, at most 10 are read; get another"):
        read_bytes(path, REMEDY, largest=10)
    path.write_text("[1]")
    with pytest.raises(InputError, match="holds a JSON list, not an object; get another"):
        read_object(path, REMEDY)
    with pytest.raises(InputError, match=r"gone cannot be read \(No such file or directory\); get another"):
        read_bytes(tmp_path / "gone", REMEDY)
    with pytest.raises(InputError, match="get another"):
        read_bytes(tmp_path, REMEDY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_that_nobody_writes_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe is no file; get another"):
        read_bytes(tmp_path / "pipe", REMEDY)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_device_without_an_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"a.json is no file"):
        read_object(tmp_path / "a.json", REMEDY)
