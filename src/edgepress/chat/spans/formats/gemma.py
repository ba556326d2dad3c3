"""Gemma 4 and FunctionGemma: ``call:name{key:value}`` between two tokens, texts between quotes that are a token."""

import re
from collections.abc import Mapping
from typing import Any

from edgepress.chat.spans.kinds import CallFormat, Schema, ToolCall
from edgepress.chat.spans.values import checked, parse_json

_QUOTES = ('<|"|>', "<escape>")
_HEAD = re.compile(r"\s*call:([^\s{]+)\s*")
_KEY = re.compile(r"\s*([^\s:{}\[\],]+)\s*:")
_PLAIN = re.compile(r"\s*([^\s{}\[\],]+)")
_DEEPEST = 100


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    head = _HEAD.match(text)
    if head is None:
        raise ValueError("no call is in it")
    value, at = _value(text, head.end(), 0)
    if text[at:].strip():
        raise ValueError("something follows the call")
    return [checked(head[1], value)]


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """What begins at ``at``, and where it ends."""
    at = _spaces(text, at)
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    for quote in _QUOTES:
        if text.startswith(quote, at):
            end = text.index(quote, at + len(quote))
            return text[at + len(quote) : end], end + len(quote)
    if text.startswith("{", at):
        return _object(text, at + 1, depth)
    if text.startswith("[", at):
        return _list(text, at + 1, depth)
    found = _PLAIN.match(text, at)
    if found is None:
        raise ValueError("a value is missing")
    return parse_json(found[1]), found.end()


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while not text.startswith("}", at := _spaces(text, at)):
        key = _KEY.match(text, at)
        if key is None:
            raise ValueError("a key is missing")
        found[_unquoted(key[1])], at = _value(text, key.end(), depth + 1)
        at = _after_comma(text, at, "}")
    return found, at + 1


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while not text.startswith("]", at := _spaces(text, at)):
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _after_comma(text, at, "]")
    return found, at + 1


def _unquoted(key: str) -> str:
    for quote in _QUOTES:
        key = key.removeprefix(quote).removesuffix(quote)
    return key


def _spaces(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _after_comma(text: str, at: int, close: str) -> int:
    at = _spaces(text, at)
    if text.startswith(",", at):
        return at + 1
    if text.startswith(close, at):
        return at
    raise ValueError("a comma is missing")


FORMAT = CallFormat(
    "gemma",
    ("<|tool_call>", "<start_function_call>"),
    ("<tool_call|>", "<end_function_call>"),
    _read,
    hints=("<|tool_call>",),
    marks=_QUOTES,
)
