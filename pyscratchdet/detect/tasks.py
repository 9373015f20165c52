"""What is done with pictures: framing objects, or naming classes; and what is written about each."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pyscratchdet.detect.detector import Detector
from pyscratchdet.detect.draw import draw_classes, draw_segments, label_shares
from pyscratchdet.detect.export import Entry, detection_rows, entry_xml, frame_entry, own_name
from pyscratchdet.detect.labels import Labeller
from pyscratchdet.detect.media import Frame, MediaSource
from pyscratchdet.detect.output import PictureWriter
from pyscratchdet.detect.replacing import check_replaceable, write_marked
from pyscratchdet.detect.tables import ImageDetections
from pyscratchdet.files import as_utf8


class PictureTask(ABC):
    """What a run does with each picture.

    `prepare` and `write` run in several threads, `write` in order for the frames of a video.

    Args:
        batch_size: Pictures that the net takes at a time.
        size: (height, width) of its input.
        names: {label: class name}.
        pictures: Draws; `write` has no picture where it needs none.
    """

    def __init__(
        self, batch_size: int, size: tuple[int, int], names: Mapping[int, str], pictures: PictureWriter
    ) -> None:
        self.batch_size, self.size, self.names, self.pictures = batch_size, size, names, pictures

    @abstractmethod
    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns the net's input for a picture."""

    @abstractmethod
    def find(self, prepared: np.ndarray, sizes: Sequence[tuple[int, int]]) -> Sequence[Any]:
        """Returns what the net finds in prepared pictures (N, channels, height, width) of these (height, width)."""

    @abstractmethod
    def write(self, frame: Frame, found: Any) -> Entry:
        """Writes a frame's own files and returns its entry in the results."""

    def targets(self, source: MediaSource) -> list[Path]:
        """Returns the files that are written about an input, as far as that is known before it is read."""
        return self.pictures.targets(source)

    def checked(self, sources: Iterable[MediaSource]) -> Iterator[MediaSource]:
        """Yields the same inputs.

        Raises:
            FileError: What is written about one would replace a file that `detect` did not write, such as an input.
        """
        for source in sources:
            for path in self.targets(source):
                check_replaceable(path, source.path)
            yield source

    def classes(self, entry: Entry) -> list[str]:
        """Returns the class of each object of an entry."""
        return []

    def final_line(self, line: bytes) -> bytes:
        """Returns an entry's line as it stands in the results."""
        return line


class DetectTask(PictureTask):
    """Frames objects.

    Args:
        detector: The net.
        threshold: The lowest score.
        labels: Which labels are reported; None for all.
        pictures: Draws.
        xml_folder: Where VOC's annotations go; None for none.
    """

    def __init__(
        self,
        detector: Detector,
        threshold: float,
        labels: Sequence[int] | None,
        pictures: PictureWriter,
        xml_folder: Path | None,
    ) -> None:
        super().__init__(detector.batch_size, detector.size, detector.names, pictures)
        self._detector, self._threshold, self._labels, self._xml_folder = detector, threshold, labels, xml_folder

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See the base class."""
        return self._detector.prepare(image)

    def find(self, prepared: np.ndarray, sizes: Sequence[tuple[int, int]]) -> Sequence[ImageDetections]:
        """See the base class."""
        found = self._detector.find(prepared, sizes, self._threshold)
        if self._labels is None:
            return found
        return [one.select(np.isin(one.labels, self._labels)) for one in found]

    def targets(self, source: MediaSource) -> list[Path]:
        """See the base class."""
        targets = super().targets(source)
        if self._xml_folder is not None and source.kind == "picture":
            targets.append(self._xml_folder / f"{source.name}.xml")
        return targets

    def write(self, frame: Frame, found: ImageDetections) -> Entry:
        """See the base class."""
        entry = {**frame_entry(frame), "detections": detection_rows(found, self.names)}
        self.pictures.add(frame, found)
        if self._xml_folder is not None:
            write_marked(self._xml_folder / f"{own_name(entry)}.xml", as_utf8(entry_xml(entry)))
        return entry

    def classes(self, entry: Entry) -> list[str]:
        """See the base class."""
        return [row["class"] for row in entry["detections"]]


class LabelTask(PictureTask):
    """Names classes: of whole pictures, the best few; of pixels, also as `<name>_labels.png`.

    Args:
        labeller: The net.
        pictures: Draws.
        folder: Where labels of pixels go.
        most: How many classes of a picture are named.
    """

    def __init__(self, labeller: Labeller, pictures: PictureWriter, folder: Path, most: int = 5) -> None:
        super().__init__(labeller.batch_size, labeller.size, labeller.names, pictures)
        self._labeller, self._folder, self._most = labeller, folder, most
        self._segments = labeller.output.task == "segment"
        self._depth = np.uint8 if labeller.output.num_classes <= 256 else np.uint16

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See the base class."""
        return self._labeller.prepare(image)

    def find(self, prepared: np.ndarray, sizes: Sequence[tuple[int, int]]) -> Sequence[Any]:
        """See the base class."""
        if self._segments:
            return self._labeller.find_labels(prepared, sizes)
        return self._labeller.find_classes(prepared, self._most)

    def targets(self, source: MediaSource) -> list[Path]:
        """See the base class."""
        targets = super().targets(source)
        if self._segments and source.kind == "picture":
            targets.append(self._folder / f"{source.name}_labels.png")
        return targets

    def write(self, frame: Frame, found: Any) -> Entry:
        """See the base class."""
        entry = frame_entry(frame)
        if not self._segments:
            if frame.image is not None:
                self.pictures.write(frame, draw_classes(frame.image, found, self.names))
            return {**entry, "found": self._rows(found, "score")}
        entry["labels"] = f"{frame.name}_labels.png"
        write_marked(self._folder / entry["labels"], cv2.imencode(".png", found.astype(self._depth))[1].tobytes())
        if frame.image is not None:
            self.pictures.write(frame, draw_segments(frame.image, found, self.names))
        return {**entry, "found": self._rows(label_shares(found), "share")}

    def _rows(self, found: Sequence[tuple[int, float]], value_name: str) -> list[Entry]:
        return [{"label": label, "class": self.names[label], value_name: value} for label, value in found]

    def final_line(self, line: bytes) -> bytes:
        """See the base class; values have six digits, from which others are not rounded again."""
        entry = json.loads(line)
        entry["found"] = [
            {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
            for row in entry["found"]
        ]
        return json.dumps(entry).encode()

    def seen(self, line: bytes) -> str:
        """Returns what was seen in a frame, from its line in a part."""
        entry, value_name = json.loads(line), "share" if self._segments else "score"
        each = (f"{row['class']} {row[value_name]:.3f}" for row in entry["found"][: self._most])
        return f"{own_name(entry)}: {', '.join(each)}"
