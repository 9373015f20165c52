"""A small VOC-style data set of drawn shapes: textured backgrounds, overlaps, small and large objects, some difficult.

It stands in for VOC where nothing can be downloaded: real JPEGs, XML, image sets and a label map, made from a seed.
Every picture has its own random stream, so the same seed gives the same first pictures whatever their number.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from pyscratchdet.data.label_map import BACKGROUND, make_label_map, write_label_map
from pyscratchdet.data.voc_xml import VocObject, voc_xml
from pyscratchdet.errors import FileError, UsageError, counted

DEVKIT, YEAR = "VOCdevkit", "VOC2007"
CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")
_HUES = dict(zip(CLASSES, (8, 38, 68, 98, 128, 158), strict=True))  # OpenCV's hue, 0 to 179
_SUPERSAMPLE = 4


@dataclass
class Scene:
    """One picture (height, width, 3), uint8 BGR, and what is in it."""

    image: np.ndarray
    objects: list[VocObject] = field(default_factory=list)


def make_shapes(
    root: str | os.PathLike[str],
    num_train: int = 400,
    num_test: int = 100,
    size: int = 192,
    seed: int = 0,
    on_image: Callable[[int], None] | None = None,
    small: bool = False,
) -> Path:
    """Writes `root/VOCdevkit/VOC2007/{Annotations,ImageSets/Main,JPEGImages}` and `root/labelmap.prototxt`.

    The sets are `trainval` (also written as `train`) and `test`, each with VOC's per-class files. Everything is written
    to a temporary folder that is then renamed, so `root` is complete or absent.

    Args:
        root: A folder that does not exist yet, or is empty.
        num_train: Pictures to train on.
        num_test: Held-out pictures.
        size: Approximate mean side of the pictures in pixels; width and height vary around it.
        seed: Any non-negative integer.
        on_image: Called with the number of pictures written so far.
        small: Draw many objects, most of them small.

    Returns:
        The path of the VOC2007 folder.

    Raises:
        UsageError: A number is out of range.
        FileError: The folder is not empty or cannot be written.
    """
    if num_train < 1 or num_test < 0 or not 48 <= size <= 2048 or seed < 0:
        raise UsageError(
            "cannot make a data set of these numbers",
            code="demo-data.range",
            expected="at least 1 training picture, a size of 48 to 2048 and a seed of 0 or more",
            found=f"{counted(num_train, 'training picture')}, {counted(num_test, 'test picture')}, size {size}, "
            f"seed {seed}",
        )
    target = Path(root)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileError(
                f"{target} already exists", code="file.exists", hint="give a new folder, or remove this one first"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            _write_tree(work, num_train, num_test, size, seed, on_image, small)
            work.chmod(0o755)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}", code="file.write") from error
    return target / DEVKIT / YEAR


def draw_scene(random: np.random.Generator, width: int, height: int, size: int, small: bool = False) -> Scene:
    """Draws one picture.

    Args:
        random: The source of all randomness.
        width: Picture width in pixels.
        height: Picture height in pixels.
        size: The data set's mean side; object sizes are relative to it.
        small: Draw 6 to 14 objects, most of them small, instead of 1 to 6.
    """
    image = _background(random, width, height)
    owner = np.full((height, width), -1, np.int16)  # which object is seen at each pixel
    drawn: list[tuple[str, int]] = []  # class, area before the picture's border or anything else hides a part
    for _ in range(_number(random, small)):
        name = str(random.choice(CLASSES))
        alpha = _shape_mask(random, name, size * _relative_size(random, small))
        area = int((alpha > 0.5).sum())
        place = _find_place(random, owner, alpha, [area for _, area in drawn])
        if place is None:
            continue
        here, part = place
        _paint(random, image[here], alpha[part], name)
        owner[here][alpha[part] > 0.5] = len(drawn)
        drawn.append((name, area))
    noise = random.normal(0, random.uniform(1, 5), image.shape)
    scene = Scene(np.clip(image + noise, 0, 255).astype(np.uint8))
    for index, (name, area) in enumerate(drawn):
        found = _describe(owner, index, name, area, size)
        if found is not None:
            scene.objects.append(found)
    return scene


def _number(random: np.random.Generator, small: bool) -> int:
    if small:
        return int(random.integers(6, 15))
    return int(random.choice([1, 2, 3, 4, 5, 6], p=[0.12, 0.22, 0.25, 0.2, 0.13, 0.08]))


def _relative_size(random: np.random.Generator, small: bool) -> float:
    if small and random.random() < 0.6:
        return random.uniform(0.09, 0.17)
    if random.random() < 0.08:
        return random.uniform(0.045, 0.08)  # tiny: will be marked difficult
    return float(np.exp(random.uniform(math.log(0.13), math.log(0.65))))


def _background(random: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Returns float32 (height, width, 3): soft clouds of two tones, and on some a faint pattern."""
    grid = int(random.integers(2, 7))
    clouds = cv2.resize(
        random.random((grid, grid + 1)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    clouds = np.clip(clouds, 0, 1)[..., None]
    tones = random.uniform(30, 225, 2)[:, None] + random.uniform(-25, 25, (2, 3))
    image = tones[0] * (1 - clouds) + tones[1] * clouds
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle, period = random.uniform(0, math.pi), random.uniform(8, 40)
    across = np.cos(angle) * columns + np.sin(angle) * rows
    along = -np.sin(angle) * columns + np.cos(angle) * rows
    stripes = np.sin(across * (2 * math.pi / period))
    patterns = {
        "plain": np.zeros_like(stripes),
        "stripes": stripes,
        "checks": np.sign(stripes * np.sin(along * (2 * math.pi / period))),
        "grain": cv2.GaussianBlur(random.normal(0, 3, (height, width)).astype(np.float32), (0, 0), 1.5),
    }
    pattern = patterns[str(random.choice(list(patterns)))]
    return (image + random.uniform(4, 16) * pattern[..., None]).astype(np.float32)


def _outline(random: np.random.Generator, name: str) -> list[np.ndarray]:
    """Returns the polygons of a class, within the unit circle; a second one is a hole."""

    def polygon(radii: Sequence[float], start: float = 0.0) -> np.ndarray:
        angles = start + np.arange(len(radii)) * (2 * math.pi / len(radii))
        return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.asarray(radii)[:, None]

    if name == "circle":
        return [polygon([1.0] * 72)]
    if name == "ring":
        return [polygon([1.0] * 72), polygon([random.uniform(0.5, 0.68)] * 72)]
    if name == "square":
        return [polygon([1.0] * 4)]
    if name == "triangle":
        return [polygon([1.0] * 3)]
    if name == "star":
        return [polygon([1.0, random.uniform(0.38, 0.48)] * 5)]
    arm = random.uniform(0.2, 0.3)
    corner = [(1, -arm), (1, arm), (arm, arm)]
    turns = [np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]]) for t in np.arange(4) * (math.pi / 2)]
    return [np.concatenate([np.array(corner) @ turn.T for turn in turns])]


def _shape_mask(random: np.random.Generator, name: str, diameter: float) -> np.ndarray:
    """Returns an antialiased mask (side, side) in [0, 1] of a rotated, slightly stretched shape."""
    turn, stretch = random.uniform(0, 2 * math.pi), random.uniform(0.8, 1.0)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) @ np.diag([1.0, stretch])
    side = math.ceil(diameter) + 2
    centre = side * _SUPERSAMPLE / 2
    fine = np.zeros((side * _SUPERSAMPLE,) * 2, np.uint8)
    for points, value in zip(_outline(random, name), (255, 0), strict=False):
        corners = points @ matrix.T * (diameter / 2 * _SUPERSAMPLE) + centre
        cv2.fillPoly(fine, [np.round(corners).astype(np.int32)], value)
    return cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _find_place(
    random: np.random.Generator, owner: np.ndarray, alpha: np.ndarray, areas: Sequence[int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Returns where in the picture and which part of the mask, or None where everything would be hidden."""
    height, width = owner.shape
    side = len(alpha)
    margin = int(random.choice([0, 0.35 * side], p=[0.75, 0.25]))  # how far it may reach beyond the border
    for _ in range(20):
        x = int(random.integers(-margin, max(width - side + margin, 1 - margin)))
        y = int(random.integers(-margin, max(height - side + margin, 1 - margin)))
        here = slice(max(y, 0), min(y + side, height)), slice(max(x, 0), min(x + side, width))
        part = slice(here[0].start - y, here[0].stop - y), slice(here[1].start - x, here[1].stop - x)
        covered = owner[here][alpha[part] > 0.5]
        left = np.bincount(owner[owner >= 0], minlength=len(areas)) - np.bincount(
            covered[covered >= 0], minlength=len(areas)
        )
        if (left >= 0.55 * np.asarray(areas)).all() or random.random() < 0.03:
            return here, part
    return None


def _paint(random: np.random.Generator, region: np.ndarray, alpha: np.ndarray, name: str) -> None:
    """Lays a shape over a float32 BGR region, in place: hue around the class's own, one of several textures."""
    hue = (_HUES[name] + random.normal(0, 14)) % 180 if random.random() < 0.8 else random.uniform(0, 180)
    ground = region.mean()
    value = (
        random.uniform(150, 255)
        if ground < 115 or (ground < 150 and random.random() < 0.5)
        else random.uniform(50, 150)
    )
    hsv = np.array([[[hue, random.uniform(110, 235), value]]], np.float32).astype(np.uint8)
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)
    height, width = alpha.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle = random.uniform(0, math.pi)
    across = np.cos(angle) * columns + np.sin(angle) * rows
    texture = str(random.choice(["flat", "shade", "stripes", "speckle"]))
    shade = {
        "flat": np.ones_like(across),
        "shade": 0.7 + 0.6 * (across - across.min()) / max(float(np.ptp(across)), 1.0),
        "stripes": 1 + 0.25 * np.sign(np.sin(across * (2 * math.pi / max(height / 4, 4)))),
        "speckle": 1 + 0.25 * random.standard_normal((height, width)),
    }[texture]
    # A darker rim keeps shapes apart where colours meet.
    rim = cv2.erode(alpha, np.ones((3, 3), np.uint8)) if height > 16 else alpha
    shade = (shade * (0.6 + 0.4 * rim))[..., None]
    region += alpha[..., None] * (np.clip(colour * shade, 0, 255) - region)


def _describe(owner: np.ndarray, index: int, name: str, area: int, size: int) -> VocObject | None:
    rows, columns = np.nonzero(owner == index)
    if len(rows) < 8:
        return None  # too little to recognise
    box = tuple(int(v) for v in (columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1))
    at_border = box[0] == 1 or box[1] == 1 or box[2] == owner.shape[1] or box[3] == owner.shape[0]
    hidden = 1 - len(rows) / area
    tiny = max(box[2] - box[0], box[3] - box[1]) + 1 < 0.085 * size
    partly = hidden > 0.04
    return VocObject(name, box, tiny or hidden > 0.5, partly and at_border, partly and not at_border)  # type: ignore[arg-type]


def _write_tree(
    root: Path,
    num_train: int,
    num_test: int,
    size: int,
    seed: int,
    on_image: Callable[[int], None] | None,
    small: bool,
) -> None:
    base = root / DEVKIT / YEAR
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / folder).mkdir(parents=True)
    found: dict[str, list[VocObject]] = {}
    for number in range(1, num_train + num_test + 1):
        # The two sets have streams of their own, so the test pictures do not depend on the number of training pictures.
        in_test = number > num_train
        random = np.random.default_rng([seed, int(in_test), number - num_train if in_test else number])
        width, height = (round(size * random.uniform(0.85, 1.2)) for _ in range(2))
        scene = draw_scene(random, width, height, size, small)
        while all(thing.difficult for thing in scene.objects):
            scene = draw_scene(random, width, height, size, small)
        name = f"{number:06d}"
        encoded = cv2.imencode(".jpg", scene.image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (base / "JPEGImages" / f"{name}.jpg").write_bytes(encoded.tobytes())
        xml = voc_xml(f"{name}.jpg", width, height, scene.objects, database="pyscratchdet shapes")
        (base / "Annotations" / f"{name}.xml").write_text(xml)
        found[name] = scene.objects
        if on_image:
            on_image(number)
    names = list(found)
    for set_name, members in (
        ("train", names[:num_train]),
        ("trainval", names[:num_train]),
        ("test", names[num_train:]),
    ):
        _write_sets(base / "ImageSets" / "Main", set_name, members, found)
    entries = [(name, label, name) for label, name in enumerate(CLASSES, 1)]
    write_label_map(root / "labelmap.prototxt", make_label_map([BACKGROUND, *entries]))


def _write_sets(folder: Path, set_name: str, members: Sequence[str], found: dict[str, list[VocObject]]) -> None:
    (folder / f"{set_name}.txt").write_text("".join(f"{name}\n" for name in members))
    for label in CLASSES:
        lines = []
        for name in members:
            mine = [thing.difficult for thing in found[name] if thing.name == label]
            # VOC: 1 for present, 0 for difficult only, -1 for absent.
            lines.append(f"{name} {-1 if not mine else 0 if all(mine) else 1:2d}\n")
        (folder / f"{label}_{set_name}.txt").write_text("".join(lines))
