"""Seconds to evaluate 5,000 pictures with 200 detections each: VOC AP and COCO's twelve figures.

usage: python benchmarks/evaluation.py [--images 5000] [--detections 200] [--classes 80] [--seed 0]
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.evaluate.coco import ENGINES, evaluate_coco
from pyscratchdet.evaluate.tables import GroundTruthTable
from pyscratchdet.evaluate.voc import evaluate_voc

Figures = TypeVar("Figures")


def make_set(
    num_images: int, num_detections: int, num_classes: int, seed: int
) -> tuple[GroundTruthTable, DetectionTable]:
    """Returns random objects (7 a picture on average) and detections, some of them near objects."""
    random = np.random.default_rng(seed)
    image = np.sort(random.integers(0, num_images, 7 * num_images))
    corner, side = random.uniform(0, 400, (len(image), 2)), random.uniform(10, 200, (len(image), 2))
    truth = GroundTruthTable(
        [f"{k:012d}" for k in range(num_images)],
        tuple(f"class{k}" for k in range(num_classes)),
        np.full((num_images, 2), 640),
        [Path(f"{k:012d}.jpg") for k in range(num_images)],
        image,
        random.integers(1, num_classes + 1, len(image)),
        np.hstack([corner, corner + side]),
        random.random(len(image)) < 0.05,
    )
    number = num_images * num_detections
    image = np.repeat(np.arange(num_images), num_detections)
    corner, side = random.uniform(0, 400, (number, 2)), random.uniform(10, 200, (number, 2))
    boxes, label = np.hstack([corner, corner + side]), random.integers(1, num_classes + 1, number)
    near = random.choice(number, len(truth.image), replace=False)
    image[near], label[near] = truth.image, truth.label
    boxes[near] = truth.boxes_px + random.normal(0, 8, truth.boxes_px.shape)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    order = np.argsort(image, kind="stable")
    score = random.random(number) ** 3
    score[near] = np.clip(score[near] + 0.3, 0, 1)
    return truth, DetectionTable(image[order], label[order], score[order], boxes[order])


def timed(name: str, call: Callable[[], Figures]) -> Figures:
    """Returns what a call gives, and prints it with the seconds it took."""
    began = time.perf_counter()
    value = call()
    print(f"{name:32} {time.perf_counter() - began:7.2f} s   {value}", flush=True)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("images", 5000), ("detections", 200), ("classes", 80), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    truth, detections = make_set(args.images, args.detections, args.classes, args.seed)
    print(f"{args.images} pictures, {len(truth.image)} objects, {len(detections)} detections, {args.classes} classes")
    timed("VOC 11point mAP", lambda: f"{evaluate_voc(truth, detections).mean_ap:.6f}")
    timed("VOC area mAP", lambda: f"{evaluate_voc(truth, detections, 'area').mean_ap:.6f}")
    found = {
        engine: timed(f"COCO, {engine}", lambda engine=engine: evaluate_coco(truth, detections, engine=engine).figures)
        for engine in ENGINES
        if importlib.util.find_spec(engine.replace("-", "_"))
    }
    for engine, figures in found.items():
        largest = max(abs(figures[name] - value) for name, value in found["pycocotools"].items())
        print(f"{engine}: largest difference to pycocotools {largest:.1g}")


if __name__ == "__main__":
    main()
