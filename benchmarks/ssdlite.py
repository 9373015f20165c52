"""torchvision's ssdlite320_mobilenet_v3_large from scratch on a data folder: what another detector makes of a budget.

    python benchmarks/ssdlite.py DATA --minutes 20 [--batch 8] [--lr 0.002] [--seed 1]

DATA is what `pyscratchdet lmdb folder` (or scripts/train_own.sh, as OUTPUT/data) made. Training has torchvision's own
augmentation for SSD, AdamW and a one-cycle rate; it ends when the process has used its CPU time. The mean average
precision is by the same code as `pyscratchdet evaluate folder` (11point, IoU 0.5).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.transforms import v2

from pyscratchdet.data import detection_dataset
from pyscratchdet.detect.tables import DetectionTable
from pyscratchdet.evaluate.sets import folder_truth
from pyscratchdet.evaluate.voc import evaluate_voc

AUGMENT = v2.Compose(
    [
        v2.RandomPhotometricDistort(),
        v2.RandomZoomOut(fill=[104, 117, 123], side_range=(1.0, 2.0), p=0.1),
        v2.RandomIoUCrop(),
        v2.RandomHorizontalFlip(),
        v2.SanitizeBoundingBoxes(),
    ]
)


def as_torchvision(picture: Tensor, boxes: Tensor) -> tuple[Tensor, tv_tensors.BoundingBoxes]:
    """Returns the picture with red first and its boxes in pixels."""
    height, width = picture.shape[-2:]
    corners = boxes * torch.tensor([width, height] * 2)
    return picture[[2, 1, 0]], tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))


def batch_of(dataset, indices) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Returns augmented pictures from 0 to 1 and their targets."""
    pictures, targets = [], []
    for index in indices:
        picture, boxes, labels = dataset[index]
        picture, boxes = as_torchvision(picture, boxes)
        picture, target = AUGMENT(tv_tensors.Image(picture), {"boxes": boxes, "labels": labels})
        pictures.append(picture.as_subclass(Tensor).float() / 255)
        targets.append({name: value.as_subclass(Tensor) for name, value in target.items()})
    return pictures, targets


def train(model, dataset, seconds: float, batch: int, rate: float) -> int:
    """Trains until the process has used `seconds` more of CPU time; returns the number of iterations."""
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0005)
    start, iteration, order = time.process_time(), 0, []
    while (used := (time.process_time() - start) / seconds) < 1:
        warm_up = min(1.0, (iteration + 1) / 100)
        optimizer.param_groups[0]["lr"] = rate * warm_up * (1 + np.cos(np.pi * used)) / 2
        if len(order) < batch:
            order = torch.randperm(len(dataset)).tolist()
        losses = model(*batch_of(dataset, [order.pop() for _ in range(batch)]))
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        iteration += 1
        if iteration % 50 == 0:
            print(f"iteration {iteration}, loss {loss.item():.3f}, {used:.0%} of the budget", flush=True)
    return iteration


@torch.inference_mode()
def detections(model, dataset) -> DetectionTable:
    """Returns what the model finds in each picture."""
    model.eval()
    found = []
    for index in range(len(dataset)):
        picture, *_ = dataset[index]
        result = model([picture[[2, 1, 0]].float() / 255])[0]
        image = np.full(len(result["labels"]), index)
        found.append((image, result["labels"].numpy(), result["scores"].double().numpy(), result["boxes"].numpy()))
    image, label, score, boxes = (np.concatenate(column) for column in zip(*found, strict=True))
    return DetectionTable(image, label, score, boxes.astype(np.float64))


def main() -> None:
    """Trains and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="data folder")
    parser.add_argument("--minutes", type=float, default=20.0, help="CPU time of the training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    np.random.seed(arguments.seed)
    pictures, tests = (detection_dataset(arguments.data, split) for split in ("train", "test"))
    model = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(pictures.classes))
    iterations = train(model, pictures, 60 * arguments.minutes, arguments.batch, arguments.lr)
    result = evaluate_voc(folder_truth(arguments.data), detections(model, tests))
    print(f"{iterations} iterations of {arguments.batch} pictures in {arguments.minutes:g} CPU minutes")
    print(f"mAP = {result.mean_ap:.3f}", *(f"{entry.name} {entry.ap:.3f}" for entry in result.classes))


if __name__ == "__main__":
    main()
