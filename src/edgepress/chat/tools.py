"""Python functions as tools: their schema, and what calling them comes to.

The schema is what ``transformers.utils.get_json_schema`` makes of a function with a docstring as Google writes them,
so that templates show models the same; the runtime has to do without transformers.
"""

import enum
import inspect
import json
import logging
import re
import runpy
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from edgepress.chat.spans.kinds import ToolCall
from edgepress.errors import InputError

Function = Callable[..., Any]
Tool = Mapping[str, Any] | Function
"""A function, or the JSON schema of one that is called elsewhere."""
_log = logging.getLogger("edgepress.tools")
_TYPES: dict[object, str] = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "boolean",
    type(None): "null",
    list: "array",
    tuple: "array",
    dict: "object",
}
_PLAIN: dict[object, dict[str, str]] = {Any: {}, **{kind: {"type": name} for kind, name in _TYPES.items()}}
_SECTION = re.compile(r"^(Args|Returns|Raises):[ \t]*$", re.MULTILINE)
_ARGUMENT = re.compile(r"([ \t]*)(\w+)(?:[ \t]*\([^()\n]*\))?:\s*(.*)")
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Tools:
    """What a model may call: schemas, and the functions of those that can be called here."""

    schemas: tuple[Mapping[str, Any], ...]
    functions: Mapping[str, Function]

    @classmethod
    def of(cls, tools: Sequence[Tool] | None) -> "Tools":
        """Tools of functions and schemas.

        Raises:
            InputError: a function has no docstring or annotations that a schema can be made of, or two have one name.

        """
        schemas = [function_schema(tool) if callable(tool) else tool for tool in tools or ()]
        names = [_name(schema) for schema in schemas]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise InputError(f"two tools have the name {doubled[0]}; give each its own")
        pairs = zip(names, tools or (), strict=True)
        return cls(tuple(schemas), {name: tool for name, tool in pairs if callable(tool)})

    def call(self, call: ToolCall) -> str:
        """What a call comes to, as text for the model: what the function gives, as JSON unless it is a text.

        What goes wrong is said to the model, which may call again; it is in the log, too.
        """
        function = self.functions[call.name]
        try:
            answer = function(**_converted(function, call.arguments))
            return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
        except Exception as error:  # whatever a function of the user's raises
            _log.warning("%s failed: %s: %s", call.name, type(error).__name__, error)
            return json.dumps({"error": f"{type(error).__name__}: {error}"}, ensure_ascii=False)


def _name(schema: object) -> str:
    function = schema.get("function", schema) if isinstance(schema, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"a tool is {str(schema)[:100]}; give a function, or a JSON schema that names one")
    return name


def _converted(function: Function, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the annotations have them: members of enumerations, tuples."""
    hints = get_type_hints(function)
    return {name: msgspec.convert(value, hints.get(name, Any), strict=True) for name, value in arguments.items()}


def read_functions(path: Path) -> list[Function]:
    """The functions of a file of Python that are meant for others: those with a docstring and a name without ``_``.

    The file is run.

    Raises:
        InputError: there is no such file, its name does not end with .py, it cannot be run, or it has no such function.

    """
    if not path.is_file():
        raise InputError(f"{path} is no file; name one of Python with functions that the model may call")
    if path.suffix.lower() != ".py":
        raise InputError(
            f"{path} is no Python by its name: tools are functions of a file FILE.py, each with annotations and a "
            "docstring; schemas alone, which nothing answers, are for load(bundle).chat(…, tools=[…])"
        )
    try:
        found = runpy.run_path(str(path))
    except Exception as error:  # whatever a file of the user's raises
        raise InputError(f"{path} cannot be run: {type(error).__name__}: {error}; mend it") from error
    own = [one for one in found.values() if inspect.isfunction(one) and one.__globals__.get("__file__") == str(path)]
    public = [one for one in own if one.__doc__ and not one.__name__.startswith("_")]
    if not public:
        raise InputError(f"{path} has no function with a docstring, by which a model is told what it does; add one")
    return list(public)


def function_schema(function: Function) -> dict[str, Any]:
    """A function as the JSON schema that templates show models, from its annotations and its docstring.

    Raises:
        InputError: it has no docstring, one of its arguments is not annotated or not described, or has a type of which
            JSON knows nothing.

    """
    name = getattr(function, "__name__", "operation")
    text = (inspect.getdoc(function) or "").strip()
    if not text:
        raise InputError(f"{name} has no docstring; a model is told by it what the function does")
    description, described, returns = _parts(text)
    hints = get_type_hints(function)
    properties, required = {}, []
    for argument, parameter in _parameters(function).items():
        if argument not in hints:
            raise InputError(f"argument {argument} of {name} has no annotation; give its type")
        if argument not in described:
            raise InputError(f"argument {argument} of {name} is not described under Args: of its docstring")
        properties[argument] = _described(_of_type(hints[argument], name), described[argument], name)
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    made: dict[str, Any] = {
        "name": name,
        "description": description,
        "parameters": {**parameters, "required": required} if required else parameters,
    }
    if "return" in hints and (given := _returned(hints["return"], returns)) is not None:
        made["return"] = given
    return {"type": "function", "function": made}


def _parameters(function: Function) -> Mapping[str, inspect.Parameter]:
    """A function's arguments, without one that a method has by itself."""
    found = dict(inspect.signature(function).parameters)
    first = next(iter(found), "")
    if first in ("self", "cls") and found[first].annotation is inspect.Parameter.empty:
        del found[first]
    return found


def _returned(hint: object, said: str | None) -> dict[str, Any] | None:
    """What a function gives; None where JSON knows nothing of it, since the model does not write it."""
    try:
        schema = _of_type(hint, "")
    except InputError:
        return None
    return schema if said is None else {**schema, "description": said}


def _described(schema: dict[str, Any], said: str, name: str) -> dict[str, Any]:
    """A schema with its description, at whose end ``(choices: […])`` names the values that there are."""
    found = _CHOICES.search(said)
    if found is None:
        return {**schema, "description": said}
    try:
        choices = json.loads(found[1])
    except ValueError as error:
        raise InputError(f"the choices of an argument of {name} are {found[1]}; give a list as JSON") from error
    values = [one.strip() if isinstance(one, str) else one for one in choices]
    return {**schema, "enum": values, "description": said[: found.start()].strip()}


def _parts(text: str) -> tuple[str, dict[str, str], str | None]:
    """What a docstring says: of the function, of its arguments, and of what it gives."""
    parts = _SECTION.split(text)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    returns = sections.get("Returns")
    return parts[0].strip(), _arguments(sections.get("Args", "")), None if returns is None else returns.strip()


def _arguments(section: str) -> dict[str, str]:
    """What is said of each argument; what is indented deeper goes on with the one before."""
    found: dict[str, str] = {}
    name, indent = "", ""
    for line in filter(str.strip, section.split("\n")):
        begins = _ARGUMENT.match(line)
        if begins is not None and not (name and len(begins[1]) > len(indent) and begins[1].startswith(indent)):
            indent, name = begins[1], begins[2]
            found[name] = begins[3].strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _of_type(hint: object, name: str) -> dict[str, Any]:
    """The JSON schema of a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _of_values([member.value for member in hint], hint, name)
    if origin is Literal:
        return _of_values(list(inner), hint, name)
    if origin in (Union, types.UnionType):
        return _of_union(inner, name)
    found = _of_container(origin, inner, name) if inner else _PLAIN.get(hint)
    if found is None:
        raise InputError(
            f"{name} has an argument of the type {hint}, of which JSON knows nothing; annotate it with numbers, texts, "
            "Literal, enumerations, and lists and dictionaries of them, or give a JSON schema"
        )
    return dict(found)


def _of_container(origin: object, inner: tuple[object, ...], name: str) -> dict[str, Any] | None:
    """A list, a tuple of a known length, or a dictionary."""
    if origin is list:
        return {"type": "array", "items": _of_type(inner[0], name)}
    if origin is tuple and len(inner) > 1 and ... not in inner:
        return {"type": "array", "prefixItems": [_of_type(one, name) for one in inner]}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of_type(inner[1], name)}
    return None


def _of_values(values: list[Any], hint: object, name: str) -> dict[str, Any]:
    """One of several values."""
    if not values or any(type(value) not in (int, float, str, bool, type(None)) for value in values):
        raise InputError(f"{name} has an argument of the type {hint}, whose values are not all JSON's; change them")
    kinds = list(dict.fromkeys(_TYPES[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _of_union(inner: tuple[object, ...], name: str) -> dict[str, Any]:
    """One of several types; None among them is ``nullable``, as OpenAPI has it."""
    schemas = [_of_type(one, name) for one in inner if one is not type(None)]
    made: dict[str, Any]
    if len(schemas) == 1:
        made = schemas[0]
    elif all(schema.keys() == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        kinds = sorted({schema["type"] for schema in schemas})
        made = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        made = {"anyOf": schemas}
    return {**made, "nullable": True} if type(None) in inner else made
