"""Descriptions as trees of dataclasses and tuples: everything of a kind in them, found or changed."""

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

T = TypeVar("T")
K = TypeVar("K")


@cache
def _fields(kind: Hashable) -> tuple[str, ...]:
    """Names of a dataclass's fields; none of another type."""
    return tuple(field.name for field in fields(kind)) if isinstance(kind, type) and is_dataclass(kind) else ()


@contextmanager
def uncollected() -> Iterator[None]:
    """No collection of garbage in the block: a description of many experts is as many objects, and none is garbage.

    Collections would look at all that are made so far, again and again, for half of the time that it takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


_PLAIN = (str, int, float, type(None))  # most of a description: nothing is in them


def every(kind: type[K], tree: object) -> Iterator[K]:
    """Everything of a ``kind`` of dataclass in a description (dataclasses and tuples), in the order of its fields."""
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, tuple):
        for item in tree:
            if not isinstance(item, _PLAIN):
                yield from every(kind, item)
    else:
        for name in _fields(cast(Hashable, type(tree))):
            item = getattr(tree, name)
            if not isinstance(item, _PLAIN):
                yield from every(kind, item)


def changed(kind: type[K], tree: T, change: Callable[[K], K]) -> T:
    """The description with everything of a ``kind`` of dataclass changed; what has none of it stays the same object."""
    new: Any = tree
    if isinstance(tree, kind):
        new = change(tree)
    elif isinstance(tree, tuple):
        items = [item if isinstance(item, _PLAIN) else changed(kind, item, change) for item in tree]
        if any(item is not old for item, old in zip(items, tree, strict=True)):
            new = tuple(items)
    else:
        others = {}
        for name in _fields(cast(Hashable, type(tree))):
            old = getattr(tree, name)
            if not isinstance(old, _PLAIN) and (item := changed(kind, old, change)) is not old:
                others[name] = item
        if others:
            new = replace(new, **others)
    return new  # type: ignore[no-any-return]  # of the type that went in, as `change` keeps it
