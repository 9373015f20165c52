"""Signs that the training of a detector goes wrong, each said when it is first seen and with what to try.

The losses are asked how many priors they match, and tests where their detections are. Nothing is computed for it that
is not there anyway, and nothing changes.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyscratchdet.boxes.overlap import area, pairwise_jaccard
from pyscratchdet.errors import counted
from pyscratchdet.runtime import LayerModule, Net
from pyscratchdet.solver.meter import SolverEvent
from pyscratchdet.solver.solver import Solver

_WINDOW = 50  # passes: with a box in every tenth picture and batches of one, 0.9^50 = 0.5 % have none
# SSD matches about five priors to a box. One is what every box gets, however little they overlap.
_FEW_PRIORS = 1.25
# The same box: detections overlap their median box this much, an object of their own picture less than good detections
# do, and hardly more, nor in more pictures by an IoU of 0.5, than the median box would. Measured: 0.72, 0.35,
# 0.35 - 0.44 and 0.96, 0.53, 0.53 - 0.54 for nets that answer one central box; 0.06, 0.52, 0.52 - 0.31 for one that
# begins to learn; 0.05, 0.78, 0.78 - 0.20 later. Objects that fill their pictures: 0.80, 0.55, 0.55 - 0.59 (0.00 more
# pictures) at first, 0.69, 0.68, 0.68 - 0.58 (0.15 more) with a mAP of 0.79.
_LIKE, _RIGHT, _BETTER, _FOUND = 0.6, 0.7, 0.1, 0.5
_FEWEST_PICTURES = 10
_SAME_BOX = "the same box everywhere"

_log = logging.getLogger(__name__)


def watch(solver: Solver) -> list[DetectionSpread]:
    """Watches the losses of a solver's train net and the detections of its tests; returns what watches the first."""
    for module in solver.net.layers:
        if module.layer_type == "MultiBoxLoss":
            MatchWatch(solver.net, module)
    first: list[DetectionSpread] = []
    for index, net in enumerate(solver.test_nets):
        spreads = [DetectionSpread(module, index) for module in net.layers if module.layer_type == "DetectionEvaluate"]
        solver.test_listeners += spreads
        first = first or spreads
    return first


class MatchWatch:
    """Warns if a MultiBoxLoss layer matches no prior for 50 passes, or hardly more than one to a box.

    Args:
        net: The train net.
        module: The layer.
    """

    def __init__(self, net: Net, module: LayerModule) -> None:
        self._net = net
        self._start()
        self._handle = module.register_forward_hook(self._take)

    def _start(self) -> None:
        self._passes = self._objects = self._positives = 0

    def _take(self, module: LayerModule, bottoms: tuple[Tensor, ...], tops: Any) -> None:
        layer: Any = module.layer
        self._passes += 1
        self._objects += layer.matches[0]
        self._positives += layer.matches[1]
        if self._passes < _WINDOW:
            return
        rows = bottoms[3].detach().reshape(-1, 8).float().cpu()
        boxes = rows[rows[:, 0] != -1, 3:7]
        priors = bottoms[2].detach().reshape(2, -1, 4)[0].float().cpu()
        if what := self._finding(layer, boxes, priors):
            _log.warning(f'layer "{module.name}" (MultiBoxLoss): {what}{self._sizes(boxes, priors)}')
            self._handle.remove()
        self._start()

    def _finding(self, layer: Any, boxes: Tensor, priors: Tensor) -> str:
        """Returns what is wrong; boxes and priors are those of the last batch."""
        if not self._objects:
            return (
                f"no picture of {self._passes} batches has a box, so nothing is learned but background; check the "
                "annotations (pyscratchdet lmdb show) and the batch samplers, which may cut all boxes away"
            )
        number = counted(self._objects, "box", "boxes")
        if not self._positives:
            return (
                f"none of {number} in {self._passes} batches is matched by any prior, so nothing is learned but "
                "background; set min_size and max_size by the sizes of the boxes"
            )
        if layer.is_mining_hard or self._positives >= _FEW_PRIORS * self._objects or not len(boxes):
            return ""
        overlaps = pairwise_jaccard(boxes[:, None], priors, area(boxes)[:, None], area(priors))
        best = float(overlaps.max(1).values.median())
        if best >= layer.loss_param.overlap_threshold:
            return ""
        return (
            f"{number} in {self._passes} batches are matched by {self._positives} priors, hardly one each: the "
            f"best IoU of a box with a prior is {best:.2f} (median), below overlap_threshold "
            f"{layer.loss_param.overlap_threshold:.2f}; set min_size, max_size and aspect_ratio by the sizes of the "
            "boxes"
        )

    def _sizes(self, boxes: Tensor, priors: Tensor) -> str:
        """Returns the sizes of boxes and priors in pixels of the net's input, as far as they are known."""
        scale = self._input_size()
        if scale is None or not len(boxes):
            return ""
        median = ((boxes[:, 2:] - boxes[:, :2]) * scale).median(0).values
        sizes = (priors[:, 2:] - priors[:, :2]) * scale
        small, large = sizes[sizes.prod(1).argmin()], sizes[sizes.prod(1).argmax()]
        return (
            f": boxes of a batch {_size(median)} (median), "
            f"priors {_size(small)} to {_size(large)}, in pixels of an input of {_size(scale)}"
        )

    def _input_size(self) -> Tensor | None:
        """Returns width and height of the pictures that priors are made for."""
        shapes = self._net.plan.shapes
        nodes = [module.node for module in self._net.layers if module.layer_type == "PriorBox"]
        shape = shapes[nodes[0].bottoms[1]] if nodes else None
        return torch.tensor([shape[3], shape[2]], dtype=torch.float32) if shape else None


class DetectionSpread:
    """Looks after a test at the best detection of each picture: nothing found, or the same box everywhere.

    Nothing is said about the test before the first iteration. A finding is said again only after it was gone.

    Args:
        module: A DetectionEvaluate layer.
        test_net: The number of its test net.

    Attributes:
        is_blind: Whether the last test showed the same box everywhere.
    """

    def __init__(self, module: LayerModule, test_net: int) -> None:
        self._module, self._test_net = module, test_net
        self._said = ""
        self.is_blind = False
        self._start()
        module.register_forward_hook(self._take)

    def _start(self) -> None:
        self._pictures = 0
        self._found: list[np.ndarray] = []  # the best box of each picture with a detection: (4,)
        self._objects: list[np.ndarray] = []  # its objects: (T, 4)

    def __call__(self, event: SolverEvent) -> None:
        """Says what a test has shown."""
        if event.test_net != self._test_net:
            return
        kind, text = self._finding() if event.iteration and self._pictures >= _FEWEST_PICTURES else ("", "")
        if kind and kind != self._said:
            _log.warning(f'Iteration {event.iteration}, layer "{self._module.name}": {text}')
        elif self._said and not kind:
            _log.info(f'Iteration {event.iteration}, layer "{self._module.name}": {self._said} no longer')
        self._said, self.is_blind = kind, kind == _SAME_BOX
        self._start()

    def _take(self, module: LayerModule, bottoms: tuple[Tensor, ...], tops: Any) -> None:
        rows = bottoms[0].detach().reshape(-1, 7).float().cpu().numpy()
        truth = bottoms[1].detach().reshape(-1, 8).float().cpu().numpy()
        truth = truth[truth[:, 0] != -1]
        self._pictures += len({*rows[:, 0], *truth[:, 0]} - {-1.0})
        rows = rows[(rows[:, 0] != -1) & (rows[:, 1] != -1)]
        for picture in np.unique(rows[:, 0]):
            own = rows[rows[:, 0] == picture]
            self._found.append(own[own[:, 2].argmax(), 3:7])
            self._objects.append(truth[truth[:, 0] == picture, 3:7])

    def _finding(self) -> tuple[str, str]:
        if not self._found:
            return "no detections", (
                f"no detections in {self._pictures} pictures: everything is background to the net so far; train "
                "longer, look whether the loss falls, and whether confidence_threshold of DetectionOutput is low (0.01)"
            )
        found = np.stack(self._found)
        middle = np.median(found, 0).astype(found.dtype)
        alike = float(np.median(_overlaps(middle, found)))
        pairs = [(box, objects) for box, objects in zip(found, self._objects, strict=True) if len(objects)]
        if len(pairs) < _FEWEST_PICTURES or alike < _LIKE:
            return "", ""
        own, one = (
            np.array([_overlaps(box, objects).max() for box, objects in answers])
            for answers in (pairs, [(middle, objects) for _, objects in pairs])
        )
        right, as_well = own.mean(), one.mean()
        more = max(right - as_well, (own >= _FOUND).mean() - (one >= _FOUND).mean())
        if right >= _RIGHT or more >= _BETTER:
            return "", ""
        box = ", ".join(f"{value:.2f}" for value in middle)
        return _SAME_BOX, (
            f"nearly the same box in all {len(found)} pictures, about ({box}), with a median IoU of {alike:.2f}. It "
            f"overlaps an object of its picture by {right:.2f} on average; one box for all would by {as_well:.2f}. The "
            "net has learned where objects are on average and does not look at the pictures: its mAP means nothing. "
            "Train longer; if that does not help: moving_average_fraction of "
            "BatchNorm (0.98 below 2000 iterations), the rate (warm up to a higher one), fewer crops, less expansion"
        )


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the IoU of a box (4,) with others (N, 4): (N,)."""
    one, many = torch.from_numpy(box), torch.from_numpy(others)
    overlaps: np.ndarray = pairwise_jaccard(one, many, area(one), area(many)).numpy()
    return overlaps


def _size(pixels: Tensor) -> str:
    return f"{pixels[0]:.0f}x{pixels[1]:.0f}"
