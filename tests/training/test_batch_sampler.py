"""Rows of a step: the same ones for any number of processes and forward passes, each once an epoch."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tasks.training.batch_sampler import StepBatchSampler


def order_of(rows: int, epoch: int) -> list[int]:
    return random.Random(epoch).sample(range(rows), rows)


def steps(rows: int, size: int, passes: int, ranks: int, epoch: int = 0) -> list[list[int]]:
    """The rows of each step over all processes, silent ones left out, as transformers' Trainer takes the batches."""
    taken: list[list[int]] = []
    for rank in range(ranks):
        own = StepBatchSampler(lambda epoch: order_of(rows, epoch), rows, size=size, passes=passes, rank=rank, ranks=ranks)
        own.set_epoch(epoch)
        batches = list(own)
        assert len(own) == len(batches) and all(1 <= len(batch) <= size for batch in batches)
        for place, batch in enumerate(batches):
            if place % passes == 0 and len(taken) <= place // passes:
                taken.append([])
            taken[place // passes] += [row for row in batch if row != rows]
    return taken


@given(rows=st.integers(1, 90), size=st.integers(1, 5), passes=st.integers(1, 4), ranks=st.integers(1, 4), epoch=st.integers(0, 3))
def test_a_step_takes_the_same_rows_however_it_is_spread(rows: int, size: int, passes: int, ranks: int, epoch: int) -> None:
    at_once = size * passes * ranks
    order = order_of(rows, epoch)
    expected = [sorted(order[first : first + at_once]) for first in range(0, rows, at_once)]
    assert [sorted(step) for step in steps(rows, size, passes, ranks, epoch)] == expected
    assert [sorted(step) for step in steps(rows, at_once, 1, 1, epoch)] == expected


@given(rows=st.integers(1, 90), size=st.integers(1, 5), passes=st.integers(1, 4), ranks=st.integers(2, 4))
def test_all_processes_take_as_many_batches(rows: int, size: int, passes: int, ranks: int) -> None:
    lengths = {
        len(list(StepBatchSampler(lambda _: range(rows), rows, size=size, passes=passes, rank=rank, ranks=ranks))) for rank in range(ranks)
    }
    assert len(lengths) == 1


def test_the_last_rows_are_spread_evenly_and_whoever_has_none_takes_a_silent_one() -> None:
    def taken(rank: int, rows: int) -> list[list[int]]:
        return list(StepBatchSampler(lambda _: range(rows), rows, size=2, passes=2, rank=rank, ranks=2))

    assert [taken(rank, 11) for rank in (0, 1)] == [[[0, 1], [4, 5], [8]], [[2, 3], [6, 7], [9, 10]]]
    assert [taken(rank, 9) for rank in (0, 1)] == [[[0, 1], [4, 5], [9]], [[2, 3], [6, 7], [8]]]
