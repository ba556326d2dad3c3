"""Functions as tools: the schema that transformers makes of them, calls that are held to it, and turns that go on."""

import enum
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, Optional, Union

import jsonschema
import numpy as np
import pytest
from call_templates import AFTER, BEFORE, TEMPLATES
from chat_bundles import chat_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils import get_json_schema

from edgepress.chat.spans.finding import find_format
from edgepress.chat.spans.kinds import ToolCall
from edgepress.chat.spans.splitting import Splitter
from edgepress.chat.template import ChatTemplate
from edgepress.chat.tools import Tools, function_schema, read_functions
from edgepress.errors import InputError
from edgepress.exporter.demo import DEMO_DIRECTORY
from edgepress.runtime import Constraint, Model, Sampling, load
from edgepress.runtime.generation.constraints import Matcher, token_table
from edgepress.runtime.generation.tool_calls import ToolGuide
from edgepress.runtime.turns import conversation
from edgepress.runtime.turns.conversation import Conversation
from edgepress.text.tokenizer import read_tokenizer


class Unit(enum.Enum):
    CELSIUS = "celsius"
    FAHRENHEIT = "fahrenheit"


def get_weather(place: str, days: int = 1, unit: Unit = Unit.CELSIUS) -> dict[str, Any]:
    """Returns the weather.

    It is made up.

    Args:
        place: A city,
            such as Zürich.
        days (int): How many days,
          today included: it: counts
        unit: In what.

    Returns:
        Degrees, by day.

    Raises:
        ValueError: never.
    """
    return {"place": place, "days": days, "unit": unit.name}


def beverage(kind: str, hot: bool | None, size: Literal[1, 2, "large"], others: list[dict[str, float]]) -> object:
    """Drinks.

    Args:
        kind: What (choices: ["tea", "coffee "])
        hot: Whether
        size: How much
        others: More
    """
    return [kind, hot, size, others]


def nothing() -> None:
    """Does nothing."""


def broken(pair: tuple[int, str], more: Union[int, list[str]] = 1, least: Optional[Any] = None) -> int:  # noqa: ARG001, UP007, UP045 - as users write them
    """Fails.

    Args:
      pair: Two.
      more: Some.
      least: Any.
    """
    raise RuntimeError("the sensor is gone")


@pytest.mark.parametrize("function", [get_weather, beverage, nothing, broken])
def test_a_function_has_the_schema_that_transformers_makes_of_it(function: Callable[..., Any]) -> None:
    assert json.dumps(function_schema(function)) == json.dumps(get_json_schema(function))


hints = st.recursive(
    st.sampled_from([int, float, str, bool, list, dict, tuple, Any, Unit, Literal["a", "b"], Literal[1, None, True]]),
    lambda one: st.one_of(
        one.map(lambda hint: list[hint]),  # type: ignore[valid-type]
        one.map(lambda hint: dict[str, hint]),  # type: ignore[valid-type]
        one.map(lambda hint: Optional[hint]),  # noqa: UP045
        st.tuples(one, one).map(lambda pair: tuple[pair]),  # type: ignore[valid-type]
        st.tuples(one, one).map(lambda pair: Union[pair]),  # noqa: UP007
    ),
    max_leaves=4,
)


@given(
    one=hints,
    other=hints,
    words=st.lists(st.sampled_from(["a", "b:", "(x)", "\n        c", "\n          d: e"]), max_size=4),
)
def test_any_annotation_has_the_schema_that_transformers_makes_of_it(one: Any, other: Any, words: list[str]) -> None:
    def tool(first: Any, second: Any = 1) -> None:
        pass

    tool.__annotations__ = {"first": one, "second": other}
    tool.__doc__ = f"Does.\n\n    Args:\n        first: It. {' '.join(words)}\n        second: That.\n    "
    assert json.dumps(function_schema(tool)) == json.dumps(get_json_schema(tool))


def undocumented(a: int) -> None: ...


def unannotated(a) -> None:  # type: ignore[no-untyped-def]
    """Does.

    Args:
        a: it
    """


def undescribed(a: int) -> None:
    """Does."""


def foreign(a: Path) -> None:
    """Does.

    Args:
        a: it
    """


@pytest.mark.parametrize("function", [undocumented, unannotated, undescribed, foreign])
def test_a_function_that_says_too_little_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=function.__name__):
        function_schema(function)


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="two tools have the name nothing"):
        Tools.of([nothing, {"name": "nothing"}])
    with pytest.raises(InputError, match="names one"):
        Tools.of([{"parameters": {}}])


def test_a_call_gives_what_the_function_gives_or_what_went_wrong() -> None:
    tools = Tools.of([get_weather, broken])
    assert tools.call(ToolCall("get_weather", {"place": "Zürich", "unit": "fahrenheit"})) == (
        '{"place": "Zürich", "days": 1, "unit": "FAHRENHEIT"}'
    )
    assert json.loads(tools.call(ToolCall("broken", {"pair": [1, "a"]}))) == {
        "error": "RuntimeError: the sensor is gone"
    }
    for wrong in ({"place": 1}, {"place": "a", "unit": "kelvin"}, {"town": "a"}, {}):
        assert "error" in json.loads(tools.call(ToolCall("get_weather", wrong)))


# ---- calls that are held to schemas ----------------------------------------------------------------------------------

PARAMETERS = {
    "type": "object",
    "properties": {
        "place": {"type": "string", "maxLength": 5},
        "code": {"type": "string", "pattern": "[a-f]/[0-9]$", "maxLength": 6},
        "unit": {"enum": ["a<", "b"]},
        "who": {"anyOf": [{"type": "string", "minLength": 2, "maxLength": 4}, {"enum": ["x", "all of us"]}]},
        "size": {"anyOf": [{"type": "string", "maxLength": 3}, {"const": 5}, {"type": ["string"], "enum": ["1", 1]}]},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "deep": {
            "type": "object",
            "properties": {"on": {"type": "boolean"}, "some": {"$ref": "#/$defs/letters"}},
            "required": ["on"],
            "additionalProperties": False,
        },
    },
    "required": ["place", "who", "size", "deep"],
    "$defs": {"letters": {"type": "array", "items": {"enum": ["a", "<b>"]}, "maxItems": 2}},
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
FORMS = {name: find_format(ChatTemplate(BEFORE + text + AFTER)) for name, text in TEMPLATES.items()}
HELD = sorted(name for name, form in FORMS.items() if form.calls is not None and form.calls.grammar is not None)
TOKENIZER, TABLE = read_tokenizer(DEMO_DIRECTORY), token_table(DEMO_DIRECTORY / "tokenizer.json", 1024, frozenset({0}))


def guide(name: str, **more: Any) -> ToolGuide:
    return ToolGuide(TABLE, TOKENIZER, TOKENIZER.encode_plain, FORMS[name], TOOLS, **more)


def said_at_random(held: ToolGuide, seed: int, begin: str = "") -> tuple[str, int]:
    """What a model of random logits says after ``begin``, until its calls are whole; and in how many steps."""
    random, tokens, steps = np.random.default_rng(seed), [], 0
    for token in TOKENIZER.encode_plain(begin):
        tokens += held.take(token)
    while not held.is_over and len(tokens) < 6000 and (held.is_held or not steps):
        tokens += held.take(int(held.masked(random.normal(size=1024).astype(np.float32)).argmax()))
        steps += 1
    return str(TOKENIZER.library.decode(tokens)), steps


@settings(max_examples=25)
@given(name=st.sampled_from(HELD), seed=st.integers(0, 2**31), must=st.booleans())
def test_whatever_the_model_would_say_its_calls_are_valid(name: str, seed: int, must: bool) -> None:
    calls = FORMS[name].calls
    assert calls is not None
    text, _ = said_at_random(guide(name, must=must), seed, "" if must else calls.opens[0])
    splitter = Splitter(FORMS[name], TOOLS)
    made = [piece.call for piece in (*splitter.push(text), *splitter.finish()) if piece.call is not None]
    assert made, text
    for call in made:
        if call.name == "get_weather":
            jsonschema.validate(call.arguments, PARAMETERS)
        else:
            assert (call.name, call.arguments) == ("now", {})


@pytest.mark.parametrize("name", HELD)
def test_values_that_a_type_excludes_are_never_said(name: str) -> None:
    typed = {"type": "object", "properties": {"p": {"type": ["string"], "enum": [1, "1", None]}}, "required": ["p"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": typed}}]
    for seed in range(4):
        held = ToolGuide(TABLE, TOKENIZER, TOKENIZER.encode_plain, FORMS[name], tools, must=True)
        text, _ = said_at_random(held, seed)
        splitter = Splitter(FORMS[name], tools)
        made = [piece.call for piece in (*splitter.push(text), *splitter.finish()) if piece.call is not None]
        assert made, text
        assert all(call.arguments == {"p": "1"} for call in made), text


@pytest.mark.parametrize("name", HELD)
def test_a_schema_that_no_value_meets_is_refused(name: str) -> None:
    typed = {"type": "object", "properties": {"p": {"type": "string", "enum": [1]}}, "required": ["p"]}
    tools = [{"type": "function", "function": {"name": "f", "parameters": typed}}]
    with pytest.raises(InputError):
        ToolGuide(TABLE, TOKENIZER, TOKENIZER.encode_plain, FORMS[name], tools, must=True)


def test_of_a_number_that_would_be_read_as_another_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    numbered = {"type": "object", "properties": {"account": {"type": "integer", "minimum": (1 << 53) + 1}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": numbered}}]
    ToolGuide(TABLE, TOKENIZER, TOKENIZER.encode_plain, FORMS[HELD[0]], tools, must=True)
    assert f"minimum {(1 << 53) + 1} is beyond what llguidance reads exactly" in caplog.text


@pytest.mark.parametrize("name", HELD)
def test_any_of_the_arguments_that_may_be_left_out_may_be_there_alone(name: str) -> None:
    form = FORMS[name].calls
    assert form is not None
    assert form.grammar is not None
    parameters = {"type": "object", "properties": {"p": {"type": "integer"}, "q": {"type": "integer"}}}
    for arguments in ({}, {"p": 1}, {"q": 1}, {"p": 1, "q": 1}):
        turn = {"role": "assistant", "content": "", "tool_calls": [ToolCall("f", arguments, "id0000001").message()]}
        written = ChatTemplate(BEFORE + TEMPLATES[name] + AFTER).render([turn], answer=False)
        start = max(written.find(one) + (0 if form.is_bare else len(one)) for one in form.opens if one in written)
        text = written[start:].replace("[CALL_ID]id0000001", "").replace(', "id": "id0000001"', "")
        grammar = Constraint.lark(form.grammar({"f": parameters}, json.dumps))
        matcher = Matcher(TABLE, grammar)
        for close in form.closes or ("<|eot_id|>",):
            text = text.partition(close)[0] + (close if name in ("glm", "minimax") else "")
        assert matcher.begin_anew(text), text
        assert matcher.is_over


def test_what_can_only_follow_takes_no_step() -> None:
    text, steps = said_at_random(guide("hermes", must=True), 1)
    assert text.startswith('<tool_call>\n{"name": "')
    assert steps < len(TOKENIZER.encode_plain(text)) / 3


def test_free_text_is_not_touched_and_thoughts_begin_no_call() -> None:
    held, logits = guide("hermes"), np.random.default_rng(0).normal(size=1024).astype(np.float32)
    for token in TOKENIZER.encode_plain("<think>\nI could <tool_call> here"):
        assert held.take(token) == [token]
        assert held.masked(logits) is logits
    for token in TOKENIZER.encode_plain("</think> or <tool_call>"):
        step = held.take(token)
    assert len(step) > 1
    assert np.isinf(held.masked(logits)).any()


def test_a_token_that_goes_on_as_no_call_may_is_cut_at_the_mark() -> None:
    held = guide("hermes")
    [wide] = TOKENIZER.encode_plain(">")
    push = held._detokenizer.push  # the demo's vocabulary has no token that goes on after the mark: this one does here
    held._detokenizer.push = lambda token: push(token) + ("oh" if token == wide and not held.is_held else "")  # type: ignore[method-assign]
    for token in TOKENIZER.encode_plain("<tool_call"):
        held.take(token)
    step = held.take(wide)
    assert TOKENIZER.decode(step).startswith('>\n{"name": "')


# ---- turns -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load(chat_bundle(tmp_path_factory.mktemp("tools") / "bundle"), threads=1, prepared=False)


def says(monkeypatch: pytest.MonkeyPatch, model: Model, answers: Iterable[str]) -> None:
    """Let the model give these answers."""
    plain, left = model.chat, iter(answers)
    monkeypatch.setattr(model, "chat", lambda *given, **named: plain(*given, **named, constraint=the(next(left))))


def the(text: str) -> Constraint:
    return Constraint.lark(f"start: {json.dumps(text)}")


def weather(place: str) -> str:
    """Tell the weather.

    Args:
        place: A city.

    """
    return f"Rain in {place}."


def test_a_model_is_told_of_functions_as_of_their_schemas(model: Model, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "?"}]
    told = [model.chat(asked, tools=tools).prompt for tools in ([weather], [function_schema(weather)])]
    assert told[0] == told[1]
    assert model.prefix(tmp_path / "a.prefix", tools=[weather]) == model.prefix(
        tmp_path / "a.prefix", tools=[function_schema(weather)]
    )
    for wrong, said in (([5], "a tool is 5"), ([lambda a: a], "has no docstring"), ([weather] * 2, "two tools have")):
        with pytest.raises(InputError, match=said):
            model.chat(asked, tools=wrong)
    with pytest.raises(InputError, match="tool_choice is 'required', and there are no tools"):
        model.chat(asked, tool_choice="required")


def test_an_answer_has_to_be_a_call_where_that_is_said(model: Model) -> None:
    asked = [{"role": "user", "content": "?"}]
    answer = model.chat(asked, tools=TOOLS, tool_choice="now", sampling=Sampling(), max_tokens=300)
    next(piece for piece in answer.pieces() if piece.field == "tool_call")
    assert answer.tool_calls == [ToolCall("now", {}, "call00001")]
    free = model.chat(asked, tools=TOOLS, tool_choice="free", sampling=Sampling(), max_tokens=3)
    assert free.matcher is None
    with pytest.raises(InputError, match="auto, required, free or one of get_weather, now"):
        model.chat(asked, tools=TOOLS, tool_choice="later")
    bad = [{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "image"}}}}]
    with pytest.raises(InputError, match="the schemas of the tools f cannot be met"):
        model.chat(asked, tools=bad)


def test_a_conversation_calls_functions_and_goes_on_with_what_they_give(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []

    def add(a: int, b: int) -> int:
        """Adds.

        Args:
            a: One.
            b: Another.
        """
        called.append((a, b))
        return a + b

    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 2}}\n</tool_call>'
    says(monkeypatch, model, [f"Let me see.\n{call}", "It is 4."])
    talk = Conversation(model, tools=[add], sampling=Sampling())
    pieces = list(talk.ask("2+2?"))
    assert called == [(2, 2)]
    assert [piece.field for piece in pieces if piece.field == "tool_call"] == ["tool_call"]
    assert "".join(piece.text for piece in pieces if piece.field == "text") == "Let me see.It is 4."
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "tool", "assistant"]
    assert talk.messages[2] == {"role": "tool", "name": "add", "tool_call_id": "call00001", "content": "4"}
    assert talk.last is not None
    assert talk.last.reused > 0


def test_a_call_of_a_function_that_is_elsewhere_ends_the_turn(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    says(monkeypatch, model, repeat(call))
    talk = Conversation(model, tools=TOOLS, sampling=Sampling())
    assert "".join(talk.say("When?")) == ""
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]


def test_calls_without_an_end_are_an_error(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<tool_call>\n{"name": "nothing", "arguments": {}}\n</tool_call>'
    says(monkeypatch, model, repeat(call))
    monkeypatch.setattr(conversation, "_MOST_ROUNDS", 2)
    with pytest.raises(InputError, match="2 times in a row"):
        "".join(Conversation(model, tools=[nothing], sampling=Sampling()).say("When?"))


def test_functions_of_a_file_are_tools(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text(
        "from json import dumps\ndef add(a: int) -> int:\n"
        '    """Adds.\n\n    Args:\n        a: One.\n    """\n    return a\n'
        'def _hidden():\n    """No."""\ndef silent(): pass\n'
    )
    [add] = read_functions(file)
    assert function_schema(add)["function"]["name"] == "add"
    for content, said in (("1/0", "ZeroDivisionError"), ("x = 1", "has no function with a docstring")):
        file.write_text(content)
        with pytest.raises(InputError, match=said):
            read_functions(file)
    with pytest.raises(InputError, match="is no file"):
        read_functions(tmp_path / "none.py")
    (tmp_path / "tools.json").write_text("[]")
    with pytest.raises(InputError, match="is no Python by its name: tools are functions"):
        read_functions(tmp_path / "tools.json")


def test_the_command_line_takes_functions(model: Model, tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text('def now() -> int:\n    """The time."""\n    return 7\n')
    command = [
        sys.executable,
        "-m",
        "edgepress",
        "chat",
        str(model.config.bundle),
        "--tools",
        str(tmp_path / "tools.py"),
    ]
    command += ["--max-tokens", "3", "--temperature", "0", "--no-prepare", "--threads", "1"]
    done = subprocess.run(command, input="When?\n", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wrong = subprocess.run([*command, "--tools", "none.py"], input="", capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "none.py is no file" in wrong.stderr
