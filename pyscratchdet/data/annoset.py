"""Writes pictures and annotation files into an AnnotatedDatum LMDB, byte for byte as convert_annoset does.

See tools/convert_annoset.cpp and io.cpp (ReadImageToDatum, ReadRichImageToAnnotatedDatum).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from pyscratchdet.data import images
from pyscratchdet.data.annotations import AnnotationReader
from pyscratchdet.data.database import DatabaseWriter, resumable_database
from pyscratchdet.data.label_map import name_to_label, read_label_map
from pyscratchdet.data.lists import Entry, list_position
from pyscratchdet.data.team import Team
from pyscratchdet.errors import DataError, FileError, PyScratchDetError, UsageError, counted
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

# Entries for each line of the journal: the most that an interruption can lose.
_PART = 1000


@dataclass(frozen=True)
class AnnosetOptions:
    """The flags of convert_annoset under their own names, then ours.

    Attributes:
        skip_bad: Skip and count broken annotations and objects, as pictures that cannot be read always are.
        seed: Seed of the shuffle; None draws one from the operating system, as the original does.
        redo: Replace an existing database.
        without_objects: Accept a list in which no picture has an object, such as a test set's.
    """

    gray: bool = False
    shuffle: bool = False
    anno_type: str = "classification"
    label_type: str = "xml"
    label_map_file: str = ""
    check_label: bool = False
    min_dim: int = 0
    max_dim: int = 0
    resize_width: int = 0
    resize_height: int = 0
    check_size: bool = False
    encoded: bool = False
    encode_type: str = ""
    skip_bad: bool = False
    seed: int | None = None
    redo: bool = False
    without_objects: bool = False


@dataclass
class Summary:
    """What became of the entries of a list.

    Attributes:
        written: Each entry that became a record, with the height and width of its picture file.
        skipped: (picture, reason) of the other entries.
        remarks: (annotation file, what is odd about it).
        num_objects: Number of objects in all records.
        num_kept: How many entries an earlier, interrupted run had already done.
        list_file: The file that lists the entries; "" if there is none.
    """

    written: list[tuple[Entry, int, int]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    remarks: list[tuple[str, str]] = field(default_factory=list)
    num_objects: int = 0
    num_kept: int = 0
    list_file: str = ""

    def extend(self, part: Mapping[str, Any], entries: Sequence[Entry]) -> None:
        """Adds the outcome of some entries."""
        self.written += [(entries[index], height, width) for index, height, width in part["written"]]
        self.skipped += [(picture, reason) for picture, reason in part["skipped"]]
        self.remarks += [(file, oddity) for file, oddity in part["remarks"]]
        self.num_objects += part["num_objects"]

    def lines(self, examples: int = 3) -> list[str]:
        """Returns the summary as text, with some file names for each reason."""
        kept = f"; an earlier run had done {counted(self.num_kept, 'entry', 'entries')}" if self.num_kept else ""
        text = [f"{counted(len(self.written), 'record')} written, {len(self.skipped)} skipped{kept}"]
        for title, entries in (("skipped", self.skipped), ("noted", self.remarks)):
            for reason, count in Counter(reason for _, reason in entries).most_common():
                names = list(dict.fromkeys(name for name, why in entries if why == reason))
                more = ", ..." if len(names) > examples else ""
                times = "once" if count == 1 else f"{count} times"
                shown = ", ".join(self._place(name) if title == "skipped" else name for name in names[:examples])
                text.append(f"  {title} {times}: {reason} ({shown}{more})")
        return text

    def _place(self, picture: str) -> str:
        return f"{list_position(self.list_file, picture)}: {picture}" if self.list_file else picture


def write_annoset(
    root: str,
    entries: Sequence[Entry],
    database: str | os.PathLike[str],
    options: AnnosetOptions,
    progress: Callable[[int], object] | None = None,
    list_file: str = "",
    team: Team | None = None,
) -> Summary:
    """Writes one record per entry, keyed `%08d_<picture>` in the order of the (shuffled) list.

    After an interruption, the same call continues where the last one stopped. (A shuffle without a seed orders the list
    differently each time, so it starts over.)

    Args:
        root: Prefix of each path, used as it is: end it with a slash.
        entries: As `read_list` returns them.
        database: Folder to create; it appears only once everything is written.
        options: What to write.
        progress: Called with the number of entries done.
        list_file: The file that lists the entries, for messages.
        team: What makes the records; by default a thread per core. The bytes are the same, whoever makes them.

    Raises:
        FileError: The database already exists or cannot be written.
        DataError: A picture or annotation is broken and `skip_bad` is off (a picture that cannot be read is skipped
            even so, as in the original); or there is nothing to learn from: no records, or no objects in any of them
            (single pictures without objects are kept with a remark, as in the original).
        UsageError: The options do not go together.
    """
    maker = RecordMaker(root, options)
    entries = list(entries)
    if options.shuffle:
        CaffeRandom(options.seed).shuffle(entries)
    with resumable_database(database, _job(root, entries, options), options.redo) as (writer, journal):
        summary, data_size = Summary(list_file=list_file), None
        try:
            for part in journal.parts:
                summary.extend(part, entries)
                data_size, summary.num_kept = part["data_size"], int(part["done"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            hint = f"remove {journal.folder} to start over"
            raise DataError("the journal of an interrupted run is damaged", code="data.journal", hint=hint) from error
        rest = range(summary.num_kept, len(entries))
        with closing((team or Team()).map(maker.make, entries[rest.start :])) as made:
            writing = _Writing(maker, writer, entries, made, progress, list_file, data_size)
            for start in rest[::_PART]:
                part = writing.part(rest[start - rest.start :][:_PART])
                journal.add(writer, part)
                summary.extend(part, entries)
        if problem := _problem(summary, maker):
            journal.parts.clear()
            raise problem
    return summary


def _problem(summary: Summary, maker: RecordMaker) -> DataError | None:
    """Returns the error for a useless database: one without records or without objects."""
    root, options = maker.root, maker.options
    why = "; ".join(line.strip() for line in summary.lines()[1:])
    if not summary.written:
        tried = f"; the first picture tried was {root}{summary.skipped[0][0]}" if summary.skipped else ""
        if os.path.isdir(root) and not root.endswith("/"):
            why = f"paths are joined as they are, so end the folder with a slash: {root}/; {why}"
        return DataError(f"no record could be written{tried}", code="data.empty-database", hint=why)
    if options.anno_type == "detection" and not options.without_objects and not summary.num_objects:
        return DataError("no picture has an object", code="data.no-objects", hint=why)
    return None


@dataclass
class _Writing:
    """Writes the records of a list, part by part.

    Attributes:
        maker: Makes them.
        writer: Takes them.
        entries: The list.
        made: What becomes of the entries that are not done yet.
        progress: Called with the number of entries done.
        list_file: The file that lists the entries.
        data_size: Size of the first picture's data, which `check_size` compares with; None before the first picture.
    """

    maker: RecordMaker
    writer: DatabaseWriter
    entries: Sequence[Entry]
    made: Iterator[Made]
    progress: Callable[[int], object] | None
    list_file: str
    data_size: int | None

    def part(self, indices: range) -> dict[str, Any]:
        """Writes the next records and returns their outcome in the journal's form."""
        part: dict[str, Any] = {"done": indices.stop, "written": [], "skipped": [], "num_objects": 0, "remarks": []}
        for index, made in zip(indices, self.made, strict=False):
            picture, _ = self.entries[index]
            part["remarks"] += made.remarks
            error = made.error or self._size_error(picture, made)
            if error is None:
                self.writer.put(f"{index:08d}_{picture}", made.record)
                part["written"].append((index, *made.size))
                part["num_objects"] += made.num_objects
            elif self.maker.options.skip_bad or error.code in ("data.image", "file.read"):
                shown = error.message.replace(f"{self.maker.root}{picture}", "the picture")
                part["skipped"].append((picture, shown))
            else:
                raise self._listed(error, *self.entries[index])
            if self.progress is not None:
                self.progress(index + 1)
        return {**part, "data_size": self.data_size}

    def _size_error(self, picture: str, made: Made) -> DataError | None:
        """Returns what is wrong if `check_size` finds data of another size than the first picture's."""
        if not self.maker.options.check_size:
            return None
        if self.data_size is None:
            self.data_size = made.num_values
        elif made.num_bytes != self.data_size:
            return DataError(
                f"{picture} differs in size from the first picture", code="data.size", expected=self.data_size,
                found=made.num_bytes, hint="pass --resize_height and --resize_width, without --encoded",
            )  # fmt: skip
        return None

    def _listed(self, error: PyScratchDetError, picture: str, partner: str) -> PyScratchDetError:
        """Adds to an error where its entry is listed."""
        if self.list_file:
            place = f"listed at {list_position(self.list_file, picture, partner)}"
            error.hint = "; ".join(filter(None, (error.hint, place)))
        return error


def _job(root: str, entries: Sequence[Entry], options: AnnosetOptions) -> str:
    """Returns a hash of what determines a database: the list in its order, the options and the label map."""
    label_map = options.label_map_file
    labels = read_bytes(label_map).hex() if os.path.isfile(label_map) else ""
    content = [os.path.abspath(root), entries, {**asdict(options), "redo": False}, labels]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@dataclass
class Made:
    """What becomes of an entry.

    Attributes:
        record: The AnnotatedDatum's bytes.
        size: Height and width of the picture in its file.
        num_objects: How many objects it has.
        num_values: Values of the picture as it is stored: channels * height * width.
        num_bytes: Bytes of its data.
        remarks: (annotation file, oddity) pairs.
        error: Why there is no record.
    """

    record: bytes = b""
    size: tuple[int, int] = (0, 0)
    num_objects: int = 0
    num_values: int = 0
    num_bytes: int = 0
    remarks: list[tuple[str, str]] = field(default_factory=list)
    error: DataError | FileError | None = None


class RecordMaker:
    """Makes the AnnotatedDatum of any list entry; several threads may share it.

    Attributes:
        root: Prefix of each path.
        options: What to make.
    """

    def __init__(self, root: str, options: AnnosetOptions) -> None:
        self.root = root
        self.options = options
        _check(options)
        self._labels = {}
        if options.anno_type == "detection" and not (options.label_type == "txt" and not options.label_map_file):
            label_map = read_label_map(options.label_map_file)
            self._labels = name_to_label(label_map, options.check_label, options.label_map_file)

    def make(self, entry: Entry) -> Made:
        """Returns the record of a picture and its annotation file or label, or what is wrong with them.

        `Made.error` is a FileError if the picture cannot be read, or a DataError if it cannot be decoded or encoded or
        the annotation is damaged.
        """
        made = Made()
        try:
            record = self._record(*entry, made)
        except (DataError, FileError) as error:
            made.error = error
            return made
        made.record = record.SerializeToString()
        made.num_objects = sum(len(group.annotation) for group in record.annotation_group)
        made.num_values = record.datum.channels * record.datum.height * record.datum.width
        made.num_bytes = len(record.datum.data)
        return made

    def _record(self, picture: str, partner: str, made: Made) -> caffe_pb2.AnnotatedDatum:
        options = self.options
        record = caffe_pb2.AnnotatedDatum()
        is_detection = options.anno_type == "detection"
        made.size = self._fill(record.datum, picture, -1 if is_detection else _class_label(picture, partner))
        if is_detection:
            record.type = caffe_pb2.AnnotatedDatum.BBOX
            path = self.root + partner
            if os.path.exists(path):
                reader = AnnotationReader(self._labels, options.skip_bad, made.remarks)
                record.annotation_group.extend(reader.read(path, options.label_type, *made.size))
            else:
                made.remarks.append((path, "no annotation file"))
        return record

    def _fill(self, datum: caffe_pb2.Datum, picture: str, label: int) -> tuple[int, int]:
        """Fills in a picture and its label; returns height and width of the picture in its file."""
        data = read_bytes(self.root + picture)
        original = images.decode_image(data, color=not self.options.gray, name=picture)
        image = self._resized(original)
        kind = self._encoding(picture)
        datum.height, datum.width, datum.channels = image.shape
        if not kind:
            datum.data, datum.encoded = np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes(), False
        elif not self._wants_resize() and _same_kind(picture, kind):
            datum.data, datum.encoded = data, True
        else:
            datum.data, datum.encoded = images.encode(image, kind), True
        datum.label = label
        height, width = original.shape[:2]
        return height, width

    def _wants_resize(self) -> bool:
        options = self.options
        return any(
            value > 0 for value in (options.min_dim, options.max_dim, options.resize_height, options.resize_width)
        )

    def _resized(self, image: np.ndarray) -> np.ndarray:
        """ReadImageToCVMat: min_dim and max_dim keep the aspect ratio and override resize_height and resize_width."""
        options = self.options
        if options.min_dim > 0 or options.max_dim > 0:
            scale = _scale(min(image.shape[:2]), max(image.shape[:2]), options.min_dim, options.max_dim)
            return image if scale == 1 else _channels(cv2.resize(image, None, fx=float(scale), fy=float(scale)))
        if options.resize_height > 0 and options.resize_width > 0:
            return _channels(cv2.resize(image, (options.resize_width, options.resize_height)))
        return image

    def _encoding(self, picture: str) -> str:
        """Returns the encoding asked for, or else one guessed from the file name: its extension with the dot.

        The dot keeps a guess from equalling the file's own, so `--encoded` alone encodes again, as in the original.
        """
        if self.options.encode_type or not self.options.encoded:
            return self.options.encode_type
        if "." not in picture:
            raise DataError(f"cannot guess the encoding of {picture}", code="data.encode", hint="pass --encode_type")
        return picture[picture.rindex(".") :].lower()


def size_line(picture: str, height: int, width: int, name: str | int | None = None) -> str:
    """Returns a line of a name_size_file: the picture's bare name, or another, then height and width."""
    return f"{os.path.splitext(os.path.basename(picture))[0] if name is None else name} {height} {width}\n"


def _check(options: AnnosetOptions) -> None:
    if options.anno_type not in ("classification", "detection"):
        raise UsageError("unknown anno_type", code="usage.anno-type", expected="classification or detection",
                         found=options.anno_type)  # fmt: skip
    if options.label_type not in ("xml", "json", "txt"):
        raise UsageError("unknown label_type", code="usage.label-type", expected="xml, json or txt",
                         found=options.label_type)  # fmt: skip
    if options.anno_type == "detection" and options.label_type != "txt" and not options.label_map_file:
        raise UsageError("detection needs a label map", code="usage.label-map", hint="pass --label_map_file")
    _check_sizes(options)


def _check_sizes(options: AnnosetOptions) -> None:
    for name in ("min_dim", "max_dim", "resize_width", "resize_height"):
        if (value := getattr(options, name)) < 0:
            raise UsageError(f"--{name} must not be negative", code="usage.size", found=value)
    if bool(options.resize_width) != bool(options.resize_height) and not (options.min_dim or options.max_dim):
        raise UsageError("--resize_width and --resize_height go together", code="usage.size",
                         found=f"{options.resize_width} and {options.resize_height}",
                         hint="one alone changes no size, in the original too")  # fmt: skip


def _scale(low: int, high: int, min_dim: int, max_dim: int) -> np.float32:
    scale = np.float32(1)
    if min_dim > 0 and low < min_dim:
        scale = np.float32(min_dim) / np.float32(low)
    if 0 < max_dim < int(scale * np.float32(high)):
        scale = np.float32(max_dim) / np.float32(high)
    return scale


def _channels(image: np.ndarray) -> np.ndarray:
    """Restores the axis of a single channel, which OpenCV drops."""
    return image if image.ndim == 3 else image[..., None]


def _same_kind(picture: str, kind: str) -> bool:
    """matchExt: whether the file may be stored as it is."""
    extension = picture.rpartition(".")[2].lower()
    return extension == kind.lower() or (kind.lower() == "jpg" and extension == "jpeg")


def _class_label(picture: str, word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise DataError(f"the label of {picture} is not a number", code="data.list", found=word,
                        hint="a list of annotation files needs --anno_type=detection") from None  # fmt: skip
