"""Which rows each forward pass takes: the same rows a step, whatever number of processes and of passes it is spread over."""

from collections.abc import Callable, Iterator, Sequence


class StepBatchSampler:
    """The rows of each forward pass of one process in an epoch, as torch's DataLoader takes a batch sampler.

    Every optimiser step takes the next rows of the epoch's order, as many as all processes take together; the last one takes what is
    left, spread evenly. A process for which none is left takes a silent row, which carries no loss: the others wait for its gradients.

    Args:
        order: of an epoch's number to the order of its rows.
        rows: how many there are; the silent row has the number after theirs.
        size: rows a forward pass.
        passes: forward passes a step.
        rank: number of this process.
        ranks: how many processes there are.
    """

    def __init__(self, order: Callable[[int], Sequence[int]], rows: int, *, size: int, passes: int, rank: int = 0, ranks: int = 1) -> None:
        self._order, self._rows, self._size, self._rank, self._ranks = order, rows, size, rank, ranks
        self._step = size * passes * ranks
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch comes next."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self._passes(min(self._step, self._rows - first)) for first in range(0, self._rows, self._step))

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order(self._epoch)
        for first in range(0, self._rows, self._step):
            rows = order[first : first + self._step]
            parts = self._passes(len(rows)) * self._ranks
            bounds = [len(rows) * part // parts for part in range(parts + 1)]
            for part in range(self._rank, parts, self._ranks):
                yield list(rows[bounds[part] : bounds[part + 1]]) or [self._rows]

    def _passes(self, rows: int) -> int:
        return -(-rows // (self._size * self._ranks))
