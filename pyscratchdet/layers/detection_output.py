"""DetectionOutput (detection_output_layer.cpp), with the bottoms that RefineDet adds."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pyscratchdet.errors import ConversionError, FileError
from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, register
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.layers.prior_box import OTHER_PRIORS
from pyscratchdet.layers.source_text import call_text, float_text
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto import caffe_pb2

if TYPE_CHECKING:
    from pyscratchdet.boxes.detection import DetectionRule, Detections, Predictions
    from pyscratchdet.boxes.result_files import ResultFiles

CENTER_SIZE = caffe_pb2.PriorBoxParameter.CENTER_SIZE
CORNER = caffe_pb2.PriorBoxParameter.CORNER
CORNER_SIZE = caffe_pb2.PriorBoxParameter.CORNER_SIZE
FLT_MAX = float(np.finfo(np.float32).max)
_MOST_OVERLAPS = 1 << 28  # of one picture, in PyTorch source: a GB each in several copies

_log = logging.getLogger(__name__)


@register("DetectionOutput")
class DetectionOutput(Layer):
    """Detections after decoding, thresholds and non-maximum suppression.

    Bottoms: mbox_loc (N, P * L * 4), mbox_conf (N, P * C) after softmax or sigmoid, mbox_priorbox (1, 2, P * 4), and
    for RefineDet arm_conf (N, P * 2) and arm_loc (N, P * 4). Top: (1, 1, S, 7) rows image, label, score, xmin, ymin,
    xmax, ymax, ordered by image, label, score; boxes are normalised and not clipped, unless OpenCV's field `clip` says
    so (it clips decoded boxes, so that suppression sees what is inside the picture). Without any detection, one row
    (image, -1, -1, -1, -1, -1, -1) per image. Before the first forward pass S is 1.

    With `save_output_param` results are written to files after every `num_test_image` pictures, if the caller lets the
    net write (`Context.writes`); its files are read and its folder is made when they are needed, not when the net is
    built. `visualize` draws nothing here (the command `detect` does); the picture, which is then a fourth bottom, is
    ignored.
    """

    bottoms: ClassVar[Count] = Count(3, 5)
    fork_fields: ClassVar[frozenset[str]] = frozenset({"detection_output_param.clip"})
    no_gradient: ClassVar[frozenset[int]] = frozenset(range(5))
    makes_detections: ClassVar[bool] = True

    @property
    def num_labels(self) -> int:
        """How many labels there are, with the background."""
        return int(self.param.detection_output_param.num_classes)

    @property
    def background_label(self) -> int:
        """The label of what is no object; -1 where there is none."""
        return int(self.param.detection_output_param.background_label_id)

    @property
    def confidence_threshold(self) -> float:
        """The score above which there are detections."""
        return float(self.param.detection_output_param.confidence_threshold)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        param = self.output_param = self.param.detection_output_param
        if not param.HasField("num_classes") or param.num_classes < 1:
            raise self.fail("num_classes is missing", "num-classes", expected="at least 1", found=param.num_classes)
        nms = param.nms_param
        if not nms.nms_threshold >= 0:
            raise self.fail("nms_threshold must not be negative", "nms-threshold", found=nms.nms_threshold)
        if not 0 < nms.eta <= 1:
            raise self.fail("eta must be in (0, 1]", "eta", found=nms.eta)
        self.has_picture = bool(param.visualize) and len(bottoms) == 4 and self._is_picture(bottoms)
        if param.visualize:
            _log.warning('layer "%s": visualize draws nothing here; use the detect command', self.name)
        if len(bottoms) == 5 and not param.share_location:
            raise self.fail("refined priors (5 bottoms) need share_location: true", "share-location")
        save = param.save_output_param
        self.saves = bool(save.output_directory and save.label_map_file and save.name_size_file)
        if self.saves and save.output_format not in ("VOC", "COCO", "ILSVRC"):
            raise self.fail(
                "unknown output_format", "output-format", expected="VOC, COCO or ILSVRC", found=save.output_format
            )
        self._files: ResultFiles | None = None

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        param = self.output_param
        channels = legacy_shape(self, bottoms[2])
        if channels[1] != 2 or channels[2] % 4:
            raise self.fail(
                "the priors have the wrong shape", "priors", expected="(1, 2, priors * 4)", found=bottoms[2]
            )
        batch, priors = bottoms[0][:1], channels[2] // 4
        self.num_priors = priors
        loc_classes = 1 if param.share_location else param.num_classes
        wanted = [("location", 4 * loc_classes, 0), ("confidence", param.num_classes, 1)]
        wanted += [("arm_conf", 2, 3), ("arm_loc", 4, 4)][: 0 if self.has_picture else len(bottoms) - 3]
        for what, each, index in wanted:
            shape = legacy_shape(self, bottoms[index])
            if bottoms[index][:1] != batch or shape[1] != priors * each or shape[2:] != (1, 1):
                raise self.fail(
                    f"the number of priors does not fit the {what} predictions",
                    "num-priors",
                    expected=f"{(*batch, priors * each)}, {priors} priors * {each}",
                    found=bottoms[index],
                    hint=OTHER_PRIORS,
                )
        return [(1, 1, 1, 7)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        from pyscratchdet.boxes.detection import detect

        num_images = len(bottoms[0])
        detections = detect(self._predictions(bottoms), self.rule())
        self.save(detections, num_images)
        if len(detections.label):
            return [detections.table()[None, None]]
        nothing = torch.full((1, 1, num_images, 7), -1.0, device=bottoms[0].device)
        nothing[..., 0] = torch.arange(num_images, device=nothing.device)
        return [nothing]

    def save(self, detections: Detections, num_images: int) -> None:
        """Adds the detections of the next pictures to the result files, if there are any and the net may write them."""
        if self.saves and self.may_write(self.output_param.save_output_param.output_directory):
            self._result_files().add(detections, num_images)

    def rule(self) -> DetectionRule:
        """Returns the layer's parameters in the form that `boxes.detection.detect` takes."""
        from pyscratchdet.boxes.detection import DetectionRule

        param = self.output_param
        threshold = param.confidence_threshold if param.HasField("confidence_threshold") else -FLT_MAX
        return DetectionRule(
            num_classes=param.num_classes,
            background=param.background_label_id,
            code_type=param.code_type,
            plain=param.variance_encoded_in_target,
            score_threshold=threshold,
            nms_threshold=param.nms_param.nms_threshold,
            eta=param.nms_param.eta,
            top_k=param.nms_param.top_k if param.nms_param.HasField("top_k") else -1,
            keep_top_k=param.keep_top_k,
            objectness=param.objectness_score,
            clip=param.clip,
        )

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        """Adds decoding, NonMaxSuppression and the cuts, in standard operators.

        The rows and their order are those of the layer, with two exceptions. Among equal scores the engine's TopK
        chooses (onnxruntime's takes the lowest label and prior). And exp runs in float32, since many engines have no
        double, so coordinates may differ in their last bit.
        """
        return [self._onnx_detections(graph, bottoms).rows()]

    def onnx_fixed(self, graph: OnnxGraph, bottoms: Sequence[str]) -> list[str]:
        """Adds the same, but with a number of rows that does not depend on the pictures: (1, 1, N * K, 7).

        K is keep_top_k, or the number that NMS can keep at most if that is less. Each image's rows come first; the rest
        are -1.
        """
        return [self._onnx_detections(graph, bottoms).fixed_rows()]

    def onnx_boxes(self, graph: OnnxGraph, bottoms: Sequence[str]) -> list[str]:
        """Adds decoding only: boxes (N, P, 4), or (N, P, C, 4) if each class has its own; scores (N, P, C).

        Scores of priors that the ARM rejects are 1 for class 0 and 0 for all others.
        """
        return self._onnx_detections(graph, bottoms).boxes_and_scores()

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.boxes.static_detection import detected_rows

        return [call_text(text.part(detected_rows), *self.torch_source_fixed(text, bottoms), f"len({bottoms[0]})")]

    def torch_source_fixed(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        """Like `onnx_fixed`."""
        from pyscratchdet.boxes.static_detection import fixed_detections

        rule = self.rule()
        if rule.eta < 1 and rule.nms_threshold > 0.5:
            raise self.no_torch_source("this form has no adaptive threshold (eta)")
        if rule.keep_top_k == 0 or rule.top_k == 0 or (rule.num_classes == 1 and rule.background == 0):
            raise self.no_torch_source("this layer can never detect anything")
        num_boxes = self.num_priors if rule.top_k < 0 else min(rule.top_k, self.num_priors)
        if num_boxes**2 * rule.num_classes > _MOST_OVERLAPS:
            raise self.no_torch_source(
                "this form compares all boxes of a picture at once, and these are too many",
                expected=f"a top_k of at most {math.isqrt(_MOST_OVERLAPS // rule.num_classes)}",
                found=num_boxes,
            )
        return [self._detection_call(text, fixed_detections, bottoms)]

    def torch_source_boxes(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        """Like `onnx_boxes`, but as one expression for both."""
        from pyscratchdet.boxes.static_detection import boxes_and_scores

        return [self._detection_call(text, boxes_and_scores, bottoms)]

    def _detection_call(self, text: SourceText, function: Callable[..., Any], bottoms: Sequence[str]) -> str:
        from pyscratchdet.boxes.detection import DetectionRule

        given = {field.name: getattr(self.rule(), field.name) for field in dataclasses.fields(DetectionRule)}
        texts = {name: float_text(value) if isinstance(value, float) else str(value) for name, value in given.items()}
        names = {CORNER: "CORNER", CENTER_SIZE: "CENTER_SIZE", CORNER_SIZE: "CORNER_SIZE"}
        texts["code_type"] = text.constant(names[given["code_type"]], given["code_type"])
        defaults = {field.name: str(field.default) for field in dataclasses.fields(DetectionRule)}
        options = {name: (value, defaults[name]) for name, value in texts.items()}
        rule = call_text(text.part(DetectionRule), **options)
        arm = [] if self.has_picture else bottoms[3:]
        return call_text(text.part(function), *bottoms[:3], rule, *arm)

    def _onnx_detections(self, graph: OnnxGraph, bottoms: Sequence[str]) -> _OnnxDetections:
        return _OnnxDetections(self, graph, bottoms[:3] if self.has_picture else bottoms)

    def _is_picture(self, bottoms: Sequence[Shape]) -> bool:
        return legacy_shape(self, bottoms[3])[2:] != (1, 1)

    def _predictions(self, bottoms: Sequence[Tensor]) -> Predictions:
        from pyscratchdet.boxes.detection import Predictions, objectness_scores

        param = self.output_param
        num_images, num_priors = len(bottoms[0]), bottoms[2].numel() // 8
        priors, variances = bottoms[2].detach().reshape(2, num_priors, 4).float()
        if param.code_type != CORNER and not bool((priors[:, 2:] > priors[:, :2]).all()):
            raise self.fail("a prior has no area", "priors", expected="xmin < xmax and ymin < ymax")
        loc, conf = bottoms[0].detach().float(), bottoms[1].detach().float()
        conf = conf.reshape(num_images, num_priors, param.num_classes)
        arm = [] if self.has_picture else [b.detach().float().reshape(num_images, num_priors, -1) for b in bottoms[3:]]
        if arm:
            conf = objectness_scores(conf, arm[0], param.objectness_score)
        return Predictions(
            loc.reshape(num_images, num_priors, -1, 4), conf, priors, variances, arm[1] if len(arm) > 1 else None
        )

    def _result_files(self) -> ResultFiles:
        from pyscratchdet.boxes.result_files import ResultFiles, read_name_sizes
        from pyscratchdet.data.label_map import label_to_name, read_label_map

        if self._files is not None:
            return self._files
        param, save = self.output_param, self.output_param.save_output_param
        root = Path(self.context.root)
        map_file = root / save.label_map_file
        names = label_to_name(read_label_map(map_file), strict=True, path=map_file)
        pictures = read_name_sizes(root / save.name_size_file)
        number = save.num_test_image if save.HasField("num_test_image") else len(pictures)
        if not 1 <= number <= len(pictures):
            raise FileError(
                f"{save.name_size_file} has fewer pictures than num_test_image says",
                code="file.name-size",
                layer=self.name,
                layer_type=self.type,
                expected=f"at least {max(number, 1)}",
                found=len(pictures),
            )
        self._files = ResultFiles(
            folder=root / save.output_directory,
            prefix=save.output_name_prefix,
            format=save.output_format,
            pictures=pictures[:number],
            names=names,
            background=param.background_label_id,
            num_classes=param.num_classes,
            resize=save.resize_param if save.HasField("resize_param") else None,
        )
        return self._files

    def opencv_difference(self) -> str:
        has_arm = len(self.param.bottom) > 3
        return "OpenCV ignores the fourth and fifth bottom, RefineDet's ARM" if has_arm else ""


class _OnnxDetections:
    """Writes one DetectionOutput in ONNX operators. Shapes in comments; F classes besides the background, K rows.

    Only what onnxruntime, OpenVINO, OpenCV 5, MNN and TensorRT compute alike is used: no Compress, nothing that may be
    empty after NonMaxSuppression, no order among equal keys.
    """

    def __init__(self, layer: DetectionOutput, graph: OnnxGraph, bottoms: Sequence[str]) -> None:
        self.layer, self.graph, self.bottoms = layer, graph, bottoms
        self.rule = layer.rule()
        self.num_priors = graph.shape(bottoms[2])[2] // 4
        self.classes = [label for label in range(self.rule.num_classes) if label != self.rule.background]
        self.shared = layer.output_param.share_location
        self.low = graph.constant(np.array(-FLT_MAX, np.float32), "low")

    def boxes_and_scores(self) -> list[str]:
        return [self._boxes(), self._scores()]

    def _boxes(self) -> str:
        """(N, P, 4), or (N, P, C, 4) if each class has its own locations."""
        boxes = self._decoded()
        return self._add("Clip", boxes, self._float(0), self._float(1)) if self.rule.clip else boxes

    def fixed_rows(self) -> str:
        real, table = self._table()
        count = self._add("Gather", self._add("Shape", real), self._scalar(0))
        image = self._add("Range", self._scalar(0), count, self._scalar(1))
        image = self._add("Cast", self._add("Unsqueeze", image, self._ints([1])), to=1)  # (N, 1)
        image = self._add("Where", real, image, self._minus_one())
        rows = self._add("Concat", self._add("Unsqueeze", image, self._ints([2])), table, axis=2)
        return self._reshape(rows, [1, 1, -1, 7])

    def rows(self) -> str:
        real, table = self._table()
        found = self._add("Cast", real, to=1)
        first = np.zeros((1, self.num_rows), np.float32)
        first[0, 0] = 1
        nothing = self._add("Sub", self._float(1), self._add("ReduceMax", found, keepdims=1))  # (1, 1)
        stand_in = self._add("Mul", nothing, self.graph.constant(first, "first"))
        found = self._add("Transpose", self._add("NonZero", self._add("Max", found, stand_in)), perm=[1, 0])  # (S, 2)
        image = self._add("Cast", self._add("Gather", found, self._ints([0]), axis=1), to=1)
        rows = self._add("Concat", image, self._add("GatherND", table, found), axis=1)
        return self._add("Unsqueeze", rows, self._ints([0, 1]))

    def _table(self) -> tuple[str, str]:
        """Returns which rows are detections (N, K) and label, score and box, -1 where there is none: (N, K, 6)."""
        if self.rule.eta < 1 and self.rule.nms_threshold > 0.5:
            raise self._no("NonMaxSuppression has no adaptive threshold (eta)")
        if self.rule.keep_top_k == 0 or self.rule.top_k == 0 or not self.classes:
            raise self._no("this layer can never detect anything")
        scores, boxes = self._of_classes(self._scores(), [0, 2, 1]), self._boxes()
        if not self.shared:
            boxes = self._of_classes(boxes, [0, 2, 1, 3])
        score, index = self._top(self._kept(scores, boxes), self.num_rows, axis=1)
        # Some engines' NMS keeps a score equal to the threshold, which is not a detection.
        real = self._add("Greater", score, self._float(self.rule.score_threshold))
        place, prior = self._divide(self._add("Where", real, index, self._ints([0])), self.num_priors + 1)
        order = self._order(real, place)
        real = self._add("Cast", self._taken(self._add("Cast", real, to=1), order), to=9)
        score, place, prior = (self._taken(value, order) for value in (score, place, prior))
        label = self._add("Cast", self._add("Gather", self._ints(self.classes, "classes"), place), to=1)
        columns = [self._add("Unsqueeze", value, self._ints([2])) for value in (label, score)]
        if not self.shared:
            prior = self._add("Add", self._add("Mul", place, self._ints([self.num_priors])), prior)
            boxes = self._reshape(boxes, [0, -1, 4])
        place = self._add("Expand", self._add("Unsqueeze", prior, self._ints([2])), self._ints([1, 1, 4]))
        table = self._add("Concat", *columns, self._taken(boxes, place), axis=2)
        return real, self._add("Where", self._add("Unsqueeze", real, self._ints([2])), table, self._minus_one())

    @property
    def num_rows(self) -> int:
        """K."""
        most = len(self.classes) * (min(self.rule.top_k, self.num_priors) if self.rule.top_k > 0 else self.num_priors)
        return min(self.rule.keep_top_k, most) if self.rule.keep_top_k > 0 else most

    def _scores(self) -> str:
        """(N, P, C)."""
        scores = self._reshape(self.bottoms[1], [0, self.num_priors, self.rule.num_classes])
        if len(self.bottoms) < 4:
            return scores
        arm = self._reshape(self.bottoms[3], [0, self.num_priors, 2])
        objects = self._add("Gather", arm, self._ints([1]), axis=2)
        certain = np.zeros((1, 1, self.rule.num_classes), np.float32)
        certain[..., 0] = 1
        low = self._add("Less", objects, self._float(self.layer.output_param.objectness_score))
        return self._add("Where", low, self.graph.constant(certain, "certain"), scores)

    def _decoded(self) -> str:
        """The same before clipping."""
        pair = self._reshape(self.bottoms[2], [2, self.num_priors, 4])
        priors, variances = self._split(pair, 2, axis=0)  # (1, P, 4)
        if len(self.bottoms) > 4:
            priors = self._decode(self._reshape(self.bottoms[4], [0, self.num_priors, 4]), priors, variances)
        if self.shared:
            return self._decode(self._reshape(self.bottoms[0], [0, self.num_priors, 4]), priors, variances)
        codes = self._reshape(self.bottoms[0], [0, self.num_priors, self.rule.num_classes, 4])
        priors, variances = (self._add("Unsqueeze", value, self._ints([2])) for value in (priors, variances))
        return self._decode(codes, priors, variances)

    def _of_classes(self, values: str, order: list[int]) -> str:
        """Leaves out the background's part of axis 2 and permutes the axes."""
        return self._add(
            "Transpose", self._add("Gather", values, self._ints(self.classes, "classes"), axis=2), perm=order
        )

    def _decode(self, codes: str, priors: str, variances: str) -> str:
        low, high = self._halves(priors)
        scaled = codes if self.rule.plain else self._add("Mul", variances, codes)
        if self.rule.code_type == CORNER:
            return self._add("Add", priors, scaled)
        sizes = self._add("Sub", high, low)
        if self.rule.code_type != CENTER_SIZE:
            return self._add("Add", priors, self._add("Mul", scaled, self._add("Concat", sizes, sizes, axis=-1)))
        half = self._float(0.5)
        offsets, logs = self._halves(scaled)
        centers = self._add("Mul", self._add("Add", low, high), half)
        centers = self._add("Add", self._add("Mul", offsets, sizes), centers)
        halves = self._add("Mul", self._add("Mul", self._add("Exp", logs), sizes), half)
        return self._add("Concat", self._add("Sub", centers, halves), self._add("Add", centers, halves), axis=-1)

    def _kept(self, scores: str, boxes: str) -> str:
        """Returns the scores that NMS keeps among very low numbers, (N, F * (P + 1)).

        The last place of each class stands for no prior. A row that points there keeps the result of NMS from being
        empty, which makes some engines fail.
        """
        if 0 < self.rule.top_k < self.num_priors:
            values, index = self._top(scores, self.rule.top_k, axis=2)
            scores = self._add("ScatterElements", self._add("Min", scores, self.low), index, values, axis=2)
        if self.rule.code_type != CENTER_SIZE:
            # NonMaxSuppression would swap the corners of boxes that have them the wrong way round; in Caffe they
            # overlap nothing.
            low, high = self._halves(boxes)
            boxes = self._add("Concat", low, self._add("Max", low, high), axis=-1)
        if not self.shared:
            boxes = self._reshape(boxes, [-1, self.num_priors, 4])
            scores = self._reshape(scores, [-1, 1, self.num_priors])
        if self.graph.open_batch:
            boxes = self._add("Reshape", boxes, self._found_late([-1, self.num_priors, 4], scores))
        limits = [self._float(value) for value in (min(self.rule.nms_threshold, 1.0), self.rule.score_threshold)]
        chosen = self._add("NonMaxSuppression", boxes, scores, self._ints([self.num_priors]), *limits)
        # Without the Reshape, OpenCV 5.0 fails in a Concat ("dims == inpDims") where a single box is chosen.
        none = self._ints([[0, 0, self.num_priors]], "no_prior")
        chosen = self._add("Concat", self._reshape(chosen, [-1, 3]), none, axis=0)
        padded = self._add("Pad", scores, self._ints([0, 0, 0, 0, 0, 1], "pads"), self.low)
        kept = self._add("GatherND", padded, chosen)
        kept = self._add("ScatterND", self._add("Min", padded, self.low), chosen, kept)
        return self._reshape(kept, [-1, len(self.classes) * (self.num_priors + 1)])

    def _found_late(self, values: list[int], rank_3: str) -> str:
        """Returns the values in a form that MNN's converter does not see through.

        It takes an open batch size for 1 and writes NonMaxSuppression out for a single image, unless it cannot tell the
        shape of an input. It cannot tell any of NonZero's result, not even the number of rows, which is the rank.

        Args:
            values: The values.
            rank_3: Any value with three axes that depends on the input.
        """
        single = self._add("Slice", rank_3, self._ints([0, 0, 0], "start"), self._ints([1, 1, 1], "end"))
        places = self._add("NonZero", self._add("Max", single, self._float(1)))  # (3, 1): never empty
        rank = self._add("Gather", self._add("Shape", places), self._ints([0]))
        return self._add("Add", rank, self._ints([value - 3 for value in values], "shape"))

    def _order(self, real: str, place: str) -> str:
        """Returns the order of the K rows of each image by label and score, by keys that are unique."""
        number = self.num_rows
        label = self._add("Sub", self._ints([len(self.classes)]), place)
        label = self._add("Where", real, label, self._ints([0]))
        falling = self._ints([list(range(number - 1, -1, -1))], "ranks")
        key = self._add("Add", self._add("Mul", label, self._ints([number])), falling)
        return self._top(key, number, axis=1)[1]

    def _top(self, values: str, number: int, axis: int) -> tuple[str, str]:
        best, index = self.graph.node("TopK", [values, self._ints([number])], 2, axis=axis)
        return best, index

    def _taken(self, values: str, index: str) -> str:
        return self._add("GatherElements", values, index, axis=1)

    def _divide(self, values: str, number: int) -> tuple[str, str]:
        whole = self._add("Div", values, self._ints([number]))
        return whole, self._add("Sub", values, self._add("Mul", whole, self._ints([number])))

    def _halves(self, values: str) -> list[str]:
        """Splits the last axis of 4 in two."""
        return self._split(values, 4, axis=-1)

    def _split(self, values: str, size: int, axis: int) -> list[str]:
        """Splits an axis of this size in two."""
        return self.graph.node("Split", [values, self._ints([size // 2] * 2)], 2, axis=axis)

    def _reshape(self, value: str, shape: list[int]) -> str:
        return self._add("Reshape", value, self._ints(shape, "shape"))

    def _add(self, op_type: str, *inputs: str, **attributes: object) -> str:
        return self.graph.node(op_type, inputs, 1, **attributes)[0]

    def _ints(self, values: list[int] | list[list[int]], name: str = "ints") -> str:
        return self.graph.constant(np.array(values, np.int64), name)

    def _scalar(self, value: int) -> str:
        return self.graph.constant(np.array(value, np.int64), "scalar")

    def _float(self, value: float) -> str:
        return self.graph.constant(np.array([value], np.float32), "number")

    def _minus_one(self) -> str:
        return self._float(-1)

    def _no(self, message: str) -> ConversionError:
        return ConversionError(message, code="onnx.detection-output", layer=self.layer.name, layer_type=self.layer.type)
