"""Running a detector over a whole set, with progress, so that an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pyscratchdet.detect.media import read_picture
from pyscratchdet.detect.tables import DetectionTable, ImageDetections
from pyscratchdet.errors import DataError, FileError, PyScratchDetError
from pyscratchdet.files import atomic_path, check_zip, is_unfinished, open_bytes, read_bytes, write_text
from pyscratchdet.ranks import World

Detect = Callable[[Sequence[np.ndarray]], Sequence[ImageDetections]]
_CHUNK = 32
_COLUMNS = ("image", "label", "score", "boxes_px")


def run_set(
    names: Sequence[str],
    paths: Sequence[Path],
    detect: Detect,
    resume: str | os.PathLike[str] | None = None,
    settings: Mapping[str, object] | None = None,
    on_done: Callable[[int], None] | None = None,
    on_bad: Callable[[int, PyScratchDetError], None] | None = None,
    world: World | None = None,
) -> tuple[DetectionTable, np.ndarray]:
    """Detects on every picture of a set.

    Args:
        names: The name of each picture; a resumed run must have the same.
        paths: File of each picture.
        detect: Pictures in, detections out.
        resume: Folder for finished parts; those already there are not computed again.
        settings: What the results depend on; a folder with other settings is refused.
        on_done: Called with the number of pictures done.
        on_bad: Called with the index of each picture that is missing or damaged, and the error: it is left out then.
        world: The processes that share the pictures; by default this one takes all.

    Returns:
        The detections, and the pictures' (num_images, 2) width and height in pixels, 0 for those left out; nothing of
        both on processes other than the first.

    Raises:
        FileError, DataError: A picture is missing or damaged, and there is no `on_bad`.
        DataError: The folder to resume from holds parts of another run, or damaged ones.
    """
    world = world or World()
    store = Path(resume) if resume is not None else None
    if store is not None and world.is_root:
        _check_store(store, {**(settings or {}), "images": list(names)})
    world.agree(0)  # the others go on once the folder is ready
    chunks = [range(start, min(start + _CHUNK, len(names))) for start in range(0, len(names), _CHUNK)]
    done = []
    with ThreadPoolExecutor(2) as pool:
        for rows in (rows for number, rows in enumerate(chunks) if world.owns(number)):
            part = store / f"part_{rows.start:07d}.npz" if store is not None else None
            if part is not None and part.is_file():
                table, sizes = _load_part(part, rows)
            else:
                images = _readable(list(pool.map(_picture_or_error, [paths[row] for row in rows])), rows.start, on_bad)
                table, sizes = _detect_part(detect, images, rows)
                if part is not None:
                    _save_part(part, table, sizes)
            done.append((table, sizes))
            if on_done:
                on_done(rows.stop)
    shares = [iter(share) for share in world.gather(done)]
    whole = [next(shares[number % world.size]) for number in range(len(chunks) if shares else 0)]
    return (
        DetectionTable.join([table for table, _ in whole]),
        np.concatenate([np.zeros((0, 2), np.int64), *(sizes for _, sizes in whole)]),
    )


def _picture_or_error(path: Path) -> np.ndarray | PyScratchDetError:
    try:
        return read_picture(path)
    except PyScratchDetError as error:
        return error


def _readable(
    images: Sequence[np.ndarray | PyScratchDetError],
    start: int,
    on_bad: Callable[[int, PyScratchDetError], None] | None,
) -> dict[int, np.ndarray]:
    """Returns the pictures that could be read, by their index in the set."""
    whole = {}
    for index, image in enumerate(images, start):
        if not isinstance(image, PyScratchDetError):
            whole[index] = image
        elif on_bad is None:
            raise image
        else:
            on_bad(index, image)
    return whole


def _detect_part(detect: Detect, images: dict[int, np.ndarray], rows: range) -> tuple[DetectionTable, np.ndarray]:
    """Returns detections and sizes of the pictures `rows`, of which `images` has those that could be read."""
    sizes = np.zeros((len(rows), 2), np.int64)
    for row, image in images.items():
        sizes[row - rows.start] = image.shape[1::-1]
    table = to_table(detect(list(images.values())) if images else [])
    table.image = np.array(list(images), np.int64)[table.image]
    return table, sizes


def to_table(found: Sequence[ImageDetections]) -> DetectionTable:
    """Returns per-picture detections as one table."""
    if not found:
        return DetectionTable()
    return DetectionTable(
        np.repeat(np.arange(len(found)), [len(one) for one in found]),
        np.concatenate([one.labels for one in found]).astype(np.int64),
        np.concatenate([one.scores for one in found]).astype(np.float64),
        np.concatenate([one.boxes_px.reshape(-1, 4) for one in found]).astype(np.float64),
    )


def _check_store(store: Path, settings: dict[str, object]) -> None:
    path, text = store / "run.json", json.dumps(settings, sort_keys=True, default=str)
    if path.is_file():
        if read_bytes(path).decode(errors="replace") != text:
            raise DataError(
                f"{store}: holds parts of a run with other settings", code="evaluate.resume", hint="give another folder"
            )
    elif store.is_dir() and any(not is_unfinished(file) for file in store.iterdir()):
        raise FileError(f"{store} exists already and does not hold parts of a run", code="file.exists")
    else:
        write_text(path, text)
    for leftover in (*store.glob(".part_*.tmp"), *store.glob(".run.json.*.tmp")):  # of a run that was killed
        leftover.unlink(missing_ok=True)


def _save_part(path: Path, table: DetectionTable, sizes: np.ndarray) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, sizes=sizes, **{name: getattr(table, name) for name in _COLUMNS})


def _load_part(path: Path, rows: range) -> tuple[DetectionTable, np.ndarray]:
    """Reads detections and sizes of the pictures `rows`."""
    try:
        with open_bytes(path) as stream:
            check_zip(stream, path)
            with np.load(stream, allow_pickle=False) as saved:
                table, sizes = DetectionTable(*(saved[name] for name in _COLUMNS)), saved["sizes"]
        found = [sizes.shape, *(getattr(table, name).shape for name in _COLUMNS)]
        number = len(table.image)
        if found != [(len(rows), 2), (number,), (number,), (number,), (number, 4)]:
            raise ValueError(f"arrays of {found}")
        if not np.isin(table.image, rows).all():
            raise ValueError("detections of other pictures")
    except PyScratchDetError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many types for damaged files
        raise DataError(
            f"{path}: damaged part of a run: {error}", code="evaluate.resume", hint="remove the file"
        ) from None
    return table, sizes
