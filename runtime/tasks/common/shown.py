"""Answers as JSON and as text for a terminal, whatever their task."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from edgepress.terminal.tables import format_table

_SHOWN = 8  # numbers of a vector in text


def to_json(answer: object) -> Any:
    """An answer as JSON has it: dataclasses as objects, vectors as lists, and of larger arrays their shape and type."""
    if is_dataclass(answer) and not isinstance(answer, type):
        return {field.name: to_json(getattr(answer, field.name)) for field in fields(answer)}
    if isinstance(answer, dict):
        return {str(key): to_json(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [to_json(item) for item in answer]
    if isinstance(answer, np.ndarray):
        return answer.tolist() if answer.ndim < 2 else {"shape": list(answer.shape), "type": str(answer.dtype)}
    return answer.item() if isinstance(answer, np.generic) else answer


def to_text(answer: object) -> str:
    """An answer as lines: a table where it is a tuple of dataclasses, else each of its entries."""
    if isinstance(answer, tuple) and not answer:
        return "nothing"
    if isinstance(answer, tuple) and all(is_dataclass(item) for item in answer):
        names = [field.name for field in fields(answer[0])]
        rows = [[_cell(getattr(item, name)) for name in names] for item in answer]
        numbers = [column for column, name in enumerate(names) if not isinstance(getattr(answer[0], name), str)]
        return format_table(names, rows, right=numbers)
    if isinstance(answer, tuple):
        return "\n\n".join(map(to_text, answer))
    if isinstance(answer, dict):
        return "\n".join(f"{name} {_cell(value)}" for name, value in answer.items())
    if is_dataclass(answer) and not isinstance(answer, type):
        entries = {field.name: getattr(answer, field.name) for field in fields(answer)}
        return "\n".join(
            f"{name}\n{to_text(value)}" if isinstance(value, tuple) and value else f"{name}: {_cell(value)}"
            for name, value in entries.items()
        )
    return _cell(answer)


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4f}"
    if isinstance(value, np.ndarray):
        first = " ".join(f"{number:.6g}" for number in value.ravel()[:_SHOWN])
        return f"{value.dtype} {value.shape}: {first}{' …' if value.size > _SHOWN else ''}"
    if isinstance(value, tuple):
        return " ".join(map(_cell, value))
    return "-" if value is None else str(value)
