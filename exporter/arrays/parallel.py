"""Independent pieces of work side by side, one core each.

Torch's own threads meet after every operation. On short ones they spend most of their time waiting for each other, and
all of it when something else has one of the cores. Pieces are cut by size, not by the number of threads, so what they
give does not depend on how many are worked on at once.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")

_cores: ContextVar[int | None] = ContextVar("cores", default=None)  # None: as many as torch has threads


@contextmanager
def use_cores(count: int, threads: int) -> Iterator[None]:
    """Let work be spread over ``count`` cores, and torch compute on ``threads`` of them outside :func:`all_cores`.

    Torch's number, which is one for the whole process, is restored at the end.
    """
    token = _cores.set(count)
    try:
        with torch_threads(threads):
            yield
    finally:
        _cores.reset(token)


def cores() -> int:
    """How many cores work may be spread over."""
    return _cores.get() or torch.get_num_threads()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch compute on ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread() -> AbstractContextManager[None]:
    """Let torch compute on one thread, for operations too short to be shared."""
    return torch_threads(1)


def all_cores() -> AbstractContextManager[None]:
    """Let torch compute on every core that may be used, for long operations of which each waits for the one before."""
    return torch_threads(cores())


def at_once(device: torch.device) -> int:
    """How many pieces :func:`each` works on at a time: torch's threads, or one where the device does the work."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def each(work: Callable[[T], R], items: Sequence[T], device: torch.device) -> list[R]:
    """``work`` of every item, in their order; a lone item has all of torch's threads, more have one each.

    The first error is raised when the pieces that had begun are done.
    """
    threads = min(at_once(device), len(items))
    if threads <= 1:
        return [work(item) for item in items]
    begin = _begin(torch.is_grad_enabled())
    with one_thread():
        pool = ThreadPoolExecutor(threads, "edgepress-pieces", initializer=begin)
        try:
            return list(pool.map(work, items))
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def ahead(device: torch.device) -> Iterator[Callable[[Callable[[], R]], Callable[[], R]]]:
    """Work on a core of its own: what is called begins it, and returns what waits for its result.

    With one thread it is done when it is waited for.
    """
    if at_once(device) == 1:
        yield lambda work: work
        return
    with one_thread(), ThreadPoolExecutor(1, "edgepress-ahead", initializer=_begin(torch.is_grad_enabled())) as pool:
        yield lambda work: pool.submit(work).result


def _begin(wants_gradients: bool) -> Callable[[], None]:
    """What a thread starts with: torch keeps these settings for each."""

    def begin() -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(wants_gradients)

    return begin


def pieces(count: int, size: int) -> list[slice]:
    """``count`` rows, ``size`` at a time."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
