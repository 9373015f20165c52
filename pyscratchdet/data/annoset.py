"""Writes pictures and annotation files into an AnnotatedDatum LMDB, byte for byte as convert_annoset does.

See tools/convert_annoset.cpp and io.cpp (ReadImageToDatum, ReadRichImageToAnnotatedDatum).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from pyscratchdet.data import images
from pyscratchdet.data.annotations import AnnotationReader
from pyscratchdet.data.database import DatabaseWriter, resumable_database
from pyscratchdet.data.label_map import name_to_label, read_label_map
from pyscratchdet.data.lists import Entry, list_position
from pyscratchdet.errors import DataError, FileError, UsageError, counted
from pyscratchdet.files import read_bytes
from pyscratchdet.proto import caffe_pb2
from pyscratchdet.rng import CaffeRandom

# Entries for each line of the journal: the most that an interruption can lose.
_PART = 1000


@dataclass(frozen=True)
class AnnosetOptions:
    """The flags of convert_annoset under their own names, then ours.

    Attributes:
        skip_bad: Skip and count broken entries instead of stopping at the first.
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
        summary = Summary(list_file=list_file)
        try:
            for part in journal.parts:
                summary.extend(part, entries)
                maker.data_size, summary.num_kept = part["data_size"], int(part["done"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            hint = f"remove {journal.folder} to start over"
            raise DataError("the journal of an interrupted run is damaged", code="data.journal", hint=hint) from error
        for start in range(summary.num_kept, len(entries), _PART):
            indices = range(start, min(start + _PART, len(entries)))
            part = _write_part(maker, writer, entries, indices, progress, list_file)
            journal.add(writer, part)
            summary.extend(part, entries)
        if problem := _problem(summary, options):
            journal.parts.clear()
            raise problem
    return summary


def _problem(summary: Summary, options: AnnosetOptions) -> DataError | None:
    """Returns the error for a useless database: one without records or without objects."""
    why = "; ".join(line.strip() for line in summary.lines()[1:])
    if not summary.written:
        return DataError("no record could be written", code="data.empty-database", hint=why)
    if options.anno_type == "detection" and not options.without_objects and not summary.num_objects:
        return DataError("no picture has an object", code="data.no-objects", hint=why)
    return None


def _write_part(
    maker: RecordMaker,
    writer: DatabaseWriter,
    entries: Sequence[Entry],
    indices: range,
    progress: Callable[[int], object] | None,
    list_file: str,
) -> dict[str, Any]:
    """Writes the records of some entries and returns their outcome in the journal's form."""
    part: dict[str, Any] = {"done": indices.stop, "written": [], "skipped": [], "num_objects": 0}
    maker.remarks.clear()
    for index in indices:
        picture, partner = entries[index]
        try:
            record = maker.record(picture, partner)
        except (DataError, FileError) as error:
            if not maker.options.skip_bad and error.code not in ("data.image", "file.read"):
                if list_file:
                    place = list_position(list_file, picture, partner)
                    error.hint = "; ".join(filter(None, (error.hint, f"listed at {place}")))
                raise
            part["skipped"].append((picture, error.message.replace(f"{maker.root}{picture}", "the picture")))
        else:
            writer.put(f"{index:08d}_{picture}", record.SerializeToString())
            part["written"].append((index, *maker.size))
            part["num_objects"] += sum(len(group.annotation) for group in record.annotation_group)
        if progress is not None:
            progress(index + 1)
    return {**part, "remarks": list(maker.remarks), "data_size": maker.data_size}


def _job(root: str, entries: Sequence[Entry], options: AnnosetOptions) -> str:
    """Returns a hash of what determines a database: the list in its order, the options and the label map."""
    label_map = options.label_map_file
    labels = read_bytes(label_map).hex() if os.path.isfile(label_map) else ""
    content = [os.path.abspath(root), entries, {**asdict(options), "redo": False}, labels]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class RecordMaker:
    """Makes the AnnotatedDatum of each list entry in turn.

    Attributes:
        options: What to make.
        size: Height and width of the last picture in its file.
        data_size: Size of the first picture's data, which `check_size` compares with; None before the first picture.
    """

    size: tuple[int, int] = (0, 0)

    def __init__(self, root: str, options: AnnosetOptions) -> None:
        self.root = root
        self.options = options
        self.data_size: int | None = None
        _check(options)
        labels = {}
        if options.anno_type == "detection" and not (options.label_type == "txt" and not options.label_map_file):
            labels = name_to_label(read_label_map(options.label_map_file), options.check_label, options.label_map_file)
        self._annotations = AnnotationReader(labels, options.skip_bad)

    @property
    def remarks(self) -> list[tuple[str, str]]:
        """(annotation file, oddity) pairs seen so far."""
        return self._annotations.remarks

    def record(self, picture: str, partner: str) -> caffe_pb2.AnnotatedDatum:
        """Returns the record of a picture and its annotation file or label.

        Raises:
            FileError: The picture cannot be read.
            DataError: The picture cannot be decoded or encoded, sizes differ, or the annotation is damaged.
        """
        options = self.options
        record = caffe_pb2.AnnotatedDatum()
        is_detection = options.anno_type == "detection"
        self._fill(record.datum, picture, -1 if is_detection else _class_label(picture, partner))
        if is_detection:
            record.type = caffe_pb2.AnnotatedDatum.BBOX
            path = self.root + partner
            if os.path.exists(path):
                record.annotation_group.extend(self._annotations.read(path, options.label_type, *self.size))
            else:
                self.remarks.append((path, "no annotation file"))
        if options.check_size:
            self._check_size(record.datum, picture)
        return record

    def _fill(self, datum: caffe_pb2.Datum, picture: str, label: int) -> None:
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
        self.size = original.shape[:2]

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

    def _check_size(self, datum: caffe_pb2.Datum, picture: str) -> None:
        if self.data_size is None:
            self.data_size = datum.channels * datum.height * datum.width
        elif len(datum.data) != self.data_size:
            raise DataError(
                f"{picture} differs in size from the first picture", code="data.size", expected=self.data_size,
                found=len(datum.data), hint="pass --resize_height and --resize_width, without --encoded",
            )  # fmt: skip


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
        raise DataError(f"the label of {picture} is not a number", code="data.list", found=word) from None
