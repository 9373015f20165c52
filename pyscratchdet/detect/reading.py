"""Reading ahead: threads decode and prepare what the net will look at next."""

from __future__ import annotations

import os
import queue
import re
import tarfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePath
from typing import Any, TypeVar

import cv2

from pyscratchdet.data.database import Database
from pyscratchdet.data.images import PICTURE_SUFFIXES, SizedPicture, decode_at_least
from pyscratchdet.data.records import datum_of, record_title
from pyscratchdet.data.transform import DataTransformer
from pyscratchdet.detect.media import Frame, MediaSource, open_capture, read_still
from pyscratchdet.errors import DataError, PyScratchDetError, UsageError, counted
from pyscratchdet.files import safe_file_name
from pyscratchdet.proto import caffe_pb2

_ReadResult = TypeVar("_ReadResult")
_NUMBERED = re.compile(r"\d{8,}_")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd


@dataclass(frozen=True)
class Unit:
    """A piece of the work, which one process does: some pictures, or one video, camera or shard.

    Attributes:
        number: Its place among all units.
        sources: Pictures, or one of the others.
    """

    number: int
    sources: tuple[MediaSource, ...]

    @property
    def is_video(self) -> bool:
        """Whether its frames belong together."""
        return self.sources[0].kind in ("video", "camera")


@dataclass(frozen=True)
class ReadOptions:
    """How pictures are read.

    Attributes:
        max_frames: How many frames of each video and camera to read at most.
        least: See `decode_at_least`.
        prepare: Makes the net's input of a picture.
        keeps_pictures: Whether pictures are needed after that.
    """

    max_frames: int | None = None
    least: tuple[int, int] | None = None
    prepare: Callable[[Any], Any] | None = None
    keeps_pictures: bool = True


def num_workers() -> int:
    """Returns how many threads read and write: one for each core that this process may use."""
    return len(os.sched_getaffinity(0))


def cut_units(sources: Iterable[MediaSource], size: int) -> Iterator[Unit]:
    """Yields the work in units of at most `size` pictures.

    Raises:
        DataError: A database cannot be opened, or is damaged.
    """
    number, stills = 0, list[MediaSource]()
    for source in _with_records(sources):
        if source.kind != "picture" and stills:
            yield Unit(number, tuple(stills))
            number, stills = number + 1, []
        stills.append(source)
        if source.kind != "picture" or len(stills) == size:
            yield Unit(number, tuple(stills))
            number, stills = number + 1, []
    if stills:
        yield Unit(number, tuple(stills))


def _with_records(sources: Iterable[MediaSource]) -> Iterator[MediaSource]:
    """Yields the sources with the pictures of databases in their place."""
    for source in sources:
        if source.kind != "database":
            yield source
            continue
        for key, read in Database(source.path).readers():
            text = key.decode(errors="surrogateescape")
            # Caffe's keys begin with a number, and are unique without their suffix.
            name = _inner_name(source, str(PurePath(text).with_suffix("")) if _NUMBERED.match(text) else text)
            decode = partial(_decode_record, read, record_title(key, source.path))
            yield MediaSource(f"{source.path}/{text}", name, "picture", decode)


def _inner_name(source: MediaSource, key: str) -> str:
    """Returns the name of a picture inside a database or a shard, whose key may be any text."""
    return "/".join([source.name, *(safe_file_name(part) for part in key.split("/") if part)])


def _decode_record(read: Callable[[], bytes], title: str, least: tuple[int, int] | None) -> SizedPicture:
    datum = datum_of(read(), title)
    if datum.encoded:
        return decode_at_least(datum.data, title, least)
    image = DataTransformer(caffe_pb2.TransformationParameter(force_color=True)).decode_datum(datum, title)
    return image, (image.shape[0], image.shape[1])


def read_frames(
    units: Iterable[tuple[Unit, int]], options: ReadOptions, pool: Executor, most: int
) -> Generator[tuple[Unit, Frame | None], None, None]:
    """Yields every frame of some units in order, and (unit, None) after the last of each.

    Args:
        units: Each with the number of frames to leave out at its beginning.
        options: How to read.
        pool: Threads that decode and prepare.
        most: How many frames may wait.
    """
    return read_ahead(_jobs(units, options), pool, most)


def read_ahead(
    jobs: Iterable[Callable[[], _ReadResult]], pool: Executor, most: int
) -> Generator[_ReadResult, None, None]:
    """Yields what functions return, in order, while the next ones run in a pool.

    Args:
        jobs: The functions; a thread of its own takes them, since finding the next one may take time.
        pool: Runs them.
        most: How many results may wait.
    """
    waiting: queue.Queue[Future[_ReadResult] | None] = queue.Queue(most)
    ended = threading.Event()

    def fill() -> None:
        try:
            for job in jobs:
                waiting.put(pool.submit(job))
                if ended.is_set():
                    return
        except BaseException as error:
            failed: Future[_ReadResult] = Future()
            failed.set_exception(error)
            waiting.put(failed)
        waiting.put(None)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while (future := waiting.get()) is not None:
            yield future.result()
    finally:
        ended.set()
        while thread.is_alive():
            if not waiting.empty():
                waiting.get()
            thread.join(0.001)


def _jobs(units: Iterable[tuple[Unit, int]], options: ReadOptions) -> Iterator[Callable[[], tuple[Unit, Frame | None]]]:
    for unit, start in units:
        source, kind = unit.sources[0], unit.sources[0].kind
        if kind == "picture":
            for still in unit.sources[start:]:
                yield partial(_read_job, unit, partial(read_still, still, options.least), options)
        else:
            jobs = _shard_jobs(source, options.least) if kind == "shard" else _video_jobs(source, options.max_frames)
            for job in islice(jobs, start, None):
                yield partial(_read_job, unit, job, options)
        yield partial(_end_job, unit)


def _end_job(unit: Unit) -> tuple[Unit, None]:
    return unit, None


def _read_job(unit: Unit, read: Callable[[], Frame], options: ReadOptions) -> tuple[Unit, Frame]:
    frame = read()
    if frame.image is not None and options.prepare is not None:
        frame.prepared = options.prepare(frame.image)
        if not options.keeps_pictures:
            frame.image = None
    return unit, frame


def _video_jobs(source: MediaSource, max_frames: int | None) -> Iterator[Callable[[], Frame]]:
    for frame in _read_video(source, max_frames):
        yield partial(_as_it_is, frame)


def _as_it_is(frame: Frame) -> Frame:
    return frame


def _read_video(source: MediaSource, max_frames: int | None) -> Iterator[Frame]:
    try:
        capture = open_capture(source)
    except DataError as error:
        yield Frame(source, error=error)
        return
    try:
        fps = capture.get(cv2.CAP_PROP_FPS)
        number = 0
        while max_frames is None or number < max_frames:
            good, image = capture.read()
            if not good:
                break
            yield Frame(source, number, image, fps=fps if 1 <= fps <= 1000 else 25.0)
            number += 1
        if not number:
            what = f"camera {source.path}" if source.kind == "camera" else source.path
            yield Frame(
                source,
                error=DataError(
                    f"{what}: no frames",
                    code="data.video",
                    hint="OpenCV cannot open it: is it there, and does this OpenCV have a decoder for it?",
                ),
            )
    finally:
        capture.release()


def _shard_jobs(source: MediaSource, least: tuple[int, int] | None) -> Iterator[Callable[[], Frame]]:
    """Yields what reads each picture of a WebDataset shard: files of one key are a sample, whose picture it is."""
    tariterators = import_webdataset()
    try:
        for sample in tariterators.group_by_keys(_tar_files(source.path)):
            key = sample["__key__"]
            suffix = next((suffix for suffix in sample if f".{suffix}" in PICTURE_SUFFIXES), "")
            path = f"{source.path}/{key}" + (f".{suffix}" if suffix else "")
            decode = partial(_decode_sample, sample.get(suffix), path)
            yield partial(read_still, MediaSource(path, _inner_name(source, key), "picture", decode), least)
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        wrong = error if isinstance(error, PyScratchDetError) else _bad_shard(source.path, str(error.args[0]))
        yield partial(_as_it_is, Frame(source, error=wrong))


def _tar_files(path: str) -> Iterator[dict[str, Any]]:
    """Yields the files of a tar in WebDataset's form; memory is only taken for what is really there."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.peek(8).startswith(_PACKED):  # a small one can unpack to anything
            raise _bad_shard(path, "it is compressed", hint="unpack it")
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # which would grow
                if member.issparse() or member.size > size:
                    raise _bad_shard(path, f"{member.name} of {counted(member.size, 'byte')} in {size}")
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None:
                    yield {"fname": member.name, "data": content.read(), "__url__": path}


def _decode_sample(data: bytes | None, path: str, least: tuple[int, int] | None) -> SizedPicture:
    if data is None:
        raise DataError(f"{path}: a sample without a picture", code="data.shard")
    return decode_at_least(data, path, least)


def _bad_shard(path: str, what: str, hint: str = "") -> DataError:
    return DataError(f"{path}: not a whole tar shard: {what}", code="data.shard", hint=hint)


def import_webdataset() -> Any:
    """Returns webdataset's reader of tar files.

    Raises:
        UsageError: It is not installed.
    """
    try:
        import webdataset.tariterators
    except ImportError:
        raise UsageError("tar shards need webdataset", code="detect.webdataset",
                         hint='pip install "pyscratchdet[webdataset]"') from None  # fmt: skip
    return webdataset.tariterators
