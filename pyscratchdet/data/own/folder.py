"""Making a data folder from pictures and annotations: two LMDBs, a label map, lists, figures and a page.

Annotations are first written as VOC XML in the picture's own pixels, so that the records are what convert_annoset makes
of the pictures and these files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from pyscratchdet.data.annoset import AnnosetOptions, size_line, write_annoset
from pyscratchdet.data.figures import FIGURES_FILE, DataFigures
from pyscratchdet.data.label_map import (
    BACKGROUND,
    BACKGROUND_NAMES,
    label_to_name,
    make_label_map,
    name_to_label,
    read_label_map,
    write_label_map,
)
from pyscratchdet.data.own.alike import find_twins
from pyscratchdet.data.own.content import PARTS, OwnData
from pyscratchdet.data.own.findings import Sizes
from pyscratchdet.data.own.forms import read_annotations
from pyscratchdet.data.own.page import write_page
from pyscratchdet.data.own.pairs import pair
from pyscratchdet.data.own.pictures import OwnSplit, find_pictures
from pyscratchdet.data.own.sheets import Annotations, Sheet
from pyscratchdet.data.own.split import split_pictures
from pyscratchdet.data.own.survey import Survey, survey
from pyscratchdet.data.team import Team
from pyscratchdet.data.voc_xml import VocObject, voc_xml
from pyscratchdet.errors import DataError, FileError, UsageError
from pyscratchdet.files import read_bytes, read_json, write_text

LABEL_MAP_FILE = "labelmap.prototxt"
ANNOTATIONS_FOLDER = "annotations_voc"
SKIPPED_FILE, PAGE_FILE = "skipped.txt", "data.html"
_JOB = "job.json"
_SHARE = 0.8

Progress = Callable[[int], object]


@dataclass(frozen=True)
class FolderOptions:
    """How to make a data folder.

    Attributes:
        split: Share of the training pictures; None takes the set's own lists or, if it has none, 0.8.
        seed: Seed of the split and of the order of the training records.
        label_map_file: A label map to keep to; by default one is made from the classes that occur.
        redo: Make everything anew.
    """

    split: float | None = None
    seed: int = 0
    label_map_file: str = ""
    redo: bool = False


class FolderMaker:
    """Makes one data folder.

    Args:
        pictures: As `find_pictures` takes them.
        annotations: As `read_annotations` takes them.
        output: The folder to make.
        options: How.
        team: What reads the pictures and makes the records; by default a thread per core.

    Raises:
        FileError: Pictures or annotations are not there; or the folder was made from others, and `redo` is off.
        DataError: The annotations are of an unknown form, or none of them belongs to a picture.
        UsageError: The output lies among the pictures or annotations, or the share is not between 0 and 1.
    """

    def __init__(
        self,
        pictures: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        output: str | os.PathLike[str],
        options: FolderOptions | None = None,
        team: Team | None = None,
    ) -> None:
        self.options = options or FolderOptions()
        self._team = team or Team()
        self.output = Path(output)
        if self.options.split is not None and not 0 < self.options.split < 1:
            raise UsageError("the training pictures' share", code="usage.split", expected="a number between 0 and 1",
                             found=self.options.split)  # fmt: skip
        for source in (pictures, annotations):
            self._check_apart(Path(source))
        self._pictures = find_pictures(pictures)
        self._annotations = read_annotations(annotations, self._pictures.root, self._pictures.stems())
        self._job = self._digest()
        self._check_job()

    @property
    def num_pictures(self) -> int:
        """How many pictures there are."""
        return len(self._pictures.names)

    @property
    def is_done(self) -> bool:
        """Whether an earlier call with the same input has finished; nothing is then to be done."""
        return not self.options.redo and (self.output / FIGURES_FILE).is_file() and self._stored_job() == self._job

    def prepare(self, progress: Progress | None = None) -> OwnData:
        """Reads all pictures, pairs, checks and splits them; writes nothing.

        Args:
            progress: Called with the number of pictures done.

        Raises:
            DataError: There is nothing to learn from, or a label map gives a class the background's label.
        """
        found, alone = pair(self._pictures.names, self._annotations.sheets)
        listed, unlisted = self._listed(found)
        classes = _classes(self.options.label_map_file, self._annotations)
        content = survey(self._pictures.root, listed, classes, progress, self._team)
        groups, pairs = find_twins(content.looks, content.digests)
        is_train, how = self._split(content, groups)
        if is_train.all() or not is_train.any():
            raise DataError("one side of the split has no usable picture", code="data.split", found=how)
        notes = [f"annotations: {self._annotations.form}", how, *self._annotations.notes, *content.notes]
        skipped = [*alone, *unlisted, *self._annotations.skipped, *content.skipped]
        return OwnData(self._pictures, content, is_train, groups, pairs, notes, skipped)

    @property
    def _own_split(self) -> OwnSplit | None:
        return self._pictures.split if self.options.split is None else None

    def _listed(self, pairs: Mapping[str, Sheet]) -> tuple[Mapping[str, Sheet], list[tuple[str, str]]]:
        """Returns the pairs that are in a list of the set's own, and the other pictures with the reason."""
        own = self._own_split
        if own is None:
            return pairs, []
        unlisted = [(name, f"in neither of {own.source}") for name in pairs if name not in own.train | own.test]
        return {name: sheet for name, sheet in pairs.items() if name in own.train | own.test}, unlisted

    def _split(self, content: Survey, groups: np.ndarray) -> tuple[np.ndarray, str]:
        """Returns which pictures (P,) are for training, and how that was decided."""
        own = self._own_split
        if own is not None:
            return np.array([name in own.train for name in content.names]), f"split: the set's own, by {own.source}"
        share = _SHARE if self.options.split is None else self.options.split
        counts = np.zeros((len(content.names), len(content.classes)), int)
        np.add.at(counts, (content.image, content.label - 1), 1)
        is_train = split_pictures(counts, groups, share, self.options.seed)
        return is_train, f"split: {share:.0%} of the pictures of each class for training"

    def write(self, data: OwnData, priors: Sizes = (), progress: Progress | None = None) -> DataFigures:
        """Writes what is not there yet, data.json last.

        Args:
            data: As `prepare` returns it.
            priors: Of the net that will be trained, for the page; none if that is not known.
            progress: Called with the number of records written so far.

        Raises:
            FileError: The folder cannot be written.
        """
        if self.options.redo or self._stored_job() != self._job:
            self._forget()
        write_text(self.output / _JOB, json.dumps({"job": self._job}) + "\n")
        items = [(name, label, name) for label, name in enumerate(data.content.classes, 1)]
        write_label_map(self.output / LABEL_MAP_FILE, make_label_map([BACKGROUND, *items]))
        self._write_part("train", data, progress, 0)
        self._write_part("test", data, progress, int(data.is_train.sum()))
        write_text(self.output / SKIPPED_FILE, "".join(f"{what}: {why}\n" for what, why in data.skipped))
        write_page(self.output / PAGE_FILE, data, priors)
        figures = data.figures()
        figures.write(self.output)
        return figures

    def _write_part(self, part: str, data: OwnData, progress: Progress | None, done: int) -> None:
        """Writes one LMDB and then its list of sizes, which says that it is whole, after `done` other records."""
        database, sizes = self.output / f"{part}_lmdb", self.output / f"{part}_name_size.txt"
        if sizes.is_file() and database.is_dir():
            return
        rows = data.rows(part).tolist()
        files = _annotation_names(data.content.names)
        for row in rows:
            write_text(self.output / ANNOTATIONS_FOLDER / files[row], _xml(data.content, row))
        root = os.path.join(self._pictures.root, "")
        folder = os.path.relpath(self.output / ANNOTATIONS_FOLDER, root)
        entries = [(data.content.names[row], f"{folder}/{files[row]}") for row in rows]
        options = AnnosetOptions(
            anno_type="detection", label_map_file=str(self.output / LABEL_MAP_FILE), check_label=True, encoded=True,
            encode_type="jpg", shuffle=part == "train", seed=self.options.seed, redo=True, without_objects=True,
        )  # fmt: skip
        report = None if progress is None else lambda count: progress(done + count)
        summary = write_annoset(root, entries, database, options, report, team=self._team)
        if summary.skipped:  # a picture has changed since it was read
            raise DataError("a picture could not be written", code="data.image", found=": ".join(summary.skipped[0]))
        names = short_names(data.content.names)
        paths = [os.path.abspath(root + name) for (name, _), *_ in summary.written]
        write_text(self.output / f"{part}.txt", "".join(f"{path}\n" for path in paths))
        lines = [size_line(name, height, width, names[name]) for (name, _), height, width in summary.written]
        write_text(sizes, "".join(lines))

    def _check_apart(self, source: Path) -> None:
        folder, output = source.resolve(), self.output.resolve()
        if folder.is_dir() and (folder == output or folder in output.parents):
            raise UsageError(
                f"{self.output} lies within {source}, so that it would be taken for a part of the set later",
                code="usage.output", hint="choose a folder beside it",
            )  # fmt: skip

    def _digest(self) -> str:
        """Returns a hash of all that the result depends on; of pictures only the names and sizes of files."""
        options, own = self.options, self._own_split
        try:
            pictures = [(name, (self._pictures.root / name).stat().st_size) for name in self._pictures.names]
        except OSError as error:
            raise FileError(f"cannot read {error.filename}: {error.strerror}", code="file.read") from error
        annotations = [hashlib.sha256(read_bytes(file)).hexdigest() for file in self._annotations.files]
        labels = str(read_label_map(options.label_map_file)) if options.label_map_file else ""
        split = [sorted(own.train), sorted(own.test)] if own is not None else options.split or _SHARE
        content = json.dumps([pictures, annotations, labels, split, options.seed])
        return hashlib.sha256(content.encode()).hexdigest()

    def _stored_job(self) -> str | None:
        path = self.output / _JOB
        content = read_json(path, "the note of a data folder", "data.folder") if path.is_file() else {}
        return content.get("job") if isinstance(content, dict) else None

    def _check_job(self) -> None:
        there = [self.output / name for name in (_JOB, FIGURES_FILE, *(f"{part}_lmdb" for part in PARTS))]
        found = next((path for path in there if path.exists()), None)
        if found is not None and not self.options.redo and self._stored_job() != self._job:
            raise FileError(
                f"{self.output} was made from other pictures, annotations or settings", code="file.exists",
                hint="pass --redo to make it anew, or choose another folder",
            )  # fmt: skip

    def _forget(self) -> None:
        """Removes what says that parts are whole."""
        for name in (FIGURES_FILE, *(f"{part}_name_size.txt" for part in PARTS)):
            (self.output / name).unlink(missing_ok=True)


def _classes(label_map_file: str, annotations: Annotations) -> list[str]:
    """Returns the classes in label order.

    Raises:
        DataError: The label map gives a class the background's label, or leaves labels out.
    """
    if not label_map_file:
        names = annotations.class_names()
        if taken := [name for name in names if name in BACKGROUND_NAMES]:
            raise DataError(
                f'a class is called "{taken[0]}", which stands for label 0', code="data.label-zero",
                hint="rename it: objects of label 0 would be learnt as background",
            )  # fmt: skip
        return names
    label_map = read_label_map(label_map_file)
    name_to_label(label_map, strict=True, path=label_map_file)
    labels = label_to_name(label_map, strict=True, path=label_map_file)
    if labels.get(0, BACKGROUND[0]) not in BACKGROUND_NAMES:
        raise DataError(
            f'the label map gives class "{labels[0]}" label 0, which is the background\'s', code="data.label-zero",
            hint="number the classes from 1",
        )  # fmt: skip
    classes = [name for label, name in sorted(labels.items()) if label]
    if sorted(label for label in labels if label) != list(range(1, len(classes) + 1)):
        raise DataError("the label map leaves out labels", code="data.label-map",
                        expected=f"1 to {len(classes)}", found=", ".join(map(str, sorted(labels))))  # fmt: skip
    return classes


def _annotation_names(names: Sequence[str]) -> list[str]:
    """Returns an XML file for each picture: of the same name, or with its suffix too where two would be equal."""
    plain = [PurePosixPath(name).with_suffix(".xml").as_posix() for name in names]
    count = Counter(plain)
    return [short if count[short] == 1 else f"{name}.xml" for name, short in zip(names, plain, strict=True)]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Returns the name of each picture in a name_size_file, which can have no blanks: its own without suffix.

    Where two would be equal, the folders and the suffix come with it.
    """
    stems = {name: "_".join(PurePosixPath(name).stem.split()) for name in names}
    count = Counter(stems.values())
    return {name: stem if count[stem] == 1 else "_".join(name.replace("/", " ").split())
            for name, stem in stems.items()}  # fmt: skip


def _xml(content: Survey, row: int) -> str:
    objects = [
        VocObject(content.classes[label - 1], (box[0], box[1], box[2], box[3]), bool(difficult))
        for label, box, difficult in zip(*content.objects_in(row), strict=True)
    ]
    width, height = content.sizes[row].tolist()
    return voc_xml(PurePosixPath(content.names[row]).name, width, height, objects, folder="")
