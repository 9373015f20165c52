"""Finding the pictures of a set, and the lists of training and test pictures that it has of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyscratchdet.data.images import PICTURE_SUFFIXES
from pyscratchdet.data.lists import read_image_set, read_lines
from pyscratchdet.data.voc import part_folders
from pyscratchdet.errors import DataError, FileError

# Names of VOC's lists, the first pair that a set has counts; VOC2012's trainval contains val.
_LISTS = (("trainval", "test"), ("train", "val"), ("train", "test"), ("trainval", "val"))
_TRAIN_FOLDERS, _TEST_FOLDERS = {"train", "training"}, {"test", "testing", "val", "valid", "validation"}


@dataclass(frozen=True)
class OwnSplit:
    """The split that a set comes with.

    Attributes:
        train: Names of the training pictures.
        test: Names of the test pictures.
        source: Where it is stated.
    """

    train: frozenset[str]
    test: frozenset[str]
    source: str


@dataclass(frozen=True)
class PictureSet:
    """Pictures.

    Attributes:
        root: A folder that holds them all.
        names: Their paths relative to it, with "/", in order.
        split: The set's own, if it has one.
    """

    root: Path
    names: list[str]
    split: OwnSplit | None

    def stems(self) -> set[str]:
        """Returns the pictures' names without folder and suffix."""
        return {PurePosixPath(name).stem for name in self.names}


def find_pictures(source: str | os.PathLike[str]) -> PictureSet:
    """Finds pictures.

    Args:
        source: A folder, with all folders in it; a VOCdevkit or one of its years, of which only the folders JPEGImages
            count; or a list file with a picture's path, relative to the list or not, in each line.

    Raises:
        FileError: There is no such folder or file.
        DataError: There are no pictures, or a listed one is missing.
    """
    path = Path(source)
    if path.is_file():
        return _listed(path)
    if not path.is_dir():
        raise FileError(f"no folder or list of pictures at {path}", code="file.read")
    folders = part_folders(path, "JPEGImages")
    found = sorted({file for folder in folders or [path] for file in _pictures_in(folder)})
    if not found:
        raise DataError(f"no pictures in {path}", code="data.no-pictures",
                        expected=f"files that end in {', '.join(sorted(PICTURE_SUFFIXES))}")  # fmt: skip
    names = [file.relative_to(path).as_posix() for file in found]
    return PictureSet(path, names, _voc_split(path, folders, names) or _folder_split(names))


def _pictures_in(folder: Path) -> Iterable[Path]:
    for file in folder.rglob("*"):
        if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".") and file.is_file():
            yield file


def _listed(path: Path) -> PictureSet:
    files = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        texts = (line.strip(), line.split()[0])  # the second: convert_annoset's lists name a partner as well
        # Darknet's lists are relative to a folder above them, in which its program was started.
        folders = (*path.absolute().parents[:3], Path())
        file = next((file for folder in folders for text in texts if (file := folder / text).is_file()), None)
        if file is None:
            raise DataError(f"{path}:{number}: no picture {texts[0]}", code="data.list")
        files.append(Path(os.path.abspath(file)))
    if not files:
        raise DataError(f"{path}: the list is empty", code="data.no-pictures")
    root = Path(os.path.commonpath([file.parent for file in files]))
    return PictureSet(root, [file.relative_to(root).as_posix() for file in dict.fromkeys(files)], None)


def _voc_split(root: Path, folders: list[Path], names: list[str]) -> OwnSplit | None:
    train, test, sources = set[str](), set[str](), []
    for folder in folders:
        lists = folder.parent / "ImageSets" / "Main"
        for first, second in _LISTS:
            stems = [_image_set(lists / f"{name}.txt") for name in (first, second)]
            if all(stems) and not stems[0] & stems[1]:
                prefix = folder.relative_to(root).as_posix() + "/"
                own = [name for name in names if name.startswith(prefix) or prefix == "./"]
                train |= {name for name in own if PurePosixPath(name).stem in stems[0]}
                test |= {name for name in own if PurePosixPath(name).stem in stems[1]}
                sources.append(f"{lists.relative_to(root)}/{first}.txt and {second}.txt")
                break
    return OwnSplit(frozenset(train), frozenset(test), ", ".join(sources)) if train and test else None


def _image_set(path: Path) -> set[str]:
    return {name for name, is_absent in read_image_set(path) if not is_absent} if path.is_file() else set()


def _folder_split(names: list[str]) -> OwnSplit | None:
    """The folders train and test, or valid, that pictures are in."""
    folders = {name: {part.lower() for part in PurePosixPath(name).parts[:-1]} for name in names}
    train = frozenset(name for name, parts in folders.items() if parts & _TRAIN_FOLDERS)
    test = frozenset(name for name, parts in folders.items() if parts & _TEST_FOLDERS) - train
    if not train or not test or len(train) + len(test) < len(names):
        return None
    return OwnSplit(train, test, "the folders that the pictures are in")
