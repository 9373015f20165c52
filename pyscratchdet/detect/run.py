"""A net over any number of pictures: reading, the net and writing overlap, and what is found goes to disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any

import numpy as np

from pyscratchdet.detect.media import Frame
from pyscratchdet.detect.parts import PartStore, Totals, entry_line, failure_line
from pyscratchdet.detect.reading import ReadOptions, Unit, cut_units, num_workers, read_frames
from pyscratchdet.detect.tasks import PictureTask
from pyscratchdet.ranks import World

# A unit is small enough to be shared out, and large enough that its file is worth writing.
_UNIT = 64
_PART_SECONDS = 10.0  # a unit that takes longer is written in parts
_MOST_BATCHES = 4  # which may wait to be written


class CollectionRun:
    """Looks at this process's share of a run's inputs.

    Args:
        task: What is done with each picture.
        store: Has the inputs, and gets what is found.
        world: The processes that share them.
        options: How pictures are read; the task says how they are prepared.
        on_done: Called with the number of frames done in this process.
        on_bad: Called with each frame that could not be read, in order.

    Attributes:
        num_units: Units of all processes.
        seconds: How long it took from the end of the first batch on; nothing could be read ahead of that.
        waited: For how much of that the net waited for pictures.
    """

    def __init__(
        self,
        task: PictureTask,
        store: PartStore,
        world: World,
        options: ReadOptions,
        on_done: Callable[[int], None],
        on_bad: Callable[[Frame], None],
    ) -> None:
        self._task, self._store, self._world = task, store, world
        self._options = replace(options, prepare=task.prepare, keeps_pictures=task.pictures.needs_pictures)
        self._on_done, self._on_bad = on_done, on_bad
        # Batches are the same whoever computes them, and however often the run is interrupted: units are whole batches.
        self._unit_size = task.batch_size * max(1, _UNIT // task.batch_size)
        self._done = 0
        self.num_units = 0
        self.seconds = self.waited = 0.0

    def run(self, is_live: bool = False) -> None:
        """Does what is not done yet.

        Args:
            is_live: A camera is among the inputs: pictures are not read ahead, and Ctrl-C ends the run.

        Raises:
            PyScratchDetError: The net's output is not numbers, a database is damaged, or something cannot be written.
        """
        batch_size, most = (1, 1) if is_live else (self._task.batch_size, 4 * num_workers())
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(num_workers()))
            writer = stack.enter_context(_PartWriter(self._task, self._store, pool))
            reading = stack.enter_context(closing(read_frames(self._todo(), self._options, pool, most)))
            unit = None
            try:
                for unit, group in groupby(self._timed(reading), itemgetter(0)):
                    writer.begin(unit)
                    for batch in self._batches((frame for _, frame in group if frame is not None), batch_size):
                        writer.add(unit, batch, self._find(batch))
                        self._done += len(batch)
                        self._on_done(self._done)
                    writer.end(unit)
            except KeyboardInterrupt:
                if not is_live:
                    raise
                self.num_units = 0
                if unit is not None:
                    writer.end(unit)
                    self.num_units = unit.number + 1

    def _todo(self) -> Iterator[tuple[Unit, int]]:
        """Yields this process's units that are not whole yet, each with the number of frames done."""
        for unit in cut_units(self._store.sources(), self._unit_size):
            self.num_units = unit.number + 1
            if not self._world.owns(unit.number):
                continue
            done = self._store.done(unit.number)
            if done.is_whole:
                self._done += done.lines
                continue
            if done.lines and unit.is_video and self._task.pictures.draws:  # a video is drawn from its beginning
                self._store.forget(unit.number)
                done = replace(done, lines=0)
            yield unit, done.lines

    def _timed(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Yields the same, and keeps count of the time that it takes to get them."""
        began = 0.0
        while True:
            asked = time.perf_counter()
            item = next(frames, None)
            if self._done and began:
                self.waited += time.perf_counter() - asked
                self.seconds = time.perf_counter() - began
            elif self._done:
                began = time.perf_counter()
            if item is None:
                return
            yield item

    def _batches(self, frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
        """Yields the frames in lists that have `size` readable ones each, and the rest."""
        batch, readable = list[Frame](), 0
        for frame in frames:
            batch.append(frame)
            if frame.error is None:
                readable += 1
            else:
                self._on_bad(frame)
            if readable == size:
                yield batch
                batch, readable = [], 0
        if batch:
            yield batch

    def _find(self, batch: Sequence[Frame]) -> Iterator[Any]:
        readable = [frame for frame in batch if frame.prepared is not None]
        if not readable:
            return iter(())
        prepared = np.stack([frame.prepared for frame in readable if frame.prepared is not None])
        found = self._task.find(prepared, [frame.size for frame in readable])
        for frame in readable:
            frame.prepared = None  # which would wait with it to be written
        return iter(found)


class _PartWriter:
    """Writes what is found: each picture's own files in a pool; videos and parts, in order, in a thread of its own."""

    def __init__(self, task: PictureTask, store: PartStore, pool: ThreadPoolExecutor) -> None:
        self._task, self._store, self._pool = task, store, pool
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()
        self._failed = False
        self._lines: list[bytes] = []
        self._totals = Totals()
        self._parts, self._began = 0, 0.0

    def __enter__(self) -> _PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()  # what was found before a failure is written too
        while self._waiting and kind is None:
            self._waiting.popleft().result()

    def begin(self, unit: Unit) -> None:
        """Begins or goes on with a unit."""
        self._in_order(self._begin, unit)

    def add(self, unit: Unit, frames: Sequence[Frame], found: Iterator[Any]) -> None:
        """Writes a batch; what was found is that of its readable frames."""
        jobs: list[Callable[[], tuple[bytes, list[str]]]] = []
        for frame in frames:
            job = partial(self._write, frame, None if frame.error is not None else next(found))
            is_still = frame.error is None and frame.index < 0
            jobs.append(self._pool.submit(job).result if is_still else job)
        self._in_order(self._collect, unit, jobs, sum(frame.error is not None for frame in frames))

    def end(self, unit: Unit) -> None:
        """Ends a unit."""
        self._in_order(self._end, unit)

    def _in_order(self, function: Callable[..., None], *arguments: Any) -> None:
        while len(self._waiting) > _MOST_BATCHES:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._guarded, function, *arguments))

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        """Writes nothing more after a failure: a part has no gaps."""
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _write(self, frame: Frame, found: Any) -> tuple[bytes, list[str]]:
        if frame.error is not None:
            return failure_line(frame.source.path, frame.error), []
        entry = self._task.write(frame, found)
        frame.image = None
        return entry_line(entry), self._task.classes(entry)

    def _begin(self, unit: Unit) -> None:
        self._lines, self._totals = [], Totals()
        self._parts, self._began = self._store.done(unit.number).parts, time.monotonic()

    def _collect(self, unit: Unit, jobs: Sequence[Callable[[], tuple[bytes, list[str]]]], failed: int) -> None:
        for job in jobs:
            line, classes = job()
            self._lines.append(line)
            self._totals.classes.update(classes)
        self._totals.add(len(jobs) - failed, failed, {})
        if time.monotonic() - self._began > _PART_SECONDS:
            self._put(unit, is_last=False)

    def _end(self, unit: Unit) -> None:
        if unit.is_video:
            self._task.pictures.finish_video()
        self._put(unit, is_last=True)

    def _put(self, unit: Unit, is_last: bool) -> None:
        self._store.add(unit.number, self._parts, self._lines, is_last, self._totals)
        self._lines, self._totals = [], Totals()
        self._parts, self._began = self._parts + 1, time.monotonic()
