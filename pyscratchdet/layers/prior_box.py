"""PriorBox (prior_box_layer.cpp), in its forks' forms too, and OpenVINO's PriorBoxClustered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pyscratchdet.layers.base import Count, Layer, OnnxGraph, Shape, SourceText, exactly, register
from pyscratchdet.layers.loss import legacy_shape
from pyscratchdet.layers.source_text import call_text, float_text, tuple_text
from pyscratchdet.lazy import Tensor, torch
from pyscratchdet.proto.numbers import dialect_of_message

# Where as many predictions as another Caffe's priors need are given.
OTHER_PRIORS = (
    "if the net is TextBoxes's, prior_box_param.denser_prior_boxes: true makes two priors of each; if FaceBoxes's, "
    "--dialect faceboxes makes its own"
)
# FaceBoxes: the size of priors in pixels -> how many of them lie in a row, and how many pixels apart.
_FACE_DENSITIES = {32: (4, 8), 64: (2, 16)}


@register("PriorBox")
class PriorBox(Layer):
    """The prior boxes of a feature map, shared by all images of the batch.

    Bottoms: the feature map (N, C, H, W), of which only H and W matter, and the image (N, 3, H0, W0), which matters if
    `img_size` is not given. Top: (1, 2, H * W * K * 4), normalised corners in the first channel and variances in the
    second. No gradient.

    With TextBoxes++'s `denser_prior_boxes` each prior is followed by one like it at the lower border of the cell
    (Liao et al. 2018, section 3.2); the first TextBoxes makes those without saying so in the net. OpenVINO's
    `fixed_size` s puts `density` d rows of d square priors around the centre, s / d whole pixels apart and cut to the
    picture. sfzhang15/FaceBoxes writes no field of its own: under `--dialect faceboxes` sizes of 32 and 64 pixels are 4
    and 2 rows of as many priors, 8 and 16 pixels apart, and each is one pixel narrower (Zhang et al. 2017, section
    3.3).
    """

    reads_shapes: ClassVar[bool] = True
    fork_fields: ClassVar[frozenset[str]] = frozenset(
        f"prior_box_param.{name}" for name in ("denser_prior_boxes", "fixed_size", "density")
    )

    bottoms: ClassVar[Count] = exactly(2)
    no_gradient: ClassVar[frozenset[int]] = frozenset({0, 1})

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.sizes = self.prior_sizes()
        self.shifts: np.ndarray | None = None
        if dialect_of_message() == "faceboxes":
            self._make_dense()
        if self.param.prior_box_param.fixed_size:
            self.sizes, self.shifts = self._fixed()
        self.is_doubled = self.param.prior_box_param.denser_prior_boxes
        self.num_priors = len(self.sizes) * (1 + self.is_doubled)
        self.variances = self._variances()
        self.image_size = self._image_size()
        self.step = self._step()
        self._made: tuple[object, Tensor] | None = None

    def prior_sizes(self) -> np.ndarray:
        """Returns width and height in pixels of the priors of each place, in their order.

        Raises:
            LayerError: What says so is missing or not positive.
        """
        from pyscratchdet.boxes.priors import aspect_ratios, prior_sizes

        param = self.param.prior_box_param
        if not param.min_size and not param.fixed_size:
            raise self.fail("min_size is missing", "min-size")
        for size in param.min_size:
            self.require_positive("min_size", size, "min-size")
        for ratio in param.aspect_ratio:
            self.require_positive("aspect_ratio", ratio, "aspect-ratio")
        self._check_max_sizes()
        return prior_sizes(param.min_size, param.max_size, aspect_ratios(param.aspect_ratio, param.flip))

    def reshape(self, bottoms: Sequence[Shape]) -> list[Shape]:
        height, width = self._map_size(bottoms)
        if not height * width:
            raise self.fail("the feature map is empty", "shape", found=bottoms[0])
        self._image(bottoms)
        return [(1, 2, height * width * self.num_priors * 4)]

    def forward(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        shapes = [tuple(bottom.shape) for bottom in bottoms]
        key = (self._map_size(shapes), self._image(shapes), bottoms[0].device)
        if self._made is None or self._made[0] != key:
            self._made = (key, torch.from_numpy(self.priors(shapes)).to(bottoms[0].device))
        # A copy, because the caller may write to the top.
        return [self._made[1].clone()]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[str], blobs: Sequence[str]) -> list[str]:
        return [graph.constant(self.priors([graph.shape(bottom) for bottom in bottoms]), f"{self.name}_priors")]

    def torch_source(self, text: SourceText, bottoms: Sequence[str]) -> list[str]:
        from pyscratchdet.boxes.static_detection import prior_boxes_blob

        param = self.param.prior_box_param
        if self.shifts is not None or self.is_doubled:
            raise self.no_torch_source("only the original's priors have PyTorch source")
        image = f"{bottoms[1]}.shape[2:]" if self.image_size is None else tuple_text(self.image_size)
        return [
            call_text(
                text.part(prior_boxes_blob),
                bottoms[0],
                image,
                f"sizes={tuple_text(self.sizes.tolist())}",
                f"variances={tuple_text(self.variances)}",
                step=(tuple_text(self.step) if self.step else "None", "None"),
                offset=(float_text(param.offset), "0.5"),
                clip=(str(param.clip), "False"),
            )
        ]

    def priors(self, bottoms: Sequence[Shape]) -> np.ndarray:
        """Returns the top for bottoms of these shapes, float32."""
        from pyscratchdet.boxes.priors import prior_boxes

        param = self.param.prior_box_param
        fixed = (self._map_size(bottoms), self._image(bottoms), self.step)
        clips = param.clip or bool(param.fixed_size)
        boxes = prior_boxes(self.sizes, *fixed, param.offset, clips, self.shifts)
        if self.is_doubled:
            lower = prior_boxes(self.sizes, *fixed, (1.0, param.offset), clips, self.shifts)
            boxes = np.stack([boxes, lower], 1).reshape(-1, 4)
        variances = np.broadcast_to(np.array(self.variances, np.float32), boxes.shape)
        return np.stack([boxes.reshape(-1), variances.reshape(-1)])[None]

    def _make_dense(self) -> None:
        """Makes the priors those of FaceBoxes: several of a size around a centre, each a pixel narrower.

        Raises:
            LayerError: There are priors that it has no room for (21 of three sizes, else one of each).
        """
        from pyscratchdet.boxes.priors import dense_shifts

        rows = [_FACE_DENSITIES.get(int(size), (1, 0)) for size in self.sizes[:, 0]]
        shifts = [dense_shifts(density, apart, -(density // 2) * apart) for density, apart in rows]
        num_sizes = len(self.param.prior_box_param.min_size)
        room, number = 21 if num_sizes == 3 else num_sizes, sum(density**2 for density, _ in rows)
        if len(rows) != num_sizes or number != room:
            expected = "three min_size that give 21 priors, or none of 32 and 64; no max_size, no aspect_ratio"
            raise self.fail("FaceBoxes has no room for these priors", "dialect", expected=expected, found=number)
        self.sizes = np.repeat(self.sizes, [len(each) for each in shifts], axis=0) - np.float32(1)
        self.shifts = np.concatenate(shifts)

    def _fixed(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns sizes and shifts of the priors of `fixed_size`, in their order.

        Raises:
            LayerError: A size has no density, one is not positive, or there are other sizes or ratios, for which
                OpenVINO itself makes more priors than it counts.
        """
        from pyscratchdet.boxes.priors import dense_shifts

        param = self.param.prior_box_param
        others = [name for name in ("min_size", "max_size", "aspect_ratio") if getattr(param, name)]
        if others or len(param.density) != len(param.fixed_size):
            expected, found = f"{len(param.fixed_size)} density, and nothing else", [*param.density, *others]
            raise self.fail("each fixed_size needs a density", "density", expected=expected, found=found)
        sizes, shifts = [], []
        for size, density in zip(param.fixed_size, param.density, strict=False):
            for name, value in (("fixed_size", size), ("density", int(density))):
                self.require_positive(name, value, "fixed")
            # Whole pixels, as in OpenVINO.
            apart = int(size / int(density))
            shifts.append(dense_shifts(int(density), apart, apart / 2 - int(size) / 2))
            sizes.append(np.full(shifts[-1].shape, int(size), np.float32))
        return np.concatenate(sizes), np.concatenate(shifts)

    def _map_size(self, bottoms: Sequence[Shape]) -> tuple[int, int]:
        return legacy_shape(self, bottoms[0])[2:]  # type: ignore[return-value]

    def _image(self, bottoms: Sequence[Shape]) -> tuple[int, int]:
        height, width = self.image_size or legacy_shape(self, bottoms[1])[2:]
        if not height * width:
            raise self.fail("the image is empty", "shape", found=bottoms[1])
        return height, width

    def _check_max_sizes(self) -> None:
        param = self.param.prior_box_param
        if param.max_size and len(param.max_size) != len(param.min_size):
            raise self.fail(
                "max_size must be given for each min_size or not at all",
                "max-size",
                expected=len(param.min_size),
                found=len(param.max_size),
            )
        for low, high in zip(param.min_size, param.max_size, strict=False):
            if not high > low:
                raise self.fail("max_size must be greater than min_size", "max-size", expected=f"> {low}", found=high)

    def _variances(self) -> list[float]:
        given = list(self.param.prior_box_param.variance) or [0.1]
        if len(given) not in (1, 4):
            raise self.fail("wrong number of variances", "variance", expected="1 or 4", found=len(given))
        for value in given:
            self.require_positive("variance", value, "variance")
        return given

    def _image_size(self) -> tuple[int, int] | None:
        param = self.param.prior_box_param
        if param.HasField("img_h") or param.HasField("img_w"):
            if param.HasField("img_size"):
                raise self.fail("img_size and img_h/img_w exclude each other", "img-size")
            sizes = (param.img_h, param.img_w)
        elif param.HasField("img_size"):
            sizes = (param.img_size, param.img_size)
        else:
            return None
        for size in sizes:
            self.require_positive("the image size", size, "img-size")
        return sizes

    def _step(self) -> tuple[float, float] | None:
        param = self.param.prior_box_param
        if param.HasField("step_h") or param.HasField("step_w"):
            if param.HasField("step"):
                raise self.fail("step and step_h/step_w exclude each other", "step")
            steps = (param.step_h, param.step_w)
        elif param.HasField("step"):
            steps = (param.step, param.step)
        else:
            return None
        for step in steps:
            self.require_positive("step", step, "step")
        return steps

    def require_positive(self, what: str, value: float, rule: str) -> None:
        """Refuses a value that is not a positive number."""
        if not 0 < value < float("inf"):
            raise self.fail(f"{what} must be positive", rule, expected="> 0", found=value)

    def opencv_difference(self) -> str:
        param = self.param.prior_box_param
        if all(size == int(size) for size in (*param.min_size, *param.max_size)):
            return ""
        return "Caffe truncates min_size and max_size to whole pixels, OpenCV does not"


@register("PriorBoxClustered")
class PriorBoxClustered(PriorBox):
    """Priors of widths and heights that are given, such as the centres of clusters of true boxes.

    Like PriorBox, but each place has one prior of each `width` and `height`, in pixels of the image (OpenVINO,
    PriorBoxClustered-1).
    """

    fork_fields: ClassVar[frozenset[str]] = frozenset({"prior_box_param.width", "prior_box_param.height"})

    def prior_sizes(self) -> np.ndarray:
        param = self.param.prior_box_param
        if not param.width or len(param.width) != len(param.height):
            found = (len(param.width), len(param.height))
            raise self.fail("as many width as height are needed", "size", expected="at least 1 each", found=found)
        for name, sizes in (("width", param.width), ("height", param.height)):
            for size in sizes:
                self.require_positive(name, size, "size")
        return np.array([param.width, param.height], np.float32).T
