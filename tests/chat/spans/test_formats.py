"""Answers in their parts: whatever a template writes of a turn is read back as the turn that it was given."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from call_templates import AFTER, BEFORE, CALLS, TEMPLATES
from hypothesis import given
from hypothesis import strategies as st

from edgepress.chat.spans.finding import call_formats, find_format
from edgepress.chat.spans.kinds import AnswerFormat, CallFormat, Piece, Thoughts, ToolCall
from edgepress.chat.spans.pythonic import read_pythonic
from edgepress.chat.spans.splitting import Splitter
from edgepress.chat.template import ChatTemplate

ENDS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|return|>")  # tokens that end an answer and are not among its text
BARE = {"llama_json", "pythonic"}  # no text stands before a call
UNQUOTED = {"qwen_xml", "glm", "gemma", "minimax"}  # what marks a text's end cannot be in it
SILENT = {name for name, text in TEMPLATES.items() if "reasoning" not in text}


@cache
def template(name: str) -> ChatTemplate:
    return ChatTemplate(BEFORE + TEMPLATES[name] + AFTER)


@cache
def form_of(name: str) -> AnswerFormat:
    return find_format(template(name))


def written(name: str, turn: dict[str, Any]) -> str:
    """What the template makes of an answer, without the token that ends it."""
    asked = {"role": "user", "content": "?"}
    text = template(name).render([asked, turn], answer=False).removeprefix("[user] ?\n")
    return next((text.removesuffix(end) for end in ENDS if text.endswith(end) and name != "harmony"), text)


def split(form: AnswerFormat, text: str, cuts: Sequence[int], tools: Any, **named: bool) -> list[Piece]:
    splitter, pieces, at = Splitter(form, tools, **named), [], 0
    for cut in [*sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]:
        pieces += splitter.push(text[at:cut])
        at = cut
    return [*pieces, *splitter.finish()]


def said(pieces: list[Piece], field: str) -> str:
    return "".join(piece.text for piece in pieces if piece.field == field)


def test_every_format_has_a_template_here() -> None:
    assert {one.name for one in call_formats()} == set(TEMPLATES)


names = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True) | st.sampled_from(["from", "in", "true", "à_b"])
hostile = st.sampled_from(
    ["</tool_call>", "<think>", "[TOOL_CALLS]", '"}]', "\n", "日本", "\\", "<|call|>", "; ", "}", "'"]
)
texts = st.lists(st.text(max_size=6) | hostile, max_size=4).map("".join)
tame = st.text("abc é,.!?-_日", max_size=12).map(lambda text: f"w{text}w")  # neither a number nor a constant of JSON


def values(strings: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | strings
    return st.recursive(
        plain, lambda one: st.lists(one, max_size=2) | st.dictionaries(names, one, max_size=2), max_leaves=4
    )


@st.composite
def turns(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(TEMPLATES)))
    inner = values(tame if name in UNQUOTED else texts)
    calls = [
        ToolCall(
            draw(names),
            draw(st.dictionaries(names, inner, max_size=3)),
            f"id{number:07d}",
        )
        for number in range(draw(st.integers(0, 3)))
    ]
    words = st.from_regex(r"[A-Za-z.,éß日]+( [A-Za-z.,éß日]+){0,4}", fullmatch=True)
    content = "" if calls and name in BARE else draw(words | st.just("") if calls else words)
    turn: dict[str, Any] = {"role": "assistant", "content": content}
    if name not in SILENT and draw(st.booleans()):
        turn["reasoning_content"] = draw(words)
    if calls:
        turn["tool_calls"] = [call.message() for call in calls]
    return name, turn


@given(made=turns(), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_a_turn_is_read_back_from_what_its_template_writes(made: tuple[str, dict[str, Any]], cuts: list[int]) -> None:
    name, turn = made
    tools = [{"name": call["function"]["name"], "parameters": {}} for call in turn.get("tool_calls", ())]
    pieces = split(form_of(name), written(name, turn), cuts, tools)
    assert said(pieces, "text") == turn["content"]
    assert said(pieces, "reasoning") == turn.get("reasoning_content", "")
    read = [(piece.call.name, piece.call.arguments) for piece in pieces if piece.call is not None]
    assert json.dumps(read) == json.dumps(
        [(call["function"]["name"], call["function"]["arguments"]) for call in turn.get("tool_calls", ())]
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_format_is_found_from_a_template_that_writes_it(name: str) -> None:
    found = find_format(template(name))
    assert found.calls is not None
    assert found.calls.name == name
    assert (found.thoughts is None) == (name in SILENT or name == "harmony")


def test_a_template_that_writes_no_calls_has_the_format_that_its_words_tell() -> None:
    source = BEFORE + "{{ m.content }}" + AFTER
    assert find_format(ChatTemplate(source)) == AnswerFormat()
    assert calls_of(ChatTemplate(source), ["<|tool_call_start|>"]) == "lfm"
    assert calls_of(ChatTemplate("Answer in <|tool|>…<|/tool|>. " + source)) == "phi"
    assert calls_of(ChatTemplate("Begin with <|tool_call|>. " + source)) == "granite"
    other = CALLS + "CALL {{ f.name }} WITH {{ f.arguments }}{% endfor %}<tool_call>"
    assert calls_of(ChatTemplate(BEFORE + other + AFTER)) is None  # it writes calls, and none that is known


@pytest.mark.parametrize(
    ("prompt", "call", "name"),
    [  # what a prompt ends with is part of the mark that a call begins with, or the space in it stands at the beginning
        (
            "<|start|>assistant",
            "<|start|>assistant to=functions.{}<|channel|>commentary json<|message|>{}<|call|>",
            "harmony",
        ),
        (
            "<|START_THINKING|>",
            '<|START_ACTION|>[{{"tool_call_id": "0", "tool_name": "{}", "parameters": {}}}]<|END_ACTION|>',
            "command",
        ),
    ],
)
def test_a_format_is_found_where_a_prompt_has_the_beginning_of_a_mark(prompt: str, call: str, name: str) -> None:
    written = call.format("{{ f.name }}", "{{ f.arguments | tojson }}")
    end = "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    assert calls_of(ChatTemplate(BEFORE + CALLS + written + "{% endfor %}" + AFTER + end)) == name


def calls_of(template: ChatTemplate, vocabulary: Sequence[str] = ()) -> str | None:
    found = find_format(template, vocabulary).calls
    return None if found is None else found.name


def test_arguments_are_texts_where_a_template_takes_them_so() -> None:
    joined = """'{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments + '}'"""
    source = f"{{% for c in m.tool_calls or [] %}}<tool_call>{{{{ {joined} }}}}</tool_call>{{% endfor %}}"
    found = find_format(ChatTemplate(BEFORE + source + AFTER))
    assert found.arguments_as_text
    assert found.calls is not None
    assert found.calls.name == "hermes"


HERMES = find_format(template("hermes"))


scraps = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<think>",
        "</think>",
        "{",
        '"name"',
        "a",
        " ",
        "\n",
        '{"name": "f", "arguments": {}}',
    ]
)


@given(text=st.lists(scraps, max_size=12).map("".join), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_where_it_is_cut_changes_nothing_and_nothing_is_shown_that_turns_out_otherwise(
    text: str, cuts: list[int]
) -> None:
    whole, cut = split(HERMES, text, [], None), split(HERMES, text, cuts, None)
    for field in ("text", "reasoning"):
        assert said(whole, field) == said(cut, field)
    assert [piece.call for piece in whole if piece.call] == [piece.call for piece in cut if piece.call]


def test_a_call_that_cannot_be_read_is_text_and_others_are_calls() -> None:
    good = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
    pieces = split(HERMES, f"Well.\n<tool_call>oh no</tool_call>\n{good}", [3, 9], None)
    assert said(pieces, "text") == "Well.<tool_call>oh no</tool_call>"
    assert [piece.call for piece in pieces if piece.call] == [ToolCall("f", {"a": 1})]
    unfinished = split(HERMES, 'Hm. <tool_call>\n{"name": "f"', [], None)
    assert said(unfinished, "text") == 'Hm.<tool_call>\n{"name": "f"'


def test_thoughts_that_the_prompt_began_end_where_they_do() -> None:
    pieces = split(HERMES, "I wonder.\n</think>\n\nYes.\n", [4, 12, 20], None, is_thinking=True)
    assert (said(pieces, "reasoning"), said(pieces, "text")) == ("I wonder.", "Yes.\n")
    endless = split(HERMES, "I wonder", [], None, is_thinking=True)
    assert (said(endless, "reasoning"), said(endless, "text")) == ("I wonder", "")


def test_json_is_an_answer_where_there_are_no_tools() -> None:
    form, text = find_format(template("llama_json")), '{"name": "f", "parameters": {}}'
    assert said(split(form, text, [5], None), "text") == text
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert [piece.call for piece in split(form, text, [5], tools)] == [ToolCall("f", {})]
    other = '{"names": ["f"]}'
    assert said(split(form, other, [5], tools), "text") == other


def test_an_answer_without_channels_is_not_lost() -> None:
    assert said(split(find_format(template("harmony")), "Hello there", [3], None), "text") == "Hello there"


def test_values_have_the_types_that_the_tool_says() -> None:
    form = find_format(template("qwen_xml"))
    properties = {
        "zip": {"type": "string"},
        "kind": {"enum": ["1", "2"]},
        "n": {"type": ["integer", "null"]},
        "on": {"type": "boolean"},
    }
    tools = [{"name": "f", "parameters": {"type": "object", "properties": properties}}]
    given = {"zip": "08001", "kind": "1", "n": "7", "on": "True", "other": "[1]"}
    turn = {"role": "assistant", "content": "", "tool_calls": [ToolCall("f", given).message()]}
    [piece] = split(form, written("qwen_xml", turn), [], tools)
    assert piece.call == ToolCall("f", {"zip": "08001", "kind": "1", "n": 7, "on": True, "other": [1]})


@pytest.mark.parametrize("form", call_formats(), ids=lambda one: one.name)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 5000,
        '{"name": 1}',
        '{"name": "f", "arguments": [1]}',
        "f(1)",
        "[f(**x)]",
        "[f(a=g())]",
        "call:f{",
        "x" * 100,
    ],
)
def test_what_is_no_call_is_a_value_error(form: CallFormat, text: str) -> None:
    if (form.name, text) == ("glm", "x" * 100):
        return  # a name alone is a call without arguments
    with pytest.raises(ValueError):  # noqa: PT011 - what is wrong nobody is told: the text is shown
        form.read(text, {})


def test_granite_s_older_words_are_thoughts() -> None:
    form = AnswerFormat(Thoughts("Here is my thought process:", "Here is my response:"))
    pieces = split(form, "Here is my thought process: hm.\n\nHere is my response: yes.", [7, 30], None)
    assert (said(pieces, "reasoning"), said(pieces, "text")) == ("hm.", "yes.")


def test_python_s_ways_of_writing_values_are_read() -> None:
    [call] = read_pythonic("""[ get.it(a='it\\'s', b="é\\x41", c=(1, -2.5), d={'k': None}, from=True, e=[], ) , ]""")
    wanted = {"a": "it's", "b": "éA", "c": [1, -2.5], "d": {"k": None}, "from": True, "e": []}
    assert call == ToolCall("get.it", wanted)
