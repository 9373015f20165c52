"""What there is to look at: pictures, folders, lists, databases, shards, videos, cameras; and reading one picture."""

from __future__ import annotations

import codecs
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import cv2
import numpy as np

from pyscratchdet.data.database import Database
from pyscratchdet.data.images import PICTURE_SUFFIXES, SizedPicture, decode_at_least, decode_image
from pyscratchdet.errors import DataError, FileError, Position, PyScratchDetError
from pyscratchdet.files import read_bytes

VIDEOS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".mjpg"})
LISTS = frozenset({".txt", ".lst", ".list"})
RUN_FOLDER = ".run"  # in an output folder: what a run remembers of itself
_MOST_CAMERAS = 1000
_DATABASES = ("data.mdb", "CURRENT")  # what an LMDB and a LevelDB have
_NOT_UTF8 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class MediaSource:
    """One input.

    Attributes:
        path: The file or folder, or the camera's number; of a picture inside a database or a shard, its key there.
        name: Unique name for outputs, without suffix; a folder's pictures keep their relative folders.
        kind: "picture", "video", "camera", "database" or "shard".
        read: Reads the picture, where it is not a file of its own; takes and returns what `decode_at_least` does.
    """

    path: str
    name: str
    kind: str
    read: Callable[[tuple[int, int] | None], SizedPicture] | None = field(default=None, compare=False, repr=False)


@dataclass
class Frame:
    """One picture of a source; `image` is None and `error` says why where it could not be read.

    Attributes:
        source: Where it comes from.
        index: Frame number in a video or camera, from 0; -1 for a picture.
        image: uint8 (h, w, 3) BGR.
        error: Why there is no image.
        fps: The video's frames per second; 0 for pictures.
        size: (height, width) of the picture in pixels, which `image` may have in a reduced size.
        prepared: The net's input, (channels, height, width) float32, once it is made.
    """

    source: MediaSource
    index: int = -1
    image: np.ndarray | None = None
    error: PyScratchDetError | None = None
    fps: float = 0.0
    size: tuple[int, int] = (0, 0)
    prepared: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.image is not None and self.size == (0, 0):
            self.size = self.image.shape[0], self.image.shape[1]

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


def read_still(source: MediaSource, least: tuple[int, int] | None = None) -> Frame:
    """Returns a picture, or why it cannot be read.

    Args:
        source: A picture.
        least: See `decode_at_least`.
    """
    try:
        if source.read is not None:
            image, size = source.read(least)
        else:
            image, size = decode_at_least(read_bytes(source.path), source.path, least)
    except PyScratchDetError as error:
        return Frame(source, error=error)
    return Frame(source, image=image, size=size)


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
        return describe_endings(self.left_out)


def describe_endings(left_out: Counter[str]) -> str:
    """Returns text such as "2 .gif, 1 .txt"."""
    return ", ".join(f"{number} {ending or 'without an ending'}" for ending, number in left_out.most_common())


def find_media(inputs: Sequence[str]) -> FoundMedia:
    """Lists what `walk_media` finds.

    Raises:
        FileError, DataError: As there.
    """
    found = FoundMedia()
    found.sources += walk_media(inputs, found.left_out)
    return found


def walk_media(inputs: Sequence[str], left_out: Counter[str]) -> Iterator[MediaSource]:
    """Yields what command-line inputs name, one after the other: folders give the pictures and videos in them.

    Nothing is kept in memory beyond one folder's names, except with several inputs: then the names of their pictures,
    lists and shards are, so that each is unique.

    Args:
        inputs: Pictures, folders, lists (text, a path in each line), databases, tar shards, videos, camera numbers.
        left_out: Gets {ending: how many} of the other files in folders.

    Raises:
        FileError: An input does not exist, or cannot be read.
        DataError: A folder has neither pictures nor videos, or a list is empty.
    """
    taken = _Names()
    for text in inputs:
        path, kind = Path(text), input_kind(text)
        if kind == "folder":
            for name, file in _walk_folder(path, left_out):
                yield MediaSource(file, name if len(inputs) == 1 else taken.unique(name), _file_kind(file))
        elif kind == "list":
            yield from _walk_list(path, taken.unique(path.stem))
        elif kind == "camera":
            yield MediaSource(text, taken.unique(f"camera{text}"), kind)
        else:
            yield MediaSource(str(path), taken.unique(path.name if kind == "database" else path.stem), kind)


def input_kind(text: str) -> str:
    """Returns what a command-line input is: "folder", "list", or a source's kind.

    Raises:
        FileError: It does not exist.
    """
    path = Path(text)
    if path.is_dir():
        return "database" if any((path / name).is_file() for name in _DATABASES) else "folder"
    if path.is_file():
        return "list" if path.suffix.lower() in LISTS else _file_kind(text)
    if text.isdecimal() and int(text) < _MOST_CAMERAS:
        return "camera"
    raise FileError(f"no file or folder {path}", code="file.read", hint="a number means a camera")


class _Names:
    """Names given so far."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """Returns the name, with a number where it is taken."""
        unique, number = name, 2
        while unique in self._taken:
            unique, number = f"{name}_{number}", number + 1
        self._taken.add(unique)
        return unique


def _walk_folder(folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    """Yields (name without suffix, path) of the pictures and videos below a folder, in the order of their paths."""
    is_empty = True
    for item in _known_files("" if folder == Path() else str(folder), "", left_out):
        is_empty = False
        yield item
    if is_empty:
        raise DataError(
            f"{folder}: no pictures or videos in this folder",
            code="detect.empty-folder",
            expected=", ".join(sorted(PICTURE_SUFFIXES | VIDEOS)),
            found=describe_endings(left_out) or "nothing",
        )


def _known_files(folder: str, prefix: str, left_out: Counter[str]) -> Iterator[tuple[str, str]]:
    names = _Names()
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
    except OSError as error:
        raise FileError(f"cannot read {folder}: {error.strerror or error}", code="file.read") from error
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _known_files(path, f"{prefix}{entry.name}/", left_out)
        elif entry.is_file():
            file = PurePath(entry.name)
            if file.suffix.lower() in PICTURE_SUFFIXES | VIDEOS:
                yield names.unique(prefix + file.stem), path
            elif RUN_FOLDER not in PurePath(folder).parts:
                left_out[file.suffix.lower()] += 1


def _walk_list(path: Path, name: str) -> Iterator[MediaSource]:
    """Yields what the lines of a list name, each called after the list, its line and its file: they are unique so."""
    base: Path | None = None
    for number, line in enumerate(_lines(path)):
        if base is None:
            # Lists are relative to the folder in which they were made: their own, one above it, or the current one.
            folders = (*path.absolute().parents[:3], Path())
            base = next((folder for folder in folders if (folder / line).exists()), Path())
        yield MediaSource(str(base / line), f"{name}/{number:08d}_{PurePath(line).stem}", _file_kind(line))
    if base is None:
        raise DataError("the list is empty", code="data.list", position=Position(str(path)))


def _lines(path: Path) -> Iterator[str]:
    """Yields the lines of a list that are not blank, one at a time; file names need not be UTF-8."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file):
                if not number and line.startswith(_NOT_UTF8):
                    raise DataError("the list is in UTF-16", code="data.list", position=Position(str(path), 1),
                                    hint="save it as UTF-8")  # fmt: skip
                text = line.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape").strip()
                if text:
                    yield text
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}", code="file.read") from error


def _file_kind(path: str) -> str:
    suffix = PurePath(path).suffix.lower()
    return "video" if suffix in VIDEOS else "shard" if suffix == ".tar" else "picture"


def count_frames(sources: Iterable[MediaSource], max_frames: int | None = None) -> int | None:
    """Returns how many frames there will be, as far as videos say; None where a camera or a shard is among them."""
    total = 0
    for source in sources:
        if source.kind == "picture":
            total += 1
        elif source.kind == "database":
            total += sum(1 for _ in Database(source.path).readers())
        elif source.kind == "video":
            length = video_length(source)
            total += length if max_frames is None else min(length, max_frames)
        elif source.kind == "shard" or max_frames is None:
            return None
        else:
            total += max_frames
    return total


def video_length(source: MediaSource) -> int:
    """Returns the number of frames that a video says it has; 0 if it cannot be opened."""
    try:
        capture = open_capture(source)
    except DataError:
        return 0
    try:
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    finally:
        capture.release()


def open_capture(source: MediaSource) -> cv2.VideoCapture:
    """Opens a video or a camera.

    Raises:
        DataError: A video whose path OpenCV may not be given.
    """
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
