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
# Boxes of trained detectors are as like each other as the objects are: on public sets 0.2 to 0.6.
_LIKE, _MORE_LIKE = 0.8, 0.15
_FEWEST_PICTURES = 10

_log = logging.getLogger(__name__)


def watch(solver: Solver) -> None:
    """Watches the losses of a solver's train net and the detections of its tests."""
    for module in solver.net.layers:
        if module.layer_type == "MultiBoxLoss":
            MatchWatch(solver.net, module)
    for index, net in enumerate(solver.test_nets):
        solver.test_listeners += [
            DetectionSpread(module, index) for module in net.layers if module.layer_type == "DetectionEvaluate"
        ]


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
    """

    def __init__(self, module: LayerModule, test_net: int) -> None:
        self._module, self._test_net = module, test_net
        self._said = ""
        self._start()
        module.register_forward_hook(self._take)

    def _start(self) -> None:
        self._pictures = 0
        self._found: list[np.ndarray] = []
        self._objects: list[np.ndarray] = []

    def __call__(self, event: SolverEvent) -> None:
        """Says what a test has shown."""
        if event.test_net != self._test_net:
            return
        kind, text = self._finding() if event.iteration and self._pictures >= _FEWEST_PICTURES else ("", "")
        if kind and kind != self._said:
            _log.warning(f'Iteration {event.iteration}, layer "{self._module.name}": {text}')
        elif self._said and not kind:
            _log.info(f'Iteration {event.iteration}, layer "{self._module.name}": {self._said} no longer')
        self._said = kind
        self._start()

    def _take(self, module: LayerModule, bottoms: tuple[Tensor, ...], tops: Any) -> None:
        rows = bottoms[0].detach().reshape(-1, 7).float().cpu().numpy()
        truth = bottoms[1].detach().reshape(-1, 8).float().cpu().numpy()
        truth = truth[truth[:, 0] != -1]
        self._pictures += len({*rows[:, 0], *truth[:, 0]} - {-1.0})
        rows = rows[(rows[:, 0] != -1) & (rows[:, 1] != -1)]
        self._found.append(_best(rows[:, 0], rows[:, 2], rows[:, 3:7]))
        sizes = (truth[:, 5] - truth[:, 3]) * (truth[:, 6] - truth[:, 4])
        self._objects.append(_best(truth[:, 0], sizes, truth[:, 3:7]))

    def _finding(self) -> tuple[str, str]:
        found = np.concatenate(self._found)
        if not len(found):
            return "no detections", (
                f"no detections in {self._pictures} pictures: everything is background to the net so far; train "
                "longer, look whether the loss falls, and whether confidence_threshold of DetectionOutput is low (0.01)"
            )
        alike, wanted = likeness(found), likeness(np.concatenate(self._objects))
        if len(found) < _FEWEST_PICTURES or alike < _LIKE or alike - wanted < _MORE_LIKE:
            return "", ""
        box = ", ".join(f"{value:.2f}" for value in np.median(found, 0))
        return "the same box everywhere", (
            f"the same box in all {len(found)} pictures, about ({box}): a median IoU of {alike:.2f}, where the "
            f"objects' is {wanted:.2f}. The net has learned where objects are on average and does not look at the "
            "pictures, so its mAP tells nothing. Train longer; if that does not help: moving_average_fraction of "
            "BatchNorm (0.98 below 2000 iterations), the rate (warm up to a higher one), fewer crops, less expansion"
        )


def likeness(boxes: np.ndarray) -> float:
    """Returns the median IoU of boxes (N, 4) with the box of their median coordinates; 0 for no box."""
    if not len(boxes):
        return 0.0
    each, middle = torch.from_numpy(boxes), torch.from_numpy(np.median(boxes, 0).astype(boxes.dtype))[None]
    return float(pairwise_jaccard(each, middle, area(each), area(middle)).median())


def _best(pictures: np.ndarray, values: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the box of the highest value of each picture: (N, 4)."""
    order = np.lexsort((-values, pictures))
    first = np.unique(pictures[order], return_index=True)[1]
    return boxes[order[first]]


def _size(pixels: Tensor) -> str:
    return f"{pixels[0]:.0f}x{pixels[1]:.0f}"
