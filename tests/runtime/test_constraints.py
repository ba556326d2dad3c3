"""Answers of a given form: whatever the model would say, what it says is of that form."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepress.errors import InputError
from edgepress.exporter import export
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.runtime import Beams, Constraint, Model, load
from edgepress.runtime.generation.constraints import Matcher, token_table


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("structured") / "bundle"
    export("demo", out=out, target="x86-cpu", recipe="int4")
    return out


@pytest.fixture(scope="module")
def model(bundle: Path) -> Model:
    return load(bundle, threads=1, prepared=False)


scalars = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -20, "maximum": 300},
        {"type": "string", "maxLength": 6},
        {"type": "string", "enum": ["yes", "no", "<é>", 'a "quote"']},
        {"const": [1, {"a": None}]},
    ]
)


def composed(inner: st.SearchStrategy[dict[str, object]]) -> st.SearchStrategy[dict[str, object]]:
    lists = st.builds(
        lambda one, least: {"type": "array", "items": one, "minItems": least, "maxItems": 3}, inner, st.integers(0, 2)
    )
    names = st.sampled_from(["name", "n", "übung", "with space"])
    objects = st.dictionaries(names, inner, max_size=3).flatmap(
        lambda properties: st.sets(st.sampled_from(sorted(properties)) if properties else st.nothing()).map(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": False,
            }
        )
    )
    return lists | objects | st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=2))


schemas = st.recursive(scalars, composed, max_leaves=5)


def drawn_at_random(vocabulary: int, table: object, constraint: Constraint, seed: int) -> str:
    """What a model of random logits says."""
    matcher, random, said = Matcher(table, constraint), np.random.default_rng(seed), []  # type: ignore[arg-type]
    for _ in range(2000):
        if matcher.is_over:
            break
        token = int(matcher.masked(random.normal(size=vocabulary).astype(np.float32)).argmax())
        if token == 0:
            break
        said += matcher.take(token)
    return str(table.decode_bytes(said).decode())  # type: ignore[attr-defined]


@settings(max_examples=60)
@given(schema=schemas, seed=st.integers(0, 2**31))
def test_what_is_drawn_at_random_is_valid_for_any_schema(schema: dict[str, object], seed: int) -> None:
    table = token_table(DEMO_DIRECTORY / "tokenizer.json", 1024, frozenset({0}))
    said = drawn_at_random(1024, table, Constraint.json_schema(schema), seed)
    jsonschema.validate(json.loads(said), schema)


def test_an_answer_has_the_form_that_was_asked_for(model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {
            "speaker": {"enum": ["ROMEO", "JULIET"]},
            "act": {"type": "integer", "minimum": 1, "maximum": 5},
        },
        "required": ["speaker", "act"],
        "additionalProperties": False,
    }
    answer = model.generate("ROMEO:", constraint=Constraint.json_schema(schema))
    jsonschema.validate(json.loads(answer.text()), schema)
    assert answer.stop_reason == "end"
    again = model.generate("ROMEO:", constraint=Constraint.json_schema(schema), temperature=1.0, seed=3)
    jsonschema.validate(json.loads(again.text()), schema)
    assert re.fullmatch(
        r"[a-f]{3}-[0-9]+!", model.generate("x", constraint=Constraint.regex(r"[a-f]{3}-[0-9]{1,4}!")).text()
    )
    assert model.generate("x", constraint=Constraint.choice(["thou art", "I am"])).text() in {"thou art", "I am"}
    assert re.fullmatch("ab*c", model.generate("x", constraint=Constraint.lark('start: "a" "b"~0..3 "c"')).text())


@pytest.mark.parametrize("text", ["<|endoftext|>", "<|endoftext|>x", "a<|endoftext|>b"])
def test_the_name_of_a_token_in_a_form_is_its_characters(model: Model, text: str) -> None:
    assert 0 in model.tokenizer.encode_plain(text)  # what the tokenizer takes it for
    forms = {
        text: [
            Constraint.choice([text]),
            Constraint.regex(re.escape(text)),
            Constraint.lark(f"start: {json.dumps(text)}"),
        ],
        json.dumps(text): [Constraint.json_schema({"const": text})],
    }
    for wanted, constraints in forms.items():
        for constraint in constraints:
            answer = model.generate("x", constraint=constraint)
            assert (answer.text(), answer.stop_reason) == (wanted, "end")
            assert set(answer.tokens[:-1]).isdisjoint(model.tokenizer.special)
            assert model.generate("x", constraint=constraint, beams=Beams(2), max_tokens=20).text() == wanted
    named = model.generate("x", constraint=Constraint.lark('start: "a" <|endoftext|>'))  # a grammar may mean the token
    assert (named.text(), named.tokens[-1]) == ("a", 0)


def test_schemas_that_its_reader_refuses_are_one_error() -> None:
    deep: dict[str, object] = {}
    for _ in range(200):
        deep = {"items": deep}
    for schema in (deep, {"const": float("nan")}):
        with pytest.raises(InputError, match="the JSON schema cannot be read by llguidance"):
            Constraint.json_schema(schema)
    with pytest.raises(InputError, match="the JSON schema is no JSON object"):
        Constraint.json_schema('{"items":' * 100_000 + "{}" + "}" * 100_000)


_FLOAT = 1 << 53  # the first integers that are no floats are above


@pytest.mark.parametrize(
    ("schema", "number"),
    [
        ({"const": 1234567890123456789}, "const 1234567890123456789"),  # as services number things
        ({"properties": {"a": {"enum": ["x", [{"b": 1 - (1 << 60)}]]}}}, f"enum {1 - (1 << 60)}"),
        ({"type": "integer", "minimum": _FLOAT + 1, "maximum": _FLOAT + 1}, f"minimum {_FLOAT + 1}"),
        ({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 1e30}]}, r"minimum 1e\+30"),
        ({"type": "integer", "maximum": -_FLOAT - 1}, f"maximum {-_FLOAT - 1}"),
        ({"type": "integer", "exclusiveMinimum": 10**400}, "exclusiveMinimum 1000"),
    ],
)
def test_numbers_that_would_be_read_as_others_are_refused(schema: dict[str, object], number: str) -> None:
    with pytest.raises(InputError, match=f"the JSON schema has {number}.*write it as a text"):
        Constraint.json_schema(schema)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "schema",
    [
        {"const": 10**22},
        {"enum": [_FLOAT, -_FLOAT, 0.1 + 0.2]},
        {"type": "integer", "minimum": _FLOAT - 1, "maximum": _FLOAT},
        {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1, "default": (1 << 64) - 1},
        {"type": "number", "minimum": 0.1, "maximum": 0.2},
    ],
)
def test_numbers_at_the_bounds_are_valid(schema: dict[str, object], seed: int) -> None:
    table = token_table(DEMO_DIRECTORY / "tokenizer.json", 1024, frozenset({0}))
    said = drawn_at_random(1024, table, Constraint.json_schema(schema), seed)
    jsonschema.validate(json.loads(said), schema)


def test_what_can_only_follow_takes_no_step_of_its_own(model: Model) -> None:
    calls = []
    schema = {
        "type": "object",
        "properties": {"a property with a long name": {"type": "boolean"}},
        "required": ["a property with a long name"],
        "additionalProperties": False,
    }
    answer = model.generate("x", constraint=Constraint.json_schema(schema))
    before = model.session.append
    model.session.append = lambda *given, **named: calls.append(1) or before(*given, **named)  # type: ignore[method-assign]
    try:
        text = answer.text()
    finally:
        model.session.append = before  # type: ignore[method-assign]
    assert json.loads(text).keys() == schema["properties"].keys()
    assert len(calls) < len(answer.tokens) // 2


def test_masks_do_not_change_the_logits_that_they_are_made_of(model: Model) -> None:
    matcher = Matcher(token_table(model.config.bundle / "tokenizer.json", 1024, model.eos), Constraint.choice(["no"]))
    logits = np.random.default_rng(0).normal(size=1024).astype(np.float32)
    before = logits.copy()
    masked = matcher.masked(logits)
    np.testing.assert_array_equal(logits, before)
    allowed = np.isfinite(masked)
    assert 0 < allowed.sum() < 10
    np.testing.assert_array_equal(masked[allowed], logits[allowed])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constraint.json_schema({"type": "nonsense"}),
        lambda: Constraint.json_schema({"type": "integer", "minimum": 5, "maximum": 1}),
        lambda: Constraint.json_schema({"$ref": "#/nowhere"}),
        lambda: Constraint.json_schema("[1, 2]"),
        lambda: Constraint.json_schema("{"),
        lambda: Constraint.regex("(["),
        lambda: Constraint.lark("nothing"),
        lambda: Constraint.lark("x" * (1 << 21)),
        lambda: Constraint.choice([]),
        lambda: Constraint.choice("yes"),
        lambda: Constraint.choice(["yes", ""]),
    ],
)
def test_a_form_that_cannot_be_met_is_refused_before_the_model_runs(model: Model, make: object) -> None:
    changes = model.changes
    with pytest.raises(InputError):
        model.generate("x", constraint=make())  # type: ignore[operator]
    assert model.changes == changes


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Constraint.regex("[a-"), r"the expression '\[a-' cannot be met: unclosed character class; change it"),
        (lambda: Constraint.lark("start: nope"), r'the grammar cannot be met: at 1\(8\): unknown name: "nope"; change'),
        (
            lambda: Constraint.lark('start: start "a"'),
            r"cannot be met: no token can come next \(NoExtensionBias\); cha",
        ),
    ],
)
def test_what_is_wrong_with_a_form_is_said_in_one_line(model: Model, make: object, said: str) -> None:
    """llguidance adds the lines that it quotes, or the whole state of its parser."""
    with pytest.raises(InputError, match=said) as error:
        model.generate("x", constraint=make()).text()  # type: ignore[operator]
    assert "\n" not in str(error.value)


def test_an_answer_that_is_cut_off_is_said_not_to_have_its_form(model: Model) -> None:
    cut = model.generate("x", constraint=Constraint.regex("[ab]{9}"), max_tokens=2)
    cut.text()
    assert cut.statistics().endswith("ended by max_tokens, before the answer had its form")
    whole = model.generate("x", constraint=Constraint.regex("[ab]{2}[ab]*"), max_tokens=2)
    assert len(whole.text()) >= 2
    assert whole.statistics().endswith("ended by max_tokens")


def test_tokens_that_the_form_alone_gives_are_counted_and_not_timed(model: Model) -> None:
    alone = model.generate("x", constraint=Constraint.regex("Good morrow"))
    assert alone.text() == "Good morrow"
    count = len(alone.tokens)
    assert alone.forced == count - 1 > 0  # the first one is drawn, of those that it may begin with
    assert f"; {count} generated, {count - 1} of them by the form alone; ended by end" in alone.statistics()
    drawn = model.generate("x", constraint=Constraint.regex("Good morrow[ab]{20}"), max_tokens=count + 9)
    drawn.text()
    assert re.search(rf"; {count + 9} generated, \d+ of them by the form alone, [\d.]+ tokens/s; ", drawn.statistics())
    one = model.generate([5], max_tokens=1)
    one.text()
    assert "prompt 1 token in" in one.statistics()
    assert "; 1 generated; ended by max_tokens" in one.statistics()


def test_the_command_line_takes_each_form(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(
        '{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}'
    )
    command = [sys.executable, "-m", "edgepress", "run", str(bundle), "--prompt", "x", "--no-prepare", "--threads", "1"]
    done = subprocess.run(
        [*command, "--json-schema", str(tmp_path / "schema.json")], capture_output=True, text=True, check=True
    )
    assert [type(one) for one in json.loads(done.stdout)] == [bool, bool]
    both = subprocess.run([*command, "--regex", "a", "--choice", "b"], capture_output=True, text=True, check=False)
    assert both.returncode == 2
    wrong = subprocess.run([*command, "--regex", "(["], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "cannot be met" in wrong.stderr
