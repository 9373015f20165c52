"""A function of many items, computed by the threads of this process and by the processes that torchrun started."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import TypeVar

from pyscratchdet.ranks import World

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items that a process computes before it hands them over: records of photographs are 0.1 MB each.
_SHARE = 64


class Team:
    """Computes functions of many items on all cores; the results come in the order of the items.

    Process 0 calls `map`, as often as it likes, and `end` at last; the others call `help`.

    Args:
        workers: Threads of each process; 0 for one per core.
        world: The processes; by default only this one.
    """

    def __init__(self, workers: int = 0, world: World | None = None) -> None:
        self._workers = workers or len(os.sched_getaffinity(0))
        self._world = world or World()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Generator[Result]:
        """Yields the function of each item. With several processes, all three must be picklable."""
        if self._world.size == 1:
            yield from self._computed(function, items)
        else:
            self._world.share((function, items))
            yield from self._shared(function, items)

    def help(self) -> None:
        """Computes this process's share of what process 0 maps, until it has come to its end."""
        while (job := self._world.share(None)) is not None:
            for _ in self._shared(*job):
                raise AssertionError("only process 0 gets results")

    def end(self) -> None:
        """Sends the helpers home."""
        self._world.share(None)

    def _shared(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Computes this process's share, and yields all results on process 0."""
        step = _SHARE * self._world.size
        for start in range(0, len(items), step):
            mine = start + _SHARE * self._world.rank
            share = list(self._computed(function, items[mine : mine + _SHARE]))
            yield from chain.from_iterable(self._world.gather(share))

    def _computed(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yields the function of each item; what follows is computed meanwhile, though not much of it."""
        if self._workers == 1:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(self._workers) as pool:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
