"""Pictures from files, folders, videos and cameras, one after another; what cannot be read is reported, not fatal."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from pyscratchdet.data.images import PICTURE_SUFFIXES, decode_image
from pyscratchdet.errors import DataError, FileError, PyScratchDetError
from pyscratchdet.files import read_bytes

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".mjpg"})
_MOST_CAMERAS = 1000


@dataclass(frozen=True)
class MediaSource:
    """One input.

    Attributes:
        path: The file, or the camera's number.
        name: Unique name for outputs, without suffix; a folder's pictures keep their relative folders.
        kind: "picture", "video" or "camera".
    """

    path: str
    name: str
    kind: str


@dataclass
class Frame:
    """One picture of a source; `image` is None and `error` says why where it could not be read.

    Attributes:
        source: Where it comes from.
        index: Frame number in a video or camera, from 0; -1 for a picture.
        image: uint8 (h, w, 3) BGR.
        error: Why there is no image.
        fps: The video's frames per second; 0 for pictures.
    """

    source: MediaSource
    index: int = -1
    image: np.ndarray | None = None
    error: PyScratchDetError | None = None
    fps: float = 0.0

    @property
    def name(self) -> str:
        """The name of its own outputs, without suffix: frames are numbered."""
        return self.source.name if self.index < 0 else f"{self.source.name}_{self.index:06d}"


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a picture as colour: uint8 (h, w, 3) BGR.

    Raises:
        FileError: There is no such file.
        DataError: It is not a picture that OpenCV can read, or it is truncated.
    """
    return decode_image(read_bytes(path), name=os.fspath(path))


@dataclass
class FoundMedia:
    """The inputs of a command.

    Attributes:
        sources: Pictures, videos and cameras, in order.
        left_out: {ending: how many} of the other files in the folders, such as {".gif": 2}.
    """

    sources: list[MediaSource] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def describe_left_out(self) -> str:
        """Returns text such as "2 .gif, 1 .txt"."""
        return ", ".join(f"{number} {ending or 'without an ending'}" for ending, number in self.left_out.most_common())


def find_media(inputs: Sequence[str]) -> FoundMedia:
    """Sorts command-line inputs into pictures, videos and cameras; folders give the pictures and videos in them.

    Raises:
        FileError: An input does not exist.
        DataError: A folder has neither pictures nor videos.
    """
    found = FoundMedia()
    taken: set[str] = set()

    def add(path: Path | str, name: str, kind: str) -> None:
        unique, number = name, 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique)
        found.sources.append(MediaSource(str(path), unique, kind))

    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.is_file()]
            known = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES | VIDEOS]
            found.left_out.update(file.suffix.lower() for file in set(files) - set(known))
            if not known:
                raise DataError(
                    f"{path}: no pictures or videos in this folder",
                    code="detect.empty-folder",
                    expected=", ".join(sorted(PICTURE_SUFFIXES | VIDEOS)),
                    found=found.describe_left_out() or "nothing",
                )
            for file in known:
                add(file, str(file.relative_to(path).with_suffix("")), _kind(file))
        elif path.is_file():
            add(path, path.stem, _kind(path))
        elif text.isdecimal() and int(text) < _MOST_CAMERAS:
            add(text, f"camera{text}", "camera")
        else:
            raise FileError(f"no file or folder {path}", code="file.read", hint="a number means a camera")
    return found


def _kind(path: Path) -> str:
    return "video" if path.suffix.lower() in VIDEOS else "picture"


def count_frames(sources: Sequence[MediaSource], max_frames: int | None = None) -> int | None:
    """Returns how many frames `read_frames` will give, as far as the videos say; None where a camera is among them."""
    total = 0
    for source in sources:
        if source.kind == "picture":
            total += 1
        elif source.kind == "camera":
            if max_frames is None:
                return None
            total += max_frames
        else:
            length = _video_length(source)
            total += length if max_frames is None else min(length, max_frames)
    return total


def _video_length(source: MediaSource) -> int:
    try:
        capture = _open_capture(source)
    except DataError:
        return 0
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def _open_capture(source: MediaSource) -> cv2.VideoCapture:
    if source.kind == "camera":
        return cv2.VideoCapture(int(source.path))
    if not has_utf8_path(source.path):
        raise DataError(
            f"{source.path}: a video whose path is not UTF-8", code="data.video", hint="rename it, or its folder"
        )
    return cv2.VideoCapture(source.path)


def has_utf8_path(path: str | os.PathLike[str]) -> bool:
    """Whether OpenCV may be given a path: it crashes (SIGSEGV) on a video whose path is not UTF-8."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def read_frames(sources: Sequence[MediaSource], max_frames: int | None = None, workers: int = 2) -> Iterator[Frame]:
    """Yields every picture and frame in order, decoding pictures ahead in threads.

    Args:
        sources: As `find_media` returns them.
        max_frames: How many frames of each video and camera to read at most.
        workers: Number of threads that decode.
    """
    with ThreadPoolExecutor(workers) as pool:
        remaining = iter(sources)
        waiting: deque[MediaSource | Future[Frame]] = deque()

        def refill() -> None:
            for source in islice(remaining, max(0, 4 * workers - len(waiting))):
                waiting.append(pool.submit(_read_still, source) if source.kind == "picture" else source)

        refill()
        while waiting:
            head = waiting.popleft()
            if isinstance(head, Future):
                yield head.result()
            else:
                yield from _read_video(head, max_frames)
            refill()


def _read_still(source: MediaSource) -> Frame:
    try:
        return Frame(source, image=read_picture(source.path))
    except PyScratchDetError as error:
        return Frame(source, error=error)


def _read_video(source: MediaSource, max_frames: int | None) -> Iterator[Frame]:
    try:
        capture = _open_capture(source)
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
