"""MultiBoxLoss and DetectionOutput against torchvision's SSD on the same tensors.

    python benchmarks/detection_layers.py [--device cpu|cuda] [--batch 32] [--repeat 5] [--output FOLDER]

Compares, at 8732 priors and 21 and 81 classes, forward and backward of the loss (matching included) with
torchvision's matching (box_iou, SSDMatcher) and SSD.compute_loss, and detection with SSD.postprocess_detections.
torchvision's own settings are set to SSD's: overlap 0.5, 3 negatives, score 0.01, NMS 0.45, top 400, 200 kept. Prints
the table and writes it to FOLDER/<date>-detection-layers-<device>.md.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import boxes as box_ops

from pyscratchdet import __version__
from pyscratchdet.boxes.priors import aspect_ratios, prior_boxes, prior_sizes
from pyscratchdet.errors import counted
from pyscratchdet.files import write_text
from pyscratchdet.layers.base import Context
from pyscratchdet.layers.detection_output import DetectionOutput
from pyscratchdet.layers.multibox_loss import MultiBoxLoss
from pyscratchdet.proto import caffe_pb2

SIZE = 300
MAPS = [
    (38, 8, 30, 60, [2]),
    (19, 16, 60, 111, [2, 3]),
    (10, 32, 111, 162, [2, 3]),
    (5, 64, 162, 213, [2, 3]),
    (3, 100, 213, 264, [2]),
    (1, 300, 264, 315, [2]),
]


def ssd_priors() -> torch.Tensor:
    parts = []
    for cells, step, low, high, ratios in MAPS:
        sizes = prior_sizes([low], [high], aspect_ratios(ratios, True))
        parts.append(prior_boxes(sizes, (cells, cells), (SIZE, SIZE), (step, step)))
    boxes = np.concatenate(parts)
    variances = np.broadcast_to(np.float32([0.1, 0.1, 0.2, 0.2]), boxes.shape)
    return torch.from_numpy(np.stack([boxes.reshape(-1), variances.reshape(-1)])[None])


def objects(batch: int, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    rows = []
    for image in range(batch):
        for instance in range(int(rng.integers(1, 12))):
            low, size = rng.uniform(0, 0.7, 2), rng.uniform(0.05, 0.3, 2)
            rows.append([image, rng.integers(1, num_classes), instance, *low, *(low + size), 0])
    return np.array(rows, np.float32)


class Torchvision:
    """torchvision's SSD without its network: the same loss and post-processing on given predictions."""

    def __init__(self, priors: torch.Tensor, num_classes: int) -> None:
        self.model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes)
        self.model.eval()
        self.anchors = priors[0, 0].reshape(-1, 4) * SIZE

    def loss(self, loc: torch.Tensor, conf: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Matches each image's objects (rows of a label blob) and returns the sum of both losses."""
        targets, matched = [], []
        for image in range(len(loc)):
            rows = label[label[:, 0] == image]
            targets.append({"boxes": rows[:, 3:7] * SIZE, "labels": rows[:, 1].long()})
            quality = box_ops.box_iou(targets[-1]["boxes"], self.anchors)
            matched.append(self.model.proposal_matcher(quality))
        outputs = {"bbox_regression": loc, "cls_logits": conf}
        losses = self.model.compute_loss(targets, outputs, [self.anchors] * len(loc), matched)
        return losses["bbox_regression"] + losses["classification"]

    def detect(self, loc: torch.Tensor, conf: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Returns each image's detections."""
        images = ImageList(torch.empty(len(loc), 0), [(SIZE, SIZE)] * len(loc))
        outputs = {"bbox_regression": loc, "cls_logits": conf}
        return self.model.postprocess_detections(outputs, [self.anchors] * len(loc), images.image_sizes)


def layer(cls: type, num_classes: int) -> MultiBoxLoss | DetectionOutput:
    param = caffe_pb2.LayerParameter(name="layer")
    own = param.multibox_loss_param if cls is MultiBoxLoss else param.detection_output_param
    own.num_classes, own.code_type = num_classes, caffe_pb2.PriorBoxParameter.CENTER_SIZE
    if cls is DetectionOutput:
        own.nms_param.nms_threshold, own.nms_param.top_k = 0.45, 400
        own.keep_top_k, own.confidence_threshold = 200, 0.01
    made = cls(param, Context())
    made.setup([()] * (4 if cls is MultiBoxLoss else 3))
    return made


def median_ms(work: Callable[[], object], repeat: int, device: str) -> float:
    times = []
    for _ in range(repeat + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]) * 1e3


def measure(batch: int, num_classes: int, device: str, repeat: int) -> list[tuple[str, int, float, float]]:
    rng, random = np.random.default_rng(7), torch.Generator().manual_seed(7)
    priors = ssd_priors().to(device)
    number = priors.shape[2] // 4
    label = torch.from_numpy(objects(batch, num_classes, rng)).to(device)
    loc = torch.randn(batch, number, 4, generator=random).to(device)
    conf = torch.randn(batch, number, num_classes, generator=random).to(device)
    spread = conf.clone()
    spread[..., 0] += 8  # as in a trained net: background nearly everywhere
    peer, loss, output = (
        Torchvision(priors, num_classes),
        layer(MultiBoxLoss, num_classes),
        layer(DetectionOutput, num_classes),
    )

    def ours_loss() -> None:
        own_loc, own_conf = loc.flatten(1).requires_grad_(), conf.flatten(1).requires_grad_()
        loss.forward([own_loc, own_conf, priors, label[None, None]], [])[0].backward()

    def peer_loss() -> None:
        own_loc, own_conf = loc.clone().requires_grad_(), conf.clone().requires_grad_()
        peer.loss(own_loc, own_conf, label).backward()

    def ours_detect(scores: torch.Tensor) -> None:
        output.forward([loc.flatten(1), scores.softmax(-1).flatten(1), priors], [])

    def row(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[str, int, float, float]:
        return name, num_classes, median_ms(ours, repeat, device), median_ms(theirs, repeat, device)

    rows = [row("loss, forward and backward", ours_loss, peer_loss)]
    with torch.no_grad():
        for name, scores in (("detection, random scores", conf), ("detection, background prevails", spread)):
            rows.append(row(name, lambda s=scores: ours_detect(s), lambda s=scores: peer.detect(loc, s)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    rows = [row for classes in (21, 81) for row in measure(args.batch, classes, args.device, args.repeat)]
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()} CPU"
    lines = [
        f"# Detection layers against torchvision, {date.today()}",
        "",
        f"pyscratchdet {__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}, {machine}, "
        f"{counted(torch.get_num_threads(), 'thread')}; batch {args.batch}, 8732 priors, "
        f"median of {args.repeat} in milliseconds.",
        "",
        "| what | classes | pyscratchdet | torchvision | times faster |",
        "|---|---:|---:|---:|---:|",
        *(f"| {name} | {n} | {ours:.1f} | {peer:.1f} | {peer / ours:.1f} |" for name, n, ours, peer in rows),
    ]
    print("\n".join(lines))
    write_text(args.output / f"{date.today()}-detection-layers-{args.device}.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
