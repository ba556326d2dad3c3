"""Pieces of work side by side: their order, their settings, their errors."""

import threading
from collections.abc import Iterator

import pytest
import torch

from edgepress.exporter.arrays.parallel import ahead, all_cores, cores, each, one_thread, pieces, use_cores

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3], autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


def test_results_keep_the_order_of_the_items() -> None:
    assert each(lambda item: item * item, range(20), CPU) == [item * item for item in range(20)]
    assert each(lambda item: item, [], CPU) == []


def test_pieces_run_side_by_side_with_one_thread_each(threads: int) -> None:
    together = threading.Barrier(threads)

    def work(_: int) -> tuple[int, bool]:
        together.wait(60)  # never passed unless as many pieces are worked on at once
        return torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert each(work, range(threads), CPU) == [(1, False)] * threads
    assert each(work, range(threads), CPU) == [(1, True)] * threads


def test_a_lone_piece_has_all_threads(threads: int) -> None:
    assert each(lambda _: torch.get_num_threads(), [0], CPU) == [threads]


def test_pieces_of_pieces_are_done_in_turn() -> None:
    assert each(lambda a: each(lambda b: a + b, range(3), CPU), range(0, 30, 10), CPU) == [
        [0, 1, 2],
        [10, 11, 12],
        [20, 21, 22],
    ]


def test_an_error_is_raised_as_it_is() -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("piece 2")
        return item

    with pytest.raises(ValueError, match="piece 2"):
        each(work, range(5), CPU)
    with ahead(CPU) as begin, pytest.raises(ValueError, match="piece 2"):
        begin(lambda: work(2))()


def test_what_is_begun_ahead_is_there_when_waited_for() -> None:
    with ahead(CPU) as begin:
        waiting = [begin(lambda item=item: (item, torch.get_num_threads())) for item in range(3)]
        assert [wait() for wait in waiting] == [(0, 1), (1, 1), (2, 1)]


def test_one_thread_is_for_the_block_only() -> None:
    with one_thread():
        assert torch.get_num_threads() == 1


def test_torch_computes_on_all_cores_where_that_is_asked_for(threads: int) -> None:
    assert cores() == threads
    with use_cores(5, 1):
        assert (cores(), torch.get_num_threads()) == (5, 1)
        with all_cores():
            assert torch.get_num_threads() == 5
        assert torch.get_num_threads() == 1
    assert cores() == threads


def test_the_last_piece_may_be_smaller() -> None:
    assert pieces(7, 3) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert pieces(0, 3) == []
