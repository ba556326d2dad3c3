"""Chat templates, rendered as transformers renders them, without it.

A template is a program in Jinja's language that comes with a checkpoint. It runs in Jinja's sandbox, which cannot be
changed from inside, sees plain JSON values alone, and may take so many steps and characters (:mod:`.bounds`). The names
that it may use, beside the conversation, are those that transformers gives it
(``transformers/utils/chat_template_utils.py``): ``raise_exception``, ``strftime_now``, ``namespace``, ``tojson``
without HTML escapes, ``loop`` controls, and ``generation`` blocks, which change no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from edgepress.chat import bounds
from edgepress.errors import InputError
from edgepress.schema import read_as, read_bytes
from edgepress.text.documents import decode

if TYPE_CHECKING:
    from jinja2 import Template, nodes
    from jinja2.parser import Parser
    from jinja2.runtime import Macro

Message = Mapping[str, Any]

TEMPLATE_FILE = "chat_template.jinja"
_CONFIG = "tokenizer_config.json"
_MAP = "special_tokens_map.json"
_LARGEST = 1 << 20  # bytes of a template; the longest that ships has 30 kB
_LONGEST_REASON = 300  # characters
_AGAIN = "copy the tokenizer's files again"
_COUNTED, _JOINED = "edgepress_counted", "edgepress_joined"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class _AddedToken(msgspec.Struct, frozen=True):
    content: str


class _Named(msgspec.Struct, frozen=True):
    name: str
    template: str


_Token = str | _AddedToken | None


class _Config(msgspec.Struct, frozen=True):
    """The entries of tokenizer_config.json that templates see; it has more."""

    chat_template: str | list[_Named] | None = None
    bos_token: _Token = None
    eos_token: _Token = None
    unk_token: _Token = None
    sep_token: _Token = None
    pad_token: _Token = None
    cls_token: _Token = None
    mask_token: _Token = None
    extra_special_tokens: dict[str, Any] | list[Any] | None = None
    chat_control_tokens: Annotated[list[str], msgspec.Meta(max_length=4096)] | None = None


class _JsonTemplate(msgspec.Struct, frozen=True):
    chat_template: str | list[_Named] | None = None


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it is given beside the conversation.

    ``source`` is its text, ``tool_source`` that of one that is used when there are tools, where there is such a one.
    ``tokens`` are the special tokens that it knows by name, such as ``bos_token``. ``control`` are further tokens that
    a user's text may not contain as such; None where the checkpoint names none.
    """

    source: str
    tool_source: str | None = None
    tokens: Mapping[str, str] | None = None
    control: Sequence[str] | None = None
    where: str = "the chat template"

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        answer: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The text of a conversation, its special tokens spelled out.

        Args:
            messages: what was said so far, each with a ``role`` and what the template reads beside, all plain JSON.
            tools: JSON schemas of functions that the model may call.
            documents: what it may read, for templates that know them.
            answer: end with what stands before the model's answer (``add_generation_prompt``).
            variables: what a template takes beside, such as ``{"enable_thinking": False}``.

        Raises:
            InputError: the template refuses the conversation (its words are in the message), has an error, or does not
                come to an end.

        """
        from jinja2.exceptions import TemplateError

        compiled = self._compiled if tools is None or self._with_tools is None else self._with_tools
        given: dict[str, Any] = {**(self.tokens or {}), **(variables or {})}
        given |= {"messages": [_with_reasoning(message) for message in messages], "tools": tools}
        given |= {"documents": documents, "add_generation_prompt": answer}
        try:
            with bounds.counting():
                return compiled.render(plain(given))
        except bounds.TooLongError as error:
            raise InputError(
                f"{self.where} does not come to an end: {error}; take another template, or a shorter conversation"
            ) from error
        except TemplateError as error:
            said = str(error)[:_LONGEST_REASON]
            raise InputError(
                f"{self.where} refuses this conversation: {said}; change the messages as it asks"
            ) from error
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            MemoryError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            said = f"{type(error).__name__}: {str(error)[:_LONGEST_REASON]}"
            raise InputError(
                f"{self.where} cannot render this conversation ({said}); give each message a role and a text, and "
                f"tools as JSON schemas{'' if tools else ', which this template may need'}"
            ) from error

    @cached_property
    def _compiled(self) -> Template:
        return self._compile(self.source)

    @cached_property
    def _with_tools(self) -> Template | None:
        return None if self.tool_source is None else self._compile(self.tool_source)

    def _compile(self, source: str) -> Template:
        from jinja2.exceptions import TemplateError

        try:
            compiled: Template = environment().from_string(source)
            return compiled
        except (TemplateError, RecursionError, SyntaxError) as error:
            raise InputError(
                f"{self.where} is no template of Jinja: {str(error)[:_LONGEST_REASON]}; {_AGAIN}"
            ) from error

    @cached_property
    def literals(self) -> frozenset[str]:
        """Every piece of text that stands in the template itself."""
        from jinja2 import nodes

        _ = self._compiled  # what is no template is refused in these words
        parsed = environment().parse(self.source)
        texts = {node.data for node in parsed.find_all(nodes.TemplateData)}
        return frozenset(texts | {node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str)})


def environment() -> Any:
    """Jinja's sandbox as transformers sets it up, with loops that are counted."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class Generation(Extension):
        """``{% generation %}`` marks what the model says, for training; the text stays."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_whole"), [], [], body).set_lineno(line)

        def _whole(self, caller: Macro) -> str:
            return str(caller())

    class Bounds(NodeTransformer):
        """Puts what counts steps and lengths into a parsed template."""

        def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - jinja2 looks for the class's name
            self.generic_visit(node)
            node.iter = nodes.Filter(node.iter, _COUNTED, [], [], None, None).set_lineno(node.lineno)
            return node

        def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
            self.generic_visit(node)
            parts = nodes.List(node.nodes).set_lineno(node.lineno)
            return nodes.Filter(parts, _JOINED, [], [], None, None).set_lineno(node.lineno)

    class Sandbox(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**", "+", "%"])
        concat = staticmethod(bounds.joined)  # of everything that a template, a macro or a block writes

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            bounds.check_operator(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
            bounds.check_call(function, arguments, named)
            return super().call(context, function, *arguments, **named)

        def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
            parsed: nodes.Template = Bounds().visit(super()._parse(source, name, filename))
            return parsed

    class Names(jinja2.utils.Namespace):
        """A namespace without names of Python's own."""

        def __init__(*arguments: Any, **named: Any) -> None:
            self, *others = arguments
            values = dict(*others, **named)
            for name in values:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    def _check_name(name: object) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"names of a namespace begin with a letter, and one is {name!r}")

    def refuse(message: object) -> None:
        raise jinja2.exceptions.TemplateError(str(message))

    made = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], finalize=bounds.measured
    )
    made.filters = bounds.bounded(made.filters | {"tojson": _to_json})
    made.filters |= {_COUNTED: bounds.counted, _JOINED: bounds.joined}
    del made.globals["lipsum"]  # filler text of any length
    made.globals |= {"raise_exception": refuse, "strftime_now": _now, "dict": _Dict(), "namespace": Names}
    return made


class _Dict:
    """``dict`` to templates: it makes dictionaries and gives no way to Python's class."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        """As Python's."""
        return dict.fromkeys(keys, value)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


clock: ContextVar[Callable[[], datetime]] = ContextVar("clock", default=datetime.now)
"""What time it is to templates, where the user is; conformance stops it."""


def _now(form: str) -> str:
    return str(clock.get()().strftime(form))


def plain(value: Any) -> Any:
    """``value`` rebuilt of plain JSON types, which have no methods that a sandbox does not know.

    Raises:
        InputError: something in it is none.

    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise InputError(
        f"a conversation holds a {type(value).__name__}; messages, tools and documents are texts, numbers, lists and "
        "dictionaries"
    )


_REASONING = ("reasoning_content", "thinking", "reasoning")


def _with_reasoning(message: Message) -> dict[str, Any]:
    """A message without entries that are None, its reasoning under each name that templates read."""
    found = {key: value for key, value in message.items() if value is not None}
    said = next((found[name] for name in _REASONING if name in found), None)
    return found if said is None else {"thinking": said, **found, "reasoning_content": said}


def read_template(folder: Path) -> ChatTemplate | None:
    """The template that a checkpoint or bundle has, in the file or entry that transformers would take; None without.

    Raises:
        InputError: a file is not what it should be.

    """
    config = read_as(path, _Config, _AGAIN) if (path := folder / _CONFIG).is_file() else _Config()
    listed = read_as(path, _Config, _AGAIN) if (path := folder / _MAP).is_file() else _Config()
    file, older = folder / TEMPLATE_FILE, folder / "chat_template.json"
    if file.is_file():
        found: str | list[_Named] | None = decode(read_bytes(file, _AGAIN, largest=_LARGEST), file)
    elif older.is_file():
        found = read_as(older, _JsonTemplate, _AGAIN).chat_template
    else:
        found = config.chat_template
    named = {entry.name: entry.template for entry in found} if isinstance(found, list) else {}
    source = found if isinstance(found, str) else named.get("default")
    if source is None:
        return None
    tokens = {**dict(_tokens(listed)), **dict(_tokens(config))}
    return ChatTemplate(
        source, named.get("tool_use"), tokens, config.chat_control_tokens, f"{folder}: the chat template"
    )


def _tokens(config: _Config) -> Iterator[tuple[str, str]]:
    extra = config.extra_special_tokens
    for name, token in extra.items() if isinstance(extra, dict) else ():
        if isinstance(token, str):
            yield name, token
    for name in _NAMED:
        token = getattr(config, name)
        if token is not None:
            yield name, token if isinstance(token, str) else token.content
