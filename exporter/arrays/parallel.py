"""Independent pieces of work side by side, one core each.

Torch's own threads meet after every operation. On short ones they spend most of their time waiting for each other, and
all of it when something else has one of the cores. Pieces are cut by size, not by the number of threads, so what they
give does not depend on how many are worked on at once.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, for operations too short to be shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
