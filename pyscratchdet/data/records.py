"""Records of a database as messages: AnnotatedDatum for pictures with boxes, Datum for pictures with a label."""

from __future__ import annotations

import re
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from pyscratchdet.data.database import Database
from pyscratchdet.errors import DataError, UsageError
from pyscratchdet.proto import caffe_pb2


@dataclass
class Sample:
    """One record as it is stored: its name for errors, and its bytes."""

    name: str
    value: bytes

    def annotated(self) -> caffe_pb2.AnnotatedDatum:
        """Returns it as an AnnotatedDatum.

        Raises:
            DataError: It is damaged, or has no picture.
        """
        return annotated_of(self.value, self.name)

    def datum(self) -> caffe_pb2.Datum:
        """Returns it as a Datum, or the Datum inside it if it is an AnnotatedDatum.

        Raises:
            DataError: It is damaged.
        """
        return datum_of(self.value, self.name)


class Records:
    """The records of a database one after the other; after the last, the first follows again.

    Several processes share them as several solvers do in the original (data_reader.cpp): each takes every
    `world_size`-th record.

    Args:
        path: The database.
        start: Where to begin.
        rank: Which of the processes this is.
        world_size: How many there are.

    Raises:
        DataError: The database cannot be opened.
        UsageError: `rank` is not below `world_size`.
    """

    def __init__(self, path: str, start: int = 0, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise UsageError("rank out of range", code="data.rank", expected=f"0 to {world_size - 1}", found=rank)
        self.database = Database(path)
        self.position = 0
        self._start = start + rank
        self._step = world_size

    def first(self) -> Sample:
        """Returns the first record of all, without reading the other keys."""
        return self._sample(*self.database.first())

    def at(self, position: int) -> Sample:
        """Returns this process's record number `position`; the count continues from round to round."""
        index = (self._start + position * self._step) % len(self.database)
        return self._sample(self.database.keys[index], self.database.value(index))

    def next(self) -> Sample:
        """Returns the next record."""
        self.position += 1
        return self.at(self.position - 1)

    def _sample(self, key: bytes, value: bytes) -> Sample:
        return Sample(record_title(key, self.database.path), value)


def picture_of(key: bytes) -> str:
    """Returns the picture's path in a record's key, without the record's number before it."""
    return re.sub(r"^\d{8,}_", "", key.decode(errors="surrogateescape"))


def record_title(key: bytes, path: str) -> str:
    """Returns the name of a record of a database for errors."""
    return f'record "{key.decode(errors="replace")}" of {path}'


def annotated_of(value: bytes, name: str) -> caffe_pb2.AnnotatedDatum:
    """Returns the AnnotatedDatum of a record's bytes.

    Raises:
        DataError: It is not one, or has no picture.
    """
    record = caffe_pb2.AnnotatedDatum()
    try:
        record.ParseFromString(value)
    except DecodeError as error:
        raise DataError(f"{name} is not an AnnotatedDatum", code="data.record") from error
    if not record.HasField("datum") or not _has_data(record.datum):
        hint = "a Data layer reads plain Datum records"
        raise DataError(f"{name} has no picture", code="data.record", hint=hint)
    return record


def datum_of(value: bytes, name: str) -> caffe_pb2.Datum:
    """Returns the Datum of a record's bytes, or the Datum inside an AnnotatedDatum.

    Raises:
        DataError: It is neither.
    """
    datum = caffe_pb2.Datum()
    try:
        datum.ParseFromString(value)
        if _has_data(datum):
            return datum
    except DecodeError:
        # Field 1 is a message in an AnnotatedDatum, and a number in a Datum.
        pass
    return annotated_of(value, name).datum


def _has_data(datum: caffe_pb2.Datum) -> bool:
    # Not `datum.data`, which is a copy each time.
    return datum.HasField("data") or bool(datum.float_data)
