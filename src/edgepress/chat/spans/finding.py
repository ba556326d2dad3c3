"""How a model writes its answers, found from its template.

The template writes earlier turns as the model was trained to write them. So a turn with a call is rendered, and each
format of ``formats/`` reads it: what reads the call that was given is the model's. Where a template writes no calls,
the texts that it or the vocabulary has tell.
"""

import importlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import takewhile
from typing import Any

from edgepress.chat.spans import formats
from edgepress.chat.spans.kinds import AnswerFormat, CallFormat, Thoughts, ToolCall
from edgepress.chat.spans.splitting import Splitter
from edgepress.chat.template import ChatTemplate
from edgepress.errors import InputError
from edgepress.modules import modules_in

THOUGHTS = (
    Thoughts("<think>", "</think>"),
    Thoughts("[THINK]", "[/THINK]"),
    Thoughts("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Thoughts("<seed:think>", "</seed:think>"),
    Thoughts("<mm:think>", "</mm:think>"),
    Thoughts("<|START_THINKING|>", "<|END_THINKING|>"),  # Command
    Thoughts("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]"),  # Apriel
    Thoughts("Here is my thought process:", "Here is my response:"),  # Granite 3.2
)
"""What stands around reasoning, as far as it is known."""
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A city."},
                "days": {"type": "integer", "description": "How many."},
            },
            "required": ["place", "days"],
        },
    },
}
_CALL = ToolCall("get_weather", {"place": "Zürich", "days": 2}, "call00001")
_ASKED = {"role": "user", "content": "How is the weather?"}


@cache
def call_formats() -> tuple[CallFormat, ...]:
    """The formats of this folder: those with marks first, and of these those that are known by more."""
    names = sorted(module.name for module in modules_in(formats.__path__))
    found = [importlib.import_module(f"{formats.__name__}.{name}").FORMAT for name in names]
    return tuple(sorted(found, key=lambda one: (one.is_bare, -sum(map(len, one.hints)))))


def find_format(template: ChatTemplate, vocabulary: Iterable[str] = ()) -> AnswerFormat:
    """How a model with this template and these added tokens writes its answers."""
    for as_text in (False, True):
        rendered = _rendered(template, as_text=as_text) or ""
        found = next((one for one in call_formats() if _reads(one, rendered)), None)
        if found is not None or _CALL.name in rendered:  # calls that are written otherwise are of no format here
            return AnswerFormat(_thoughts(template, found), found, as_text and found is not None)
    texts = "\n".join([template.source, *vocabulary])
    named = next((one for one in call_formats() if one.hints and all(hint in texts for hint in one.hints)), None)
    return AnswerFormat(_thoughts(template, named), named)


def _thoughts(template: ChatTemplate, calls: CallFormat | None) -> Thoughts | None:
    if calls is not None and calls.sections:
        return None
    return next((one for one in THOUGHTS if one.close in template.source), None)


def _rendered(template: ChatTemplate, *, as_text: bool) -> str | None:
    """What the template makes of an answer that is a call; None where it refuses one."""
    call: dict[str, Any] = _CALL.message()
    if as_text:
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        asked = template.render([_ASKED], tools=[_TOOL])
        answered = template.render([_ASKED, turn], tools=[_TOOL], answer=False)
    except InputError:
        return None
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, answered, strict=False)))
    begun = answered.rfind(
        "<", 0, alike
    )  # a mark of which both have the beginning: <|START_THINKING|>, <|START_ACTION|>
    return answered[begun if begun > answered.rfind(">", 0, alike) else alike :]


def _reads(form: CallFormat, rendered: str) -> bool:
    """Whether a format finds the call, and nothing else, in an answer; what a template puts around it is cut off."""
    for text in _candidates(form, rendered):
        splitter = Splitter(AnswerFormat(None, form), [_TOOL])
        calls = [piece.call for piece in (*splitter.push(text), *splitter.finish()) if piece.call is not None]
        if [(call.name, dict(call.arguments)) for call in calls] == [(_CALL.name, dict(_CALL.arguments))]:
            return True
    return False


def _candidates(form: CallFormat, rendered: str) -> Iterator[str]:
    """The answer from where a call begins, and without what may follow it where nothing ends a call."""
    text = rendered.strip() if form.is_bare else rendered
    starts = [at for one in form.opens if (at := text.find(one)) >= 0]
    if not starts or (form.is_bare and min(starts)) or (form.closes and not any(end in text for end in form.closes)):
        return
    text = text[min(starts) :].rstrip()
    yield text
    if not form.closes:
        yield from (text[: at + 1] for at in (text.rfind("}"), text.rfind("]")) if at > 0)
